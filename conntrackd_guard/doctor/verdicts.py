"""Verdicts of `guard doctor`: from facts to a check with its evidence and next step. Pure.

They are in the order of the checks: the guard, the kernel and its log, the next boot, other programs, disk and clock.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from conntrackd_guard.core import budget, chains, tuning
from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.budget import fullest_first
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.health import OWNERS_UNKNOWN, START_HELPER, Health, Level
from conntrackd_guard.core.limits import format_limit, is_lower, is_unlimited
from conntrackd_guard.core.model import Observation, Pause
from conntrackd_guard.core.records import table_name
from conntrackd_guard.core.sysctl_precedence import (
    BUCKET_KEYS,
    Assignment,
    SysctlFile,
    Tool,
    final_assignment,
    named,
    reading_order,
    writes,
)
from conntrackd_guard.core.traffic.diagnosis import LEAST_SEEN, UNLISTED_SHARE
from conntrackd_guard.core.units import format_bytes, format_duration
from conntrackd_guard.doctor.place import Place
from conntrackd_guard.host.container import Gap
from conntrackd_guard.host.writer import Writer

OLDEST_WALL_SECONDS = datetime(2023, 6, 1, tzinfo=UTC).timestamp()
"""Release of Debian 12, the oldest supported host: a clock before that was never set."""
CLOCK_SLACK_SECONDS = 60.0
"""A clock under NTP may step back this far without reordering decisions."""
DISK_EMPTY_BYTES = 8 * budget.MIB
"""The history's write-ahead file alone may take 4 MiB."""
DISK_LOW_BYTES = 64 * budget.MIB
"""Room for some 10,000 decisions with their evidence."""
_LABELS = {
    "drop_in": "saved limit",
    "at_boot": "boot (systemd-sysctl)",
    "sysctl_system": "sysctl --system",
    "boot_trap": "late module load",
}
_JOURNALD = "See `systemctl status systemd-journald`, and ReadKMsg= and MaxLevelStore= in journald.conf."
_UNRECORDED = "Until then raises go on, but are not recorded."
_UNLIMITED = "Set a limit that this host can bear."
_LEAKS = "Suspect modules that aren't the kernel's own (`grep -s O /sys/module/*/taint`); a reboot ends what they did."
_LOGS = "See `journalctl -u conntrackd-guard`."
_ON_THE_HOST = "Run the guard on the host itself: the limit is one for all namespaces, and set there."
_OUTSIDE = (
    "Run the guard and this command in the host's own network namespace (`nsenter -t 1 -n`); in a unit, without "
    "PrivateNetwork= and NetworkNamespacePath=."
)
_OTHERS_SHOWN = 2
_TABLES_SHOWN = 3
_NO_ANSWER = frozenset({"not_running", "unseen", "silent"})
"""Codes of a guard that does not answer."""


class Verdict(StrEnum):
    """Result of a check, as JSON has it."""

    GOOD = "good"
    NOTE = "note"
    """No fault, but the operator should know."""
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """Not checked; the evidence has the reason."""

    @property
    def label(self) -> str:
        """The verdict for people."""
        return "FAIL" if self is Verdict.WRONG else self.value


@dataclass(frozen=True, slots=True)
class Check:
    """One check. Its texts may contain text from files and processes: not safe to print."""

    verdict: Verdict
    evidence: str
    next_step: str = ""
    name: str = ""
    """Set by `checks.examine`."""

    @property
    def label(self) -> str:
        """The name for people."""
        return _LABELS.get(self.name) or self.name.replace("_", " ")


good = partial(Check, Verdict.GOOD)
note = partial(Check, Verdict.NOTE)
wrong = partial(Check, Verdict.WRONG)
unknown = partial(Check, Verdict.UNKNOWN)


def guard(found: Health, live: Mapping[str, Any] | None, *, dry_run: bool) -> Check:
    """Check that the guard answers. `dry_run`: whether a dry run is running."""
    who = f"pid {(live or {}).get('pid')}, mode {(live or {}).get('mode')}"
    reason = next((reason for reason in found.reasons if reason.code in _NO_ANSWER), None)
    if reason is None:
        return good(f"running ({who}), answers")
    beside = " (only a dry run is running)" if dry_run and reason.code == "not_running" else ""
    verdict = {Level.DOWN: wrong, Level.DEGRADED: unknown}.get(reason.level, note)
    return verdict(
        f"{reason.text}{beside}", f"{reason.next_step} {_LOGS}" if reason.code == "not_running" else reason.next_step
    )


