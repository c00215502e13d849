"""Every setting there is, in one table: its default, where that comes from, and what breaks with another value."""

from __future__ import annotations

from dataclasses import dataclass

from conntrackd_guard.core.model import INT_MAX, Addresses, Buckets, Mode
from conntrackd_guard.settings.types import (
    Kind,
    boolean,
    choice,
    command,
    count,
    duration,
    flood_answer,
    number,
    optional,
    path,
    percentage,
    port,
    share,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting."""

    name: str
    field: str
    """The attribute of `Policy` (or of `Settings`) that it sets."""
    kind: Kind
    default: str
    does: str
    source: str
    """Where the default comes from."""
    instead: tuple[tuple[str, str], ...]
    """Other values, each with what breaks then: half and double of a quantity, the other choice of a switch."""


_MOST = f"{INT_MAX:_}"

KEYS = (
    Key(
        name="mode", field="mode", kind=choice(Mode), default="act",
        does="act writes the limit; dry-run decides, records and logs what it would have written.",
        source="the guard is installed to raise.",
        instead=(("dry-run", "full tables go on dropping packets."),),
    ),
    Key(
        name="kernel_message", field="kernel_message", kind=boolean(), default="true",
        does="Raise when the kernel logs that a table is full.",
        source="the line is the kernel's own proof that packets are being dropped.",
        instead=(("false", "a table that fills between two looks drops until the next look."),),
    ),
    Key(
        name="raise_early", field="raise_early", kind=boolean(), default="true",
        does="Raise when a table is about to be full, before anything is dropped.",
        source="the kernel logs at most 10 lines in 5 s, shared by all its messages, so the line can stay out.",
        instead=(("false", "every raise comes after the first dropped packets, and none where the line stays out."),),
    ),
    Key(
        name="threshold", field="threshold", kind=percentage("35%", "95%"), default="80%",
        does="Use of the limit from which a table is under pressure, and under which a raise brings it.",
        source="judgement: below the 90% that confirms a full table and the 95% from which the kernel evicts entries.",
        instead=(
            ("40%", "raises come long before they are needed, and each promises twice the memory."),
            ("95%", "(the most) the kernel evicts before the guard acts; a burst fills the rest within one look."),
        ),
    ),
    Key(
        name="growth_factor", field="growth_factor", kind=number("1.01", "10"), default="1.5",
        does="A raise reaches at least this many times the limit, as far as the bounds below allow.",
        source="judgement: six steps make the limit eleven times as large, and a wrong step costs half a table.",
        instead=(
            ("1.25", "(half the growth) nearly twice the steps under steady growth, each a chance to drop."),
            ("2", "(double the growth) the last affordable step is missed sooner, and taken only in part."),
        ),
    ),
    Key(
        name="min_step", field="min_step", kind=count("1", "16_777_216"), default="8_192",
        does="A raise adds at least this many entries, so that small limits grow in useful steps.",
        source="judgement: about 5 MiB at 640 bytes an entry, the planning figure where slab sizes can't be read.",
        instead=(
            ("4_096", "a limit of 8,192 or less takes about twice the steps."),
            ("16_384", "about 10 MiB a step: a host of 512 MiB spends a fifth of its budget on one."),
        ),
    ),
    Key(
        name="lookahead", field="lookahead_seconds", kind=duration("0s", "1h"), default="30s",
        does="A raise leaves room for this long at the growth seen (this alone asks for 4 times the limit at most).",
        source="judgement: long enough for a person to read the log line before the next step.",
        instead=(
            ("15s", "twice as many steps under steady growth."),
            ("1min", "a short burst is answered with room that stays promised after it."),
        ),
    ),
    Key(
        name="budget", field="budget", kind=share("0.1%", "90%", "1MiB"), default="10%",
        does="The most that full tables and buckets may cost: a share of memory without huge pages, or a size.",
        source="judgement: entries are kernel memory that can be neither swapped nor limited by a cgroup.",
        instead=(
            ("5%", "a 1 GiB host stops raising near 90,000 entries and drops beyond that."),
            ("20%", "one flood can pin a fifth of memory until its entries time out."),
        ),
    ),
    Key(
        name="min_available", field="min_available", kind=optional("auto", share("1%", "90%", "1MiB")), default="auto",
        does="Memory that must stay available after the raised tables are full: auto, a share of memory or a size.",
        source="auto is 5% of memory, but 512 MiB at least, or 25% where that is less: judgement, for small hosts.",
        instead=(
            ("2.5%", "(half of auto's share) a full table can bring a busy small host to its OOM killer."),
            ("10%", "(double) hosts that use their memory well hold when they could have raised."),
        ),
    ),
    Key(
        name="max_limit", field="max_limit", kind=optional("none", count("1", _MOST)), default="none",
        does="The limit is never raised above this.",
        source="the budget bounds memory already; a number that fits every host does not exist.",
        instead=(("262_144", "hosts with that limit (the kernel's own from 4 GB up) are never raised at all."),),
    ),
    Key(
        name="on_flood", field="flood_max_limit", kind=flood_answer(_MOST), default="raise",
        does="What a flood gets (most of the table unanswered, by a sample): raise, hold, or raise_to N and no further.",
        source="not raising drops everybody's connections at once; and a sample may be wrong.",
        instead=(("hold", "a flood fills the table, and nobody else gets an entry until it ends or is filtered."),),
    ),
    Key(
        name="cooldown", field="cooldown_seconds", kind=duration("0s", "1h"), default="2s",
        does="Shortest time between two raises while no table is full.",
        source="judgement: eight looks at four a second show whether the last raise was enough.",
        instead=(
            ("1s", "half the looks: a second step may come before the first has shown its effect."),
            ("4s", "growth that doubles within seconds reaches the limit between two raises."),
        ),
    ),
    Key(
        name="cooldown_full", field="cooldown_full_seconds", kind=duration("0s", "1h"), default="200ms",
        does="Shortest time between two raises while a table is full again. At most settle.",
        source="a step made before demand is known can fill in less than 2 s, while packets drop.",
        instead=(
            ("100ms", "demand is measured over two looks only, and steps come out too large or too small."),
            ("400ms", "packets drop twice as long where one step was too small."),
        ),
    ),
    Key(
        name="max_raises", field="max_raises", kind=count("1", "1_000"), default="20",
        does="Raises that pressure may cause within raises_window. A table that drops is not held back by this.",
        source="judgement: 20 steps of half the limit are 3,325 times the limit; more is a fault, not traffic.",
        instead=(
            ("10", "slow growth in many small steps can be held until packets drop."),
            ("40", "a faulty trigger writes twice as often before it is stopped."),
        ),
    ),
    Key(
        name="max_raises_window", field="max_raises_window_seconds", kind=duration("1s", "1d"), default="10min",
        does="The time over which raises are counted.",
        source="judgement: longer than a burst, shorter than the time to be called and log in.",
        instead=(
            ("5min", "twice as many raises an hour are allowed."),
            ("20min", "a host that grew in small steps waits twice as long for the next."),
        ),
    ),
    Key(
        name="conflict_limit", field="conflict_limit", kind=count("0", "1_000"), default="3",
        does="After another writer lowered a raised limit this often, stop raising and say so. 0: never stop.",
        source="judgement: once may be a restart, twice a deployment; three times is another owner of the value.",
        instead=(
            ("1", "one restart of a program that sets the limit ends raising for a day."),
            ("6", "two owners overwrite each other twice as often, and connections drop each time."),
        ),
    ),
    Key(
        name="conflict_window", field="conflict_window_seconds", kind=duration("1min", "30d"), default="1d",
        does="The time over which those lowerings are counted.",
        source="judgement: daily runs of configuration tools are the usual other writer.",
        instead=(
            ("12h", "a tool that runs every 8 hours is never recognised."),
            ("2d", "three unrelated restarts within two days end raising."),
        ),
    ),
    Key(
        name="buckets", field="buckets", kind=choice(Buckets), default="keep",
        does="keep leaves the hash table alone and holds where chains grow too long; match enlarges it first.",
        source="a resize stops all traffic: gaps of 86 to 107 ms were measured with 200,000 entries.",
        instead=(("match", "each resize is such a gap, about 0.5 microseconds an entry."),),
    ),
    Key(
        name="trust_user_namespaces", field="trust_user_namespaces", kind=boolean(), default="false",
        does="Raise also for a table that belongs to a user namespace (rootless containers).",
        source="any user can make such a namespace and fill its table.",
        instead=(("true", "any user can have kernel memory set aside, up to the budget."),),
    ),
    Key(
        name="persist", field="persist", kind=boolean(), default="true",
        does="Keep the raised limit across a reboot, in a sysctl.d file of the guard's own.",
        source="a limit lost at reboot is among the commonest complaints.",
        instead=(("false", "after each reboot the host drops again until it has been raised again."),),
    ),
    Key(
        name="notify", field="notify", kind=optional("none", command()), default="none",
        does="The command that is run for each hold that only a person can end, with the decision as JSON on stdin.",
        source="whom to tell, and how, no program can know.",
        instead=(("/usr/local/sbin/page-on-call", "people are woken. Keep secrets in a file that the command reads."),),
    ),
    Key(
        name="metrics_file", field="metrics_file", kind=optional("none", path(".prom")), default="none",
        does="The file that metrics are written to, for node_exporter's textfile collector. None in a dry run.",
        source="whether a node_exporter runs, and where it looks, differs from host to host.",
        instead=((
            "/var/lib/prometheus/node-exporter/guard.prom",
            "(where Debian's node_exporter looks) the unit must be allowed to write there: see the README.",
        ),),
    ),
    Key(
        name="metrics_http", field="metrics_port", kind=optional("none", port()), default="none",
        does="The port on 127.0.0.1 where metrics are served over HTTP. None in a dry run.",
        source="the unit has no network, and a file does for most.",
        instead=(("9786", "(any free port) every user of this host can read the metrics."),),
    ),
    Key(
        name="sample_entries", field="sample_entries", kind=count("0", "50_000"), default="5_000",
        does="Entries read of a full table after a raise, or a hold that only a person can end, to tell who fills it.",
        source="shares are then within 1.4 points; reading them takes some 35 ms, and never more than 100 ms.",
        instead=(
            ("2_500", "shares are within 2 points."),
            ("10_000", "shares are within 1 point; a busy host reads no more than 100 ms allow."),
        ),
    ),
    Key(
        name="sample_addresses", field="sample_addresses", kind=choice(Addresses), default="full",
        does="What a stored sample tells of addresses: full, prefix (IPv4 /24, IPv6 /48) or off. Ports are always told.",
        source="who fills the table is the question; history is readable by root and the group adm only.",
        instead=(("off", "only protocols, ports and states are left to go by; with prefix, networks as well."),),
    ),
    Key(
        name="sample_retention", field="sample_retention_seconds", kind=duration("1d", "3650d"), default="30d",
        does="Samples older than this are removed. They go with their decision at the latest.",
        source="judgement: addresses of clients are personal data; a month is long enough to look into an incident.",
        instead=(
            ("15d", "an incident looked into after two weeks has no addresses left."),
            ("60d", "some 5 KiB of each raise are kept twice as long."),
        ),
    ),
    Key(
        name="history_retention", field="history_retention_seconds", kind=duration("1d", "3650d"), default="400d",
        does="Decisions older than this are removed. At least raises_window and standoff_window.",
        source="judgement: last year's peak is still there to compare with.",
        instead=(
            ("200d", "no comparison with the same season a year ago."),
            ("800d", "nothing until history_max_rows is reached, which then decides."),
        ),
    ),
    Key(
        name="history_max_rows", field="history_max_rows", kind=count("1_000", "10_000_000"), default="200_000",
        does="Beyond this many decisions the oldest are removed.",
        source="judgement: 500 decisions a day for 400 days; equal holds are merged into one.",
        instead=(
            ("100_000", "a host that decides 500 times a day keeps 200 days."),
            ("400_000", "twice the disk space under /var/lib."),
        ),
    ),
)  # fmt: skip

BY_NAME = {key.name: key for key in KEYS}
