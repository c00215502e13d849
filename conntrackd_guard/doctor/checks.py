"""The checks of `guard doctor`: each reads the host, as root or as far as this user may, and changes nothing."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.sysctl_precedence import Tool
from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.doctor import facts, verdicts, verdicts_boot, verdicts_guard
from conntrackd_guard.doctor.facts import CHECK_SECONDS, DENIED, HostFacts
from conntrackd_guard.doctor.module_loading import module_loading
from conntrackd_guard.doctor.verdicts import Check, Verdict
from conntrackd_guard.host.conf_dirs import sysctl_files
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.kernel_log.journal_reader import READ_ERRORS, newest_line
from conntrackd_guard.host.kernel_log.kmsg import RingBuffer
from conntrackd_guard.host.other_writers import other_writers, sees_processes
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.settings.settings import DEFAULT

JOURNAL_SECONDS = 1.0
"""journald takes a kernel line in within milliseconds; one that is not there after this is not coming."""
_PROBLEMS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Every check, in the order in which to read them."""

    at_seconds: float
    """Wall time."""
    mode: Mode
    checks: tuple[Check, ...]

    @property
    def wrong(self) -> bool:
        """Whether something is wrong."""
        return any(check.verdict is Verdict.WRONG for check in self.checks)


def examine(paths: Paths) -> Examination:
    """Do every check, in a second or two (six with a large history). Never raises GuardError."""
    host = HostFacts(paths)
    checks = tuple(_made(name, check, host) for name, check in _CHECKS.items())
    return Examination(at_seconds=host.wall_seconds, mode=host.paths.mode, checks=checks)


def _made(name: str, check: Callable[[HostFacts], Check], host: HostFacts) -> Check:
    """Do one check; what the host refuses makes it unknown."""
    try:
        return check(host)
    except HostError as error:
        evidence = f"{error.doing} {error.path}: {error.cause}"
        return Check(name=name, verdict=Verdict.UNKNOWN, evidence=evidence, next_step=error.next_step)
    except OSError as error:
        return _unmade(name, str(error), denied=error.errno in DENIED, root=host.root)


def _unmade(name: str, why: str, *, denied: bool, root: bool) -> Check:
    step = "Run this as root." if denied and not root else ""
    return Check(name=name, verdict=Verdict.UNKNOWN, evidence=why, next_step=step)


