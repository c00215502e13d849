"""The checks of `guard doctor`. Each reads the host, as root or as far as this user may, and changes nothing."""

import errno
import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.limits import lowest_accepted
from conntrackd_guard.core.records import table_name
from conntrackd_guard.core.state import conflicts
from conntrackd_guard.core.sysctl_precedence import Tool
from conntrackd_guard.core.traffic.diagnosis import LEAST_SEEN
from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.doctor import facts, module_loading, verdicts
from conntrackd_guard.doctor.facts import CHECK_SECONDS, DENIED, HostFacts
from conntrackd_guard.doctor.settings_warnings import warnings
from conntrackd_guard.doctor.verdicts import Check, Verdict, good, note, unknown, wrong
from conntrackd_guard.host import container
from conntrackd_guard.host.conf_dirs import sysctl_files
from conntrackd_guard.host.conntrack.limit import LiveKernel, refusal_text
from conntrackd_guard.host.conntrack.sampler import Sampler
from conntrackd_guard.host.kernel_log.journal_reader import READ_ERRORS, files_below, newest_message
from conntrackd_guard.host.kernel_log.kmsg import RingBuffer
from conntrackd_guard.host.other_writers import other_writers
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.programs import sees_processes
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.settings.settings import DEFAULT

JOURNAL_SECONDS = 1.0
"""journald stores a kernel message within milliseconds; after this it won't."""
_MAX_PROBLEMS = 3
_SEEN_ON_HOST = "Nothing, if nodes are replaced instead of rebooted. Else check it on the host itself."


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """All checks, in reading order."""

    at_seconds: float
    """Wall time."""
    mode: Mode
    checks: tuple[Check, ...]

    @property
    def wrong(self) -> bool:
        """Whether a check failed."""
        return any(check.verdict is Verdict.WRONG for check in self.checks)


def examine(paths: Paths) -> Examination:
    """Run all checks, in a second or two (six with a large history). Never raises GuardError."""
    host = HostFacts(paths)
    checks = tuple(replace(_run(check, host), name=name) for name, check in _CHECKS.items())
    return Examination(at_seconds=host.wall_seconds, mode=host.paths.mode, checks=checks)


def _run(check: Callable[[HostFacts], Check], host: HostFacts) -> Check:
    """Run one check; its result is unknown if the host refuses a read."""
    try:
        return check(host)
    except HostError as error:
        return unknown(f"can't {error.action} {error.path}: {error.cause}", error.next_step)
    except OSError as error:
        return unknown(str(error), _as_root(host) if error.errno in DENIED else "")


def _as_root(host: HostFacts) -> str:
    return "" if host.root else "Run this as root."


def _guard(host: HostFacts) -> Check:
    dry_run = host.paths.mode is Mode.ACT and bool(RuntimeDir(host.paths.for_mode(Mode.DRY_RUN)).is_running())
    return verdicts.guard(host.health, host.live, dry_run=dry_run)


