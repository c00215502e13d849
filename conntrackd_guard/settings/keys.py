"""All settings in one table: what each does, where its default comes from, and what breaks with another value.

A default stands once: in `core.configuration.Policy` for the settings that affect decisions, else in `Settings`.
"""

from dataclasses import dataclass, field

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Addresses, Buckets, Listen, Mode, Policy
from conntrackd_guard.core.units import format_duration as _span
from conntrackd_guard.settings import types

_DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in effect."""

    mode: Mode = Mode.ACT
    policy: Policy = field(default_factory=Policy)
    persist: bool = True
    notify: tuple[str, ...] | None = None
    """The words of the command, None to run none."""
    metrics_file: str | None = None
    metrics_http: Listen | None = None
    sample_addresses: Addresses = Addresses.FULL
    sample_retention_seconds: float = 30 * _DAY_SECONDS
    history_retention_seconds: float = 400 * _DAY_SECONDS
    origins: dict[str, str] = field(default_factory=dict)
    """For each key the `file:line` that set it, or `default`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting."""

    name: str
    field: str
    """The attribute of `Policy` (or of `Settings`) that it sets."""
    kind: types.Kind
    does: str
    source: str
    """Where the default comes from."""
    instead: tuple[tuple[str, str], ...]
    """Other values and their effect: half and double of a quantity, the other choice of a switch."""

    @property
    def in_policy(self) -> bool:
        """Whether the key sets an attribute of `Policy`."""
        return self.field in Policy.__slots__

    @property
    def default(self) -> str:
        """The default as an operator would write it."""
        return self.value_text(Settings())

    def value_text(self, settings: Settings) -> str:
        """Return the value in effect as an operator would write it."""
        return self.kind.write(getattr(settings.policy if self.in_policy else settings, self.field))


KEYS = (
    Key(
        name="mode", field="mode", kind=types.choice(Mode),
        does="act writes the limit; dry-run records and logs each decision without writing it.",
        source="installing the guard is a decision to raise.",
        instead=(("dry-run", "full tables keep dropping packets."),),
    ),
    Key(
        name="raise_early", field="raise_early", kind=types.BOOLEAN,
        does="Raise when a table is about to fill up, before the kernel drops packets.",
        source="the kernel rate-limits its log to 10 messages in 5 s, shared by all its messages.",
        instead=(("false", "each raise comes after the first dropped packets, or never if the message is suppressed."),),
    ),
    Key(
        name="threshold", field="threshold", kind=types.percentage("35%", "95%"),
        does="Raise when a table reaches this share of the limit. Each raise brings every table back below it.",
        source="below 90%, which confirms a full table, and 95%, where the kernel starts evicting entries (our judgement).",
        instead=(
            ("40%", "raises happen early, and each one commits twice the memory."),
            ("95%", "the kernel evicts entries first; a burst fills the rest between two readings."),
        ),
    ),
    Key(
        name="growth_factor", field="growth_factor", kind=types.number("1.01", "10"),
        does="Raise to at least this multiple of the limit, within the bounds below.",
        source="six raises make the limit eleven times as large; a needless one costs half a table (our judgement).",
        instead=(
            ("1.25", "nearly twice the raises under steady growth, each a chance to drop packets."),
            ("2", "the guard reaches its bounds sooner, and takes only part of the last step."),
        ),
    ),
    Key(
        name="budget", field="budget", kind=types.share("0.1%", "90%"),
        does="Kernel memory that full tables may use: a share of memory without huge pages, or a size.",
        source="this memory can't be swapped out, and no cgroup limits it (our judgement).",
        instead=(
            ("5%", "a 1 GiB host stops raising near 90,000 entries and drops packets beyond that."),
            ("20%", "one flood can hold a fifth of memory until its entries time out."),
        ),
    ),
    Key(
        name="min_available", field="min_available", kind=types.optional("auto", types.share("1%", "90%")),
        does="Memory to leave available once the raised tables are full: auto, a share of memory or a size.",
        source="auto is 5% of memory but at least 512 MiB, or 10% if that is less (our judgement, for small hosts).",
        instead=(
            ("2.5%", "a full table can trigger the OOM killer on a busy small host."),
            ("10%", "hosts that use most of their memory stop raising too soon."),
        ),
    ),
    Key(
        name="min_limit", field="min_limit", kind=types.optional("none", types.LIMIT),
        does="Raise the limit to this at start, on a reload that changes it, and once each time another program goes below it, as "
             "far as the bounds allow.",
        source="a limit that is high enough needs no raise before a table fills up.",
        instead=(("262_144", "a host that boots with 65,536 never begins its first burst with so little (`guard recommend`)."),),
    ),
    Key(
        name="max_limit", field="max_limit", kind=types.optional("none", types.LIMIT),
        does="Never raise the limit above this.",
        source="the budget bounds memory already, and no number fits every host.",
        instead=(("262_144", "hosts that boot with that limit (the kernel's default from 4 GB) are never raised."),),
    ),
    Key(
        name="on_flood", field="on_flood", kind=types.FLOOD_RESPONSE,
        does="Response to a flood (a sample with mostly unanswered flows): raise, hold, or raise_to a limit.",
        source="without a raise every new connection is dropped, and a sample can mislead.",
        instead=(("hold", "a flood fills the table, and all new connections fail until it ends or is filtered."),),
    ),
    Key(
        name="cooldown", field="cooldown_seconds", kind=types.duration("0s", "1h"),
        does=f"Minimum time between raises, at most {_span(tuning.COOLDOWN_FULL_SECONDS)} while a table is full.",
        source="2 s covers eight readings at 4 Hz, enough to see whether the last raise helped (our judgement).",
        instead=(
            ("1s", "a second raise may come before the first one shows its effect."),
            ("4s", "growth that doubles within seconds reaches the limit between two raises."),
        ),
    ),
    Key(
        name="conflict_limit", field="conflict_limit", kind=types.count("0", str(tuning.MOST_CONFLICTS)),
        does="Stop raising after another program has lowered the limit this many times within "
        f"{_span(tuning.CONFLICT_WINDOW_SECONDS)}. 0 disables the check.",
        source="once may be a restart, twice a deployment; three times is another owner of the limit (our judgement).",
        instead=(
            ("1", "one restart of a program that sets the limit stops raises for a day."),
            ("6", "two owners overwrite each other twice as often, and each time connections drop."),
        ),
    ),
    Key(
        name="buckets", field="buckets", kind=types.choice(Buckets),
        does="keep leaves the hash table alone and holds if chains grow too long; match enlarges it before a raise.",
        source="a resize stops all traffic: gaps of 86 to 107 ms were measured with 200,000 entries.",
        instead=(("match", "each resize is such a gap, about 0.5 microseconds per entry."),),
    ),
    Key(
        name="trust_user_namespaces", field="trust_user_namespaces", kind=types.BOOLEAN,
        does="Raise also for tables that belong to a user namespace (rootless containers), or whose owner is unknown.",
        source="any user can create such a namespace and fill its table.",
        instead=(("true", "any user can make the guard commit kernel memory, up to the budget."),),
    ),
    Key(
        name="persist", field="persist", kind=types.BOOLEAN,
        does="Keep the raised limit across reboots, in a sysctl.d drop-in.",
        source="a limit lost at reboot is among the most common complaints.",
        instead=(("false", "after each reboot the host drops packets until the guard has raised the limit again."),),
    ),
    Key(
        name="notify", field="notify", kind=types.optional("none", types.COMMAND),
        does="Command to run for each hold that needs an operator, with the decision as JSON on stdin.",
        source="whom to notify, and how, differs from site to site.",
        instead=(("/usr/local/sbin/page-on-call", "it pages people. Keep secrets in a file that the command reads."),),
    ),
    Key(
        name="metrics_file", field="metrics_file", kind=types.optional("none", types.PROM_PATH),
        does="File to write metrics to, for node_exporter's textfile collector. Ignored in dry-run mode.",
        source="whether node_exporter runs, and which folder it reads, differs from host to host.",
        instead=(("/var/lib/prometheus/node-exporter/guard.prom", "Debian's folder; the unit needs permission to write there."),),
    ),
    Key(
        name="metrics_http", field="metrics_http", kind=types.optional("none", types.LISTEN),
        does="Port on 127.0.0.1, or address and port, to serve metrics and /healthz on by HTTP. `guard run --dry-run` ignores it.",
        source="the unit has no network access, and a file is enough for most sites.",
        instead=(
            ("9786", "every user of this host can read the metrics."),
            ("0.0.0.0:9786", "so can everyone who reaches this host, without a password; '[::]:9786' is its IPv6 form, in quotes."),
        ),
    ),
    Key(
        name="sample_addresses", field="sample_addresses", kind=types.choice(Addresses),
        does="Addresses in stored samples: full, prefix (IPv4 /24, IPv6 /48) or off. Ports are always stored.",
        source="addresses show who fills the table; only root and the group adm can read the history.",
        instead=(("off", "only protocols, ports and states remain; with prefix, networks as well."),),
    ),
    Key(
        name="sample_retention", field="sample_retention_seconds", kind=types.duration("1d", "3650d"),
        does="Delete samples older than this, and each one with its decision at the latest.",
        source="addresses of clients are personal data; a month is enough to investigate an incident (our judgement).",
        instead=(
            ("15d", "two weeks after an incident its addresses are gone."),
            ("60d", "about 5 KiB per raise stay twice as long."),
        ),
    ),
    Key(
        name="history_retention", field="history_retention_seconds", kind=types.duration("1d", "3650d"),
        does=f"Delete decisions older than this. The history holds up to {tuning.HISTORY_MAX_ROWS:,} decisions in "
             f"{tuning.HISTORY_MAX_BYTES >> 20} MiB, and deletes holds first, raises last.",
        source="last year's peak remains available for comparison (our judgement).",
        instead=(
            ("200d", "no comparison with the same season a year ago."),
            ("800d", "a busy host reaches the maximum number of decisions first."),
        ),
    ),
)  # fmt: skip

BY_NAME = {key.name: key for key in KEYS}

FIXED = {
    "kernel_message": "true, as the message proves that packets are dropped; `mode: dry-run` raises nothing",
    "min_step": f"{tuning.MIN_STEP:,} entries, a useful step for small limits",
    "lookahead": f"{_span(tuning.LOOKAHEAD_SECONDS)}, time to read a log message before the next raise",
    "cooldown_full": f"{_span(tuning.COOLDOWN_FULL_SECONDS)}, or `cooldown` if that is shorter",
    "max_raises": f"{tuning.MAX_RAISES} in {_span(tuning.MAX_RAISES_WINDOW_SECONDS)}, more is a fault and not traffic",
    "max_raises_window": f"{_span(tuning.MAX_RAISES_WINDOW_SECONDS)}, longer than a burst",
    "conflict_window": f"{_span(tuning.CONFLICT_WINDOW_SECONDS)}, as configuration tools usually run daily",
    "sample_entries": f"{tuning.SAMPLE_ENTRIES:,}, which shows shares within 1.4 points",
    "history_max_rows": f"{tuning.HISTORY_MAX_ROWS:,}, enough for 500 decisions a day in 400 days",
    "history_max_bytes": f"{tuning.HISTORY_MAX_BYTES >> 20} MiB, 13,000 decisions of the largest kind, and far more usual ones",
}
"""Former settings that are constants now: the value and its reason."""

RENAMED = {
    "kernel_line": "kernel_message", "pressure": "raise_early", "factor": "growth_factor", "reserve": "min_available",
    "ceiling": "max_limit", "settle": "cooldown", "standoff": "conflict_limit", "min_entries": "min_step",
    "runway": "lookahead", "settle_full": "cooldown_full", "raises": "max_raises", "raises_window": "max_raises_window",
    "standoff_window": "conflict_window",
}  # fmt: skip
"""Names of earlier versions, for settings and for those that are constants now."""