def health(found: Health, live: Mapping[str, Any] | None) -> Check:
    """Check that the guard is healthy by its own status, as `guard status` and the metrics judge it."""
    reasons = [reason for reason in found.reasons if reason.code not in _NO_ANSWER]
    if live is None or len(reasons) < len(found.reasons):
        return unknown("no guard answers")
    recorder, sources = live.get("recorder") or {}, live.get("sources") or {}
    notes = [
        f"{number:,.0f} {what}"
        for key, what in (("lost_lines", "log messages not delivered"), ("lost_holds", "holds not recorded"))
        if (number := _number(recorder.get(key)))
    ]
    if sources.get("ring_buffer") != "following":
        notes.append("; ".join(map(str, sources.get("notes") or ["no ring buffer"])))
    journal = str(sources.get("journal", "absent"))
    if journal.startswith(("absent", "not ", "stopped")):
        notes.append(f"journal {journal}")
    if not reasons:
        return note("; ".join(notes), _LOGS) if notes else good("healthy, follows ring buffer and journal")
    evidence = "; ".join([*(reason.text for reason in reasons), *notes])
    step = " ".join(dict.fromkeys(reason.next_step for reason in reasons))
    return wrong(evidence, step) if found.level is Level.ACTION_REQUIRED else note(evidence, step)


def owners(live: Mapping[str, Any] | None) -> Check:
    """Judge whether the running guard can see who owns a network namespace."""
    match (live or {}).get("owners_read_by"):
        case "guard":
            return good("the running guard reads them itself")
        case "helper":
            return good("conntrackd-guard-namespaces.service reads them for the guard")
        case "nobody":
            return note(OWNERS_UNKNOWN, START_HELPER)
    return unknown("no guard runs that needs them")


def tables(seen: Observation | None) -> Check:
    """Check that no table is full or dropping packets now."""
    if seen is None or seen.limit is None or is_unlimited(seen.limit):
        return unknown("no limit is in force")
    bad = [
        f"{table_name(table)} has {table.count:,} of {seen.limit:,} entries"
        + (f" and dropped {table.dropped:,} packets just now" if table.dropped else "")
        for table in fullest_first(seen)
        if table.alive >= seen.limit or table.dropped
    ]
    if bad:
        more = f"; and {len(bad) - _TABLES_SHOWN} more" if len(bad) > _TABLES_SHOWN else ""
        return wrong(
            "; ".join(bad[:_TABLES_SHOWN]) + more, "`guard top` shows what fills it, `guard history` what was done."
        )
    fullest = next(iter(fullest_first(seen)), None)
    if fullest is None:
        return unknown("no table could be read")
    return good(f"none is full; the fullest is {table_name(fullest)} at {100 * fullest.count / seen.limit:.0f} %")


def pause(found: Pause | None, now_seconds: float) -> Check:
    """Check that raising is not paused. `now_seconds` is CLOCK_BOOTTIME."""
    if found is None:
        return good("raising is not paused")
    reason = f" ({found.reason})" if found.reason else ""
    left = "" if found.until_seconds is None else f" for {format_duration(found.until_seconds - now_seconds)} more"
    evidence = f"raising is paused by {found.by}{reason}{left}: a full table drops new connections"
    step = f"To resume, remove {found.by}." if found.by.startswith("/etc/") else "To resume: `guard resume`."
    return note(evidence, step)


def conntrack(limit: int | None, buckets: int | None, place: Place) -> Check:
    """Check that connection tracking is loaded and limited, and that its limit can be seen."""
    if limit is None and place.tracks:
        evidence = "connections are tracked here, but nf_conntrack_max is hidden, as in a user namespace"
        return wrong(f"{evidence}{_in_container(place)}", "" if place.in_pod else _ON_THE_HOST)
    if limit is None:
        step = "Nothing, unless a firewall rule needs connection tracking; then `modprobe nf_conntrack`."
        return note("connection tracking is not loaded; the guard waits for it", step)
    if is_unlimited(limit):
        read = "" if limit == 0 else f": the kernel reads it as {limit:,}"
        evidence = (
            f"the limit is {format_limit(limit)}{read}; the guard leaves it, and nothing bounds what full tables cost"
        )
        return note(evidence, f"{_UNLIMITED} Now: `sysctl -w net.netfilter.nf_conntrack_max=262144`.")
    size = "" if buckets is None else f", {buckets:,} buckets"
    return good(f"limit {limit:,} entries per namespace{size}")