def _settings(host: HostFacts) -> Check:
    if host.settings is not None:
        files = {place.rpartition(":")[0] for place in host.settings.origins.values() if place != DEFAULT}
        source = f"from {', '.join(sorted(files))}" if files else "defaults only"
        evidence, warned = f"valid, {source}; mode {host.paths.mode}", warnings(host.settings, host.paths)
        return note("; ".join([evidence, *warned]), "`guard config check` lists them.") if warned else good(evidence)
    problems = host.settings_problems
    if not host.root and any("Permission denied" in problem for problem in problems):
        return unknown(problems[0], _as_root(host))
    more = len(problems) - _MAX_PROBLEMS
    evidence = "; ".join(problems[:_MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
    step = "Fix them, then `guard config check`. A running guard keeps its old settings; a new one does not start."
    return wrong(evidence, step)


def _namespace(host: HostFacts) -> Check:
    beside: bool | None = None
    if host.pid is not None:
        with suppress(OSError):  # the guard has ended
            here, there = (os.stat(host.paths.proc / process / "net/stat") for process in ("self", str(host.pid)))
            beside = here.st_ino == there.st_ino
    return verdicts.namespace(host.place, guard_beside=beside)


def _writable(host: HostFacts) -> Check:
    path = host.paths.limit
    if host.limit is None:
        return unknown("no limit to write: see `conntrack`" if host.place.tracks else "no limit to write yet")
    error = facts.open_error(host.seen_by_guard(path), os.O_WRONLY)
    refused = host.state.refusal if host.state else None
    if error is not None and error.errno in DENIED and not host.root:
        return unknown(f"this user can't write {path}", _as_root(host))
    if error is not None:
        is_here = facts.open_error(path, os.O_WRONLY) is not None
        return verdicts.unwritable(str(path), error, host.place, is_here=is_here)
    if refused is not None and host.limit == refused.limit:
        evidence = f"the kernel refused the last write: {refusal_text(refused.errno)}"
        return wrong(evidence, "`guard history --verdict raise` lists the writes.")
    return good(f"{path} can be opened for writing")


def _figures(host: HostFacts) -> Check:
    if host.limit is None:
        return unknown("nothing to read yet")
    return verdicts.figures(host.observation, as_root=host.root)


def _ring_buffer(host: HostFacts) -> Check:
    path = host.paths.kmsg
    if ((host.live or {}).get("sources") or {}).get("ring_buffer") == "following":
        return good("read by the running guard")
    error = facts.open_error(path, os.O_RDONLY)
    if error is None:
        return good(f"{path} can be read")
    if error.errno in DENIED and not host.root:
        return unknown(f"this user can't read {path} (CAP_SYSLOG)", _as_root(host))
    evidence = f"{path}: {error.strerror}; kernel messages come from the journal only, up to 0.2 s late"
    step = "Pass it in: StandardInput=file:/dev/kmsg in the guard's unit."
    return note(evidence, container.RING_BUFFER_STEP if host.paths.has_prefix else step)


def _journal(host: HostFacts) -> Check:
    """Wait up to JOURNAL_SECONDS for the kernel's newest warning to reach the journal."""
    root = host.paths.journal
    found = [] if root is None else list(files_below(root))
    if refused := [f"{path} ({reason})" for path, reason in found if reason is not None]:
        evidence = f"{len(refused)} of {len(found)} files can't be read by this libsystemd: {'; '.join(refused[:_MAX_PROBLEMS])}"
        return note(evidence, "Use an image whose libsystemd is as new as the host's journald.")
    if host.paths.has_prefix and not found:
        evidence = f"no journal below {root}: messages logged while the guard is down are missed"
        return note(evidence, "See `container`, if this host has one.")
    warned = _newest_warning(host.paths)
    deadline = time.monotonic() + JOURNAL_SECONDS
    while True:
        exists, newest = _newest_in_journal(host)
        behind = warned if warned is not None and (newest is None or newest < warned) else None
        if behind is None or not exists or time.monotonic() >= deadline:
            return verdicts.journal(newest, exists=exists, permitted=host.root or exists, behind=behind)
        time.sleep(JOURNAL_SECONDS / 5)


def _newest_warning(paths: Paths) -> int | None:
    try:
        ring = RingBuffer.open(paths.kmsg)
    except HostError:
        return None
    with closing(ring):
        return ring.newest_warning()


def _newest_in_journal(host: HostFacts) -> tuple[bool, int | None]:
    """Return whether a journal exists, and the stamp of its newest kernel message of this boot. Raises HostError."""
    try:
        exists, boot_id, stamp = newest_message(host.paths.journal)
    except FileNotFoundError:
        return False, None
    except READ_ERRORS as error:
        step = "`journalctl --verify` names the damaged files."
        raise HostError("read", "the journal", OSError(None, str(error)), step) from error
    return exists, stamp if boot_id == host.boot_id else None


def _drop_in(host: HostFacts) -> Check:
    if host.saved is None and host.state is None:
        return unknown("no limit is saved, and this boot's history can't be read", _as_root(host))
    raised_to = host.state.set_limit if host.state else None
    found = verdicts.drop_in(str(host.paths.drop_in), host.saved, host.limit, raised_to, persist=host.persist)
    return verdicts.drop_in_buckets(found, host.saved_buckets, host.buckets)


def _order(host: HostFacts, tool: Tool) -> Check:
    if not container.sees_folders(host.paths):
        return unknown(f"the host's sysctl folders are not mounted below {host.paths.root}", _SEEN_ON_HOST)
    files, saved, buckets = sysctl_files(host.paths.root), host.saved, host.saved_buckets
    lowest = lowest_accepted(host.kernel_release, host.limit)
    return verdicts.order(files, tool, str(host.paths.drop_in), saved, buckets, lowest=lowest)


def _entries(host: HostFacts) -> Check:
    """Compare the count of the fullest table with its listing."""
    sampler = Sampler(host.paths)
    fullest = next((one for one in sampler.find() if not one.impossible), None)
    if host.limit is None or fullest is None:
        return unknown("no table can be read", "" if host.limit is None else _as_root(host))
    name, counted = table_name(fullest.table), fullest.table.count
    return verdicts.entries(name, *(sampler.listed(fullest) if counted >= LEAST_SEEN else (counted, None)))


def _boot_trap(host: HostFacts) -> Check:
    root = host.paths.root
    if not container.sees_folders(host.paths):
        return unknown(f"the host's folders are not mounted below {root}", _SEEN_ON_HOST)
    return verdicts.boot_trap(
        built_in=module_loading.built_in(host.paths.sys),
        rule=module_loading.udev_rule(root),
        listed=module_loading.listed(root),
        saved=host.persist or host.saved is not None,
    )


def _other_writers(host: HostFacts) -> Check:
    found = other_writers(host.paths.root, os.cpu_count() or 1)
    lowered = None if host.state is None else conflicts(host.state, host.now)
    unseen = "" if sees_processes(host.paths.root) else "other users' processes are hidden"
    if not container.sees_folders(host.paths):
        unseen = f"the host's folders are not mounted below {host.paths.root}"
    unseen = unseen if lowered is not None else "the history can't be read"
    limit = host.limit if host.saved is None else host.saved
    return verdicts.other_writers(found, lowered, limit, conflict_limit=host.policy.conflict_limit, unseen=unseen)


def _history(host: HostFacts) -> Check:
    path, error = host.paths.history, host.history_error
    if error is not None and error.errno == errno.ENOENT:
        return good(f"nothing is recorded yet ({path})")
    if error is not None and error.errno in DENIED:
        raise error
    if error is not None:
        return wrong(f"can't {error.action} {path}: {error.cause}", error.next_step)
    size = f"{path}, {format_bytes(path.stat().st_size)} of at most {format_bytes(tuning.HISTORY_MAX_BYTES)}"
    if not host.history_checked:
        evidence = f"readable ({size}), but too large to check all pages in {CHECK_SECONDS:.0f} s"
        return unknown(evidence, f"To check all pages: `sqlite3 {path} 'PRAGMA quick_check'`.")
    newest = "empty" if host.newest is None else f"newest decision {host.newest.id} at {host.newest.last_at}"
    return good(f"intact ({size}), {newest}")


def _disk(host: HostFacts) -> Check:
    folder = host.paths.state_folder
    left = facts.free_space(host.seen_by_guard(folder))
    return verdicts.disk(str(folder), left.free_bytes, inodes_left=left.inodes_left, writable=left.writable)


_CHECKS: dict[str, Callable[[HostFacts], Check]] = {
    "guard": _guard,
    "health": lambda host: verdicts.health(host.health, host.live),
    "owners": lambda host: verdicts.owners(host.live),
    "tables": lambda host: verdicts.tables(host.observation),
    "settings": _settings,
    "pause": lambda host: verdicts.pause(host.runtime_dir.pause(host.now), host.now),
    "conntrack": lambda host: verdicts.conntrack(LiveKernel(host.paths).limit(), host.buckets, host.place),
    "container": lambda host: verdicts.container(container.gaps(host.paths, persist=host.persist), host.paths.root),
    "namespace": _namespace,
    "writable": _writable,
    "figures": _figures,
    "memory": lambda host: verdicts.memory(host.observation, host.policy),
    "buckets": lambda host: verdicts.buckets(host.limit, host.buckets, chain_limit=host.chain_limit),
    "entries": _entries,
    "ring_buffer": _ring_buffer,
    "journal": _journal,
    "drop_in": _drop_in,
    "at_boot": lambda host: _order(host, Tool.SYSTEMD),
    "sysctl_system": lambda host: _order(host, Tool.PROCPS),
    "boot_trap": _boot_trap,
    "other_writers": _other_writers,
    "history": _history,
    "disk": _disk,
    "clock": lambda host: verdicts.clock(
        host.boot_id, host.wall_seconds, host.newest.last_seconds if host.newest else None
    ),
}