def _settings(host: HostFacts) -> Check:
    if host.settings is not None:
        files = {place.rpartition(":")[0] for place in host.settings.origins.values() if place != DEFAULT}
        told = f"set in {', '.join(sorted(files))}" if files else "the defaults alone"
        return Check(name="settings", verdict=Verdict.GOOD, evidence=f"valid, {told}; mode {host.paths.mode}")
    problems = host.settings_problems
    if not host.root and any("Permission denied" in problem for problem in problems):
        return _unmade("settings", problems[0], denied=True, root=False)
    more = len(problems) - _PROBLEMS_SHOWN
    told = "; ".join(problems[:_PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return Check(
        name="settings",
        verdict=Verdict.WRONG,
        evidence=told,
        next_step="Mend them: `guard config check`. A running guard keeps the old ones, a start is refused.",
    )


def _history(host: HostFacts) -> Check:
    path, error = host.paths.history, host.history_error
    if error is not None and error.errno == errno.ENOENT:
        return Check(name="history", verdict=Verdict.GOOD, evidence=f"nothing is recorded yet ({path})")
    if error is not None and error.errno in DENIED:
        raise error
    if error is not None:
        evidence = f"{error.doing} {path}: {error.cause}"
        return Check(name="history", verdict=Verdict.WRONG, evidence=evidence, next_step=error.next_step)
    size = f"{path}, {format_bytes(path.stat().st_size)}"
    if not host.history_checked:
        return Check(
            name="history",
            verdict=Verdict.UNKNOWN,
            evidence=f"readable ({size}), but not all pages could be checked in {CHECK_SECONDS:.0f} s",
            next_step=f"`sqlite3 {path} 'PRAGMA quick_check'` checks them all.",
        )
    newest = "empty" if host.newest is None else f"newest decision {host.newest.id} at {host.newest.last_at}"
    return Check(name="history", verdict=Verdict.GOOD, evidence=f"sound ({size}), {newest}")


def _conntrack(host: HostFacts) -> Check:
    return verdicts.conntrack(LiveKernel(host.paths).limit(), host.buckets)


def _namespace(host: HostFacts) -> Check:
    pid = host.pid
    beside = None if pid is None else facts.same_namespace(host.paths.proc, pid)
    return verdicts.namespace(initial=facts.is_initial(host.paths.limit), guard_beside=beside)


def _writable(host: HostFacts) -> Check:
    path = host.paths.limit
    if host.limit is None:
        return Check(name="writable", verdict=Verdict.UNKNOWN, evidence="there is no limit to write yet")
    error = facts.open_error(host.seen_by_guard(path), os.O_WRONLY)
    refused = host.state.refusal if host.state else None
    if error is not None and error.errno in DENIED and not host.root:
        return _unmade("writable", f"this user may not write {path}", denied=True, root=False)
    if error is not None:
        step = "Make it writable for the guard's unit (ReadWritePaths=/proc/sys/net/netfilter), or run it on the host."
        evidence = f"the guard can't write {path}: {error.strerror}"
        return Check(name="writable", verdict=Verdict.WRONG, evidence=evidence, next_step=step)
    if refused is not None and host.limit == refused.limit:
        evidence = f"the kernel refused the last write: {os.strerror(refused.errno)}"
        step = "`guard history --verdict raise` shows what was written."
        return Check(name="writable", verdict=Verdict.WRONG, evidence=evidence, next_step=step)
    return Check(name="writable", verdict=Verdict.GOOD, evidence=f"{path} can be opened for writing")


def _buckets(host: HostFacts) -> Check:
    return verdicts.buckets(host.limit, host.buckets)


def _ring_buffer(host: HostFacts) -> Check:
    path = host.paths.kmsg
    if ((host.live or {}).get("sources") or {}).get("ring_buffer") == "following":
        return Check(name="ring_buffer", verdict=Verdict.GOOD, evidence="the running guard reads it")
    error = facts.open_error(path, os.O_RDONLY)
    if error is None:
        return Check(name="ring_buffer", verdict=Verdict.GOOD, evidence=f"{path} can be read")
    if error.errno in DENIED and not host.root:
        return _unmade("ring_buffer", f"this user may not read {path} (CAP_SYSLOG)", denied=True, root=False)
    return Check(
        name="ring_buffer",
        verdict=Verdict.NOTE,
        evidence=f"{path}: {error.strerror}; lines come from the journal alone, 250 to 500 ms late",
        next_step="Hand it in: StandardInput=file:/dev/kmsg in the guard's unit.",
    )


def _journal(host: HostFacts) -> Check:
    """Look for the kernel's newest warning in the journal, a little while if need be."""
    warned = _newest_warning(host.paths)
    deadline = time.monotonic() + JOURNAL_SECONDS
    while True:
        exists, here = _newest_in_journal(host)
        behind = warned if warned is not None and (here is None or here < warned) else None
        if behind is None or not exists or time.monotonic() >= deadline:
            return verdicts.journal(here, exists=exists, permitted=host.root or exists, behind=behind)
        time.sleep(JOURNAL_SECONDS / 5)


def _newest_warning(paths: Paths) -> int | None:
    try:
        ring = RingBuffer.open(paths.kmsg)
    except HostError:
        return None
    try:
        return ring.newest_warning()
    finally:
        ring.close()


def _newest_in_journal(host: HostFacts) -> tuple[bool, int | None]:
    """Return whether there is a journal, and the stamp of its newest kernel line, None where that is of another boot."""
    folder = None if host.paths.root == Path("/") else host.paths.root / "var/log/journal"
    try:
        exists, boot_id, stamp = newest_line(folder)
    except FileNotFoundError:
        return False, None
    except READ_ERRORS as error:
        next_step = "`journalctl --verify` names the files that are damaged."
        raise HostError("reading", "the journal", OSError(None, str(error)), next_step) from error
    return exists, stamp if boot_id == host.boot_id else None


def _drop_in(host: HostFacts) -> Check:
    kept = host.kept
    if kept is None and host.state is None:
        evidence = "nothing is kept; whether the guard raised the limit in this boot can't be read"
        return _unmade("drop_in", evidence, denied=True, root=host.root)
    raised_to = host.state.set_limit if host.state else None
    return verdicts_boot.drop_in(str(host.paths.drop_in), kept, host.limit, raised_to, persist=host.persist)


def _at_boot(host: HostFacts) -> Check:
    files = sysctl_files(host.paths.root)
    return verdicts_boot.order(files, Tool.SYSTEMD, str(host.paths.drop_in), host.kept)


def _sysctl_system(host: HostFacts) -> Check:
    files = sysctl_files(host.paths.root)
    return verdicts_boot.order(files, Tool.PROCPS, str(host.paths.drop_in), host.kept)


def _boot_trap(host: HostFacts) -> Check:
    found = module_loading(host.paths.root)
    kept = host.persist or host.kept is not None
    return verdicts_boot.boot_trap(built_in=found.built_in, rule=found.rule, listed=found.listed, kept=kept)


def _other_writers(host: HostFacts) -> Check:
    found = other_writers(host.paths.root, os.cpu_count() or 1)
    lowered = None if host.state is None else verdicts_guard.lowerings(host.state, host.policy, host.now)
    unseen = "" if sees_processes(host.paths.root) else "other users' processes are hidden from this one"
    unseen = unseen if lowered is not None else "the history can't be read"
    limit = host.kept if host.kept is not None else host.limit
    return verdicts_guard.other_writers(found, lowered, limit, unseen=unseen)


def _disk(host: HostFacts) -> Check:
    folder = host.paths.state_folder
    left = facts.free_space(host.seen_by_guard(folder))
    return verdicts.disk(str(folder), left.free_bytes, inodes_left=left.inodes_left, writable=left.writable)


def _clock(host: HostFacts) -> Check:
    newest = host.newest.last_seconds if host.newest else None
    return verdicts.clock(host.boot_id, host.wall_seconds, newest)


def _pause(host: HostFacts) -> Check:
    return verdicts_guard.pause(host.runtime_dir.pause(host.now), host.now)


def _guard(host: HostFacts) -> Check:
    age = None
    if host.live is not None:
        age = host.wall_seconds - host.paths.status_file.stat().st_mtime
    beside = host.paths.mode is Mode.ACT and bool(RuntimeDir(Paths(host.paths.root, Mode.DRY_RUN)).is_running())
    return verdicts_guard.guard(host.live, age, running=host.running, rehearsing=beside)


_CHECKS: dict[str, Callable[[HostFacts], Check]] = {
    "guard": _guard,
    "settings": _settings,
    "pause": _pause,
    "conntrack": _conntrack,
    "namespace": _namespace,
    "writable": _writable,
    "buckets": _buckets,
    "ring_buffer": _ring_buffer,
    "journal": _journal,
    "drop_in": _drop_in,
    "at_boot": _at_boot,
    "sysctl_system": _sysctl_system,
    "boot_trap": _boot_trap,
    "other_writers": _other_writers,
    "history": _history,
    "disk": _disk,
    "clock": _clock,
}