def namespace(place: Place, *, guard_beside: bool | None) -> Check:
    """Check that this is the initial network namespace, and the guard's. `guard_beside`: None if unknown."""
    if place.initial is None:
        return unknown("known once connection tracking is loaded")
    if not place.initial:
        where = f"not the initial network namespace{_in_container(place)}"
        if place.writable:
            evidence = f"{where}: this kernel (before 5.12.2) lets it write the limit, which is the whole host's"
        else:
            evidence = f"{where}: the limit can't be written here"
        return wrong(evidence, _outside(place))
    if guard_beside is False:
        step = "Remove PrivateNetwork= and NetworkNamespacePath= from its unit: `systemctl cat conntrackd-guard`."
        return wrong("the initial network namespace, but the guard runs in another one", step)
    return good(f"the initial network namespace{'; the guard runs in it' if guard_beside else ''}")


def container(gaps: Sequence[Gap], root: Path) -> Check:
    """Check that a container has of its host what the guard needs."""
    if not gaps:
        return good(f"what the guard needs of this host is below {root}")
    evidence, step = "; ".join(gap.text for gap in gaps), " ".join(gap.next_step for gap in gaps)
    return (wrong if gaps[0].is_needed else note)(evidence, step)


def unwritable(path: str, error: OSError, place: Place, *, is_here: bool) -> Check:
    """Return why the guard can't write the limit. `is_here`: this command can't write it either."""
    if place.initial is False:
        step = _outside(place)
    elif place.in_pod:
        step = "See `container`."
    elif error.errno == errno.EROFS and place.container:
        step = "The container's /proc/sys is read-only: start it privileged, or run the guard on the host itself."
    elif error.errno == errno.EROFS and is_here:
        step = f"/proc/sys is mounted read-only here, as `findmnt -T {path}` shows. {_ON_THE_HOST}"
    else:
        step = "Allow it in the guard's unit: ReadWritePaths=+/proc/sys/net/netfilter."
    return wrong(f"the guard can't write {path}: {error.strerror}{_in_container(place)}", step)


def figures(seen: Observation, *, as_root: bool) -> Check:
    """Check that tables and memory can be read, and name what stands for a figure that can't."""
    entered = sum("entered" in table.source for table in seen.tables)
    found = [*seen.unread]
    if entered:  # with more rights than the guard's unit has
        which = "a network namespace" if entered == 1 else f"{entered:,} network namespaces"
        found.append(f"the guard can't enter {which} as this command does, and counts the tables as full")
    if seen.memory_unknown:
        step = "Find out what hides or changes that file: `ProcSubset=pid` in a unit, a bind mount, lxcfs."
        return wrong(f"nothing is raised: {'; '.join(found)}", step)
    if not found:
        return good("all tables and memory figures can be read")
    if seen.impossible:
        return wrong("; ".join(found), f"Nothing is raised for a table whose count can't be true. {_LEAKS}")
    step = "Nothing: raises go on, calculated with what is named here." if as_root else "Run this as root."
    if not seen.complete and seen.has_statistics and as_root:
        step = "`lsns -t net` lists namespaces; `ip netns attach NAME PID` makes one known to the guard."
    return note("; ".join(found), step)


def memory(seen: Observation, policy: Policy) -> Check:
    """Check that the host can bear a table that fills up to the limit in force, whoever set it."""
    found = budget.at_limit(seen, policy)
    if found is None or not seen.memory_total_bytes:
        return unknown("needs a limit and the figures of memory")
    full, fits = found
    cost = f"{full.bytes_per_entry} × {full.charged_entries:,} + {full.bucket_bytes:,} = {full.cost_bytes:,}"
    left = full.memory_available_bytes - full.new_bytes
    evidence = f"a full table at {full.target:,} costs {cost} ({format_bytes(full.cost_bytes)})"
    if full.bound is Bound.TARGET:
        return good(
            f"{evidence} of a budget of {format_bytes(full.budget_bytes)}, and leaves {format_bytes(left)} available"
        )
    if full.bound is Bound.BUDGET:
        evidence += f", over the budget of {full.budget_bytes:,} ({format_bytes(full.budget_bytes)})"
    else:
        rest = f"{full.memory_available_bytes:,} − {full.new_bytes:,} = {left:,}"
        evidence += f", and would leave {rest} available, less than `min_available` ({full.min_available_bytes:,})"
    step = "Add or free memory, or give the tables more of it (`budget`, `min_available`)."
    if fits:
        step = (
            f"{fits:,} fits: `sysctl -w net.netfilter.nf_conntrack_max={fits}`, and correct what sets it (see "
            f"`boot` and `other writers`; `guard revert --all` undoes raises). Or: {step[0].lower()}{step[1:]}"
        )
    return wrong(evidence, step)


def buckets(limit: int | None, number: int | None, *, chain_limit: bool | None = None) -> Check:
    """Check that hash chains stay short when one table fills up. `chain_limit`: None if unknown."""
    if limit is None or is_unlimited(limit) or not number:
        return unknown("needs a limit and a number of buckets")
    chain = 2 * limit / number
    average = f"average chain with one full table: 2 × {limit:,} ÷ {number:,} buckets = {chain:.1f}"
    if chain <= chains.CHAIN_ADVISE:
        return good(f"{average} (at most {chains.CHAIN_ADVISE})")
    if chain_limit is False:
        return good(f"{average}; this kernel drops nothing for long chains")
    command = chains.resize_command(chains.enough_buckets(limit))
    step = f"`{command}` (stops traffic for about 0.5 µs per entry), or set `buckets: match`."
    if chain <= chains.CHAIN_HOLD:
        return note(f"{average}: above {chains.CHAIN_ADVISE} new connections take longer", step)
    return wrong(f"{average}: above {chains.CHAIN_HOLD} the kernel drops packets without a message", step)


def entries(table: str, counted: int, listed: int | None) -> Check:
    """Check that the listing of the fullest `table` shows the entries counted; `listed`: None if it has too many."""
    if counted < LEAST_SEEN:
        return good(f"{table} is the fullest, with {counted:,} entries")
    if listed is None:
        return unknown(f"{table} has too many entries to list them all ({counted:,})")
    unlisted, evidence = (
        max(0, counted - listed),
        f"{table} counts {counted:,} entries, and the listing shows {listed:,}",
    )
    if unlisted >= LEAST_SEEN and unlisted >= UNLISTED_SHARE * counted:
        text = f"{evidence}: something in the kernel keeps {unlisted:,} (a leak)"
        return wrong(text, f"`guard top` shows how to find it. {_LEAKS}")
    return good(evidence)


def journal(newest: int | None, *, exists: bool, permitted: bool, behind: int | None) -> Check:
    """Check that kernel messages reach the journal. Stamps are µs of this boot.

    `newest` is the last kernel message in it; `behind` a kernel warning in the ring buffer that it should have by now.
    """
    if newest is None and not permitted:
        step = "Run this as root, or as a member of adm or systemd-journal."
        return unknown("this user can't read the system journal", step)
    if not exists:
        evidence = "no journal on this host: messages logged while the guard is down are missed"
        return note(evidence, "Start systemd-journald, if this host should have it.")
    if newest is None:
        step = f"They were removed to free space, or don't reach it. {_JOURNALD}"
        evidence = "readable, but without kernel messages of this boot"
        if behind is None:
            return unknown(evidence, step)
        return note(f"{evidence}, although the kernel logged a warning at {_boot_time(behind)}", step)
    if behind is not None:
        evidence = (
            f"kernel messages don't reach it: the kernel logged a warning at {_boot_time(behind)}, the newest message "
            f"in the journal is of {_boot_time(newest)}"
        )
        return wrong(evidence, _JOURNALD)
    return good(f"readable; newest kernel message at {_boot_time(newest)}")


def drop_in(path: str, saved: int | None, in_force: int | None, raised_to: int | None, *, persist: bool) -> Check:
    """Check that the limit in force is saved for the next boot. `raised_to`: the guard's last raise in this boot."""
    status = "`guard status` shows why the file is not written."
    if saved is None:
        if persist and raised_to is not None and raised_to == in_force:
            return wrong(f"the guard raised the limit to {raised_to:,}, but {path} is missing", status)
        why = "no raise is in force" if persist else "`persist: false`, or a dry run"
        return good(f"no limit is saved: {why}")
    where = f"{saved:,} is saved in {path}"
    if in_force is None:
        return unknown(f"{where}; no limit is in force")
    if saved == in_force:
        return good(f"{where} and in force")
    if is_lower(in_force, saved) or raised_to == in_force:
        apply = (
            f"To apply it: `sysctl -w net.netfilter.nf_conntrack_max={saved}`. To keep {in_force:,}: remove the file."
        )
        return wrong(f"{where}, but {in_force:,} is in force", apply if is_lower(in_force, saved) else status)
    evidence = f"{where}; another program has set {format_limit(in_force)}, which the next boot loses"
    step = "" if is_unlimited(in_force) else f"To save {in_force:,} too, put it into a sysctl file of your own."
    return note(evidence, step)


def drop_in_buckets(limit: Check, saved: int | None, in_force: int | None) -> Check:
    """Return the check of the saved limit, or that its hash buckets are not in force with it."""
    if limit.verdict is not Verdict.GOOD or saved is None or in_force is None:
        return limit
    if in_force >= saved:
        return replace(limit, evidence=f"{limit.evidence}, with its {saved:,} hash buckets")
    step = f"`{chains.resize_command(saved)}` (stops traffic for about 0.5 µs per entry)."
    return wrong(f"{limit.evidence}, but only {in_force:,} of its {saved:,} hash buckets are", step)


def order(  # noqa: PLR0911, PLR0913 - one return a finding
    files: Sequence[SysctlFile],
    tool: Tool,
    ours: str,
    saved: int | None,
    buckets: int | None = None,
    *,
    lowest: int = 0,
) -> Check:
    """Check that `tool`, applying the sysctl files, ends with the saved limit and its buckets.

    `ours` is the drop-in's path, `lowest` the lowest value that the kernel takes.
    """
    unread = [file.path for file in reading_order(files, tool) if file.content is None]
    if unread:
        return unknown(f"can't read {', '.join(unread[:_OTHERS_SHOWN])}", "Run this as root.")
    word = final_assignment(files, tool, lowest)
    others = [line for line in named(files, tool) if line.path != ours]
    if word is None:
        if saved is None:
            return good("no sysctl file sets the limit")
        by = "".join(f": {_place(line)} overrides it with {line.value or 'an empty value'}" for line in others[-1:])
        return wrong(f"leaves the limit unset{by}", f"Remove that line, so that {ours} sets {saved:,}.")
    number, sets = word.number or 0, f"sets {word.value} ({_place(word)})"
    refused = [line for line in writes(files, tool) if not line.is_accepted(lowest)]
    beside = f"; this kernel refuses {_listed(refused)}" if refused else ""
    if number == saved:
        found = good(f"sets {saved:,} ({_place(word)}){f', over {_listed(others)}' if others else ''}{beside}")
        return _order_of_buckets(files, tool, saved, buckets) or found
    evidence = f"{sets}{beside}" if saved is None else f"{sets}, which overrides {saved:,} in {ours}{beside}"
    if is_unlimited(number):
        return note(f"{evidence}: the tables are unlimited then", _UNLIMITED)
    if saved is None:
        return good(evidence)
    if not is_lower(number, saved):
        return note(evidence)
    edited = f"{word.link} ({word.path} is a link to it)" if word.link else word.path
    return wrong(evidence, f"Remove line {word.line} from {edited}: it undoes the saved limit.")


def _order_of_buckets(files: Sequence[SysctlFile], tool: Tool, saved: int, buckets: int | None) -> Check | None:
    """Return what is wrong if `tool` sets the saved limit and other buckets than those saved with it."""
    last = next(reversed(writes(files, tool, BUCKET_KEYS)), None)
    if buckets is None or last is None or last.number == buckets:
        return None
    evidence = (
        f"sets {saved:,}, but {last.value} hash buckets ({_place(last)}) instead of the {buckets:,} saved with it"
    )
    return wrong(evidence, f"Remove line {last.line} from {last.path}: it undoes the saved buckets.")


def boot_trap(*, built_in: bool | None, rule: str, listed: str, saved: bool) -> Check:
    """Check that the module is loaded when sysctl files are applied at boot. `saved`: a limit is, or may be, saved."""
    if built_in:
        return good("connection tracking is built into this kernel")
    if rule:
        return good(f"{rule} applies the sysctl files when the module loads")
    if listed:
        return good(f"{listed} loads the module before the sysctl files are applied")
    evidence = "the module loads after the sysctl files are applied, so a saved limit is lost at boot"
    step = "`echo nf_conntrack > /etc/modules-load.d/conntrackd-guard.conf`"
    return wrong(evidence, step) if saved else note(evidence, step)


def other_writers(
    found: Sequence[Writer], lowered: int | None, limit: int | None, *, conflict_limit: int, unseen: str
) -> Check:
    """Check that no other program sets another limit than `limit`.

    `lowered` counts the conflicts, None if the history can't be read; `unseen` names what could not be checked.
    """
    evidence = [writer.evidence for writer in found]
    steps = [writer.next_step for writer in found if writer.next_step]
    failed = any(writer.is_final and writer.sets and limit is not None and limit not in writer.sets for writer in found)
    if lowered:
        failed = True
        raising_stopped = 0 < conflict_limit <= lowered
        window = format_duration(tuning.CONFLICT_WINDOW_SECONDS)
        stopped = ", so the guard has stopped raising" if raising_stopped else ""
        evidence.insert(0, f"the guard's limit was lowered {lowered} times in {window}{stopped}")
        if not found:
            evidence.append("by an unknown program")
            steps.append("Find the program that sets it at those times (`guard history`), and change it there.")
        if raising_stopped:
            steps.append("Then `guard resume`.")
    if evidence:
        text, step = "; ".join(evidence), " ".join(dict.fromkeys(steps))
        return wrong(text, step) if failed else note(text, step)
    if unseen:
        return unknown(f"none found, but {unseen}", "Run this as root, and see the check `history`.")
    return good(
        "no kube-proxy, pve-firewall, calico-node, tuned, ufw or start script sets the limit; no conflict in this boot"
    )


def disk(folder: str, free_bytes: int, *, inodes_left: bool, writable: bool) -> Check:
    """Check that the history has room."""
    free = f"{format_bytes(free_bytes)} free for {folder}"
    if not writable:
        return wrong(f"the file system of {folder} is read-only", f"Mount it read-write. {_UNRECORDED}")
    if not inodes_left:
        return wrong(f"{free}, but no inode", f"Free some space. {_UNRECORDED}")
    if free_bytes < DISK_EMPTY_BYTES:
        return wrong(free, f"Free some space. {_UNRECORDED}")
    if free_bytes < DISK_LOW_BYTES:
        return note(free, "Free some space before it runs out.")
    return good(free)


def clock(boot_id: str | None, wall_seconds: float, newest_seconds: float | None) -> Check:
    """Check that boot id and wall clock can order decisions."""
    if boot_id is None:
        evidence = "the boot id can't be read, so boots can't be distinguished"
        return wrong(evidence, "Make /proc/sys/kernel/random/boot_id readable.")
    now = datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    step = "Set the clock (`timedatectl`). Raises don't depend on it; `--since` and history_retention do."
    if wall_seconds < OLDEST_WALL_SECONDS:
        return wrong(f"never set: {now}", step)
    ahead = (newest_seconds or 0.0) - wall_seconds
    if ahead > CLOCK_SLACK_SECONDS:
        return wrong(f"set back: it is {now}, and the newest decision is {format_duration(ahead)} later", step)
    return good(f"{now}, boot {boot_id[:8]}")


def _outside(place: Place) -> str:
    """Return the cure of another network namespace than the host's."""
    return "The pod needs hostNetwork: true." if place.in_pod else _ON_THE_HOST if place.container else _OUTSIDE


def _in_container(place: Place) -> str:
    return f" (this is a container: {place.container})" if place.container else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _boot_time(stamp_us: int) -> str:
    """Return a kernel stamp as `dmesg` prints it."""
    return f"[{stamp_us / 1e6:.6f}]"


def _place(line: Assignment) -> str:
    return f"{line.path}:{line.line}{f', a link to {line.link}' if line.link else ''}"


def _listed(lines: Sequence[Assignment]) -> str:
    shown = ", ".join(f"{line.value or 'nothing'} in {_place(line)}" for line in lines[-_OTHERS_SHOWN:])
    more = len(lines) - _OTHERS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
