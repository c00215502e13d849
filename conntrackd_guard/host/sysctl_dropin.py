"""The drop-in: the sysctl.d file that persists the limit, and the buckets that were raised for it.

`host.dropin_lock` orders its writers.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from conntrackd_guard import __version__
from conntrackd_guard.core.errors import AnswerIsNo, GuardError, HostError
from conntrackd_guard.core.limits import format_limit, is_lower, is_unlimited, lowest_accepted
from conntrackd_guard.core.model import PersistedLimit
from conntrackd_guard.core.sysctl_precedence import (
    BUCKET_KEYS,
    FOLDERS,
    LIMIT_KEYS,
    Assignment,
    SysctlFile,
    Tool,
    overriding,
    read_before,
    writes,
)
from conntrackd_guard.core.units import rfc3339
from conntrackd_guard.host import files
from conntrackd_guard.host.conf_dirs import sysctl_files
from conntrackd_guard.host.dropin_lock import DropInLock
from conntrackd_guard.host.dropin_request import DropInRequest, Persisted
from conntrackd_guard.host.paths import Paths

_SETTING = re.compile(rb"^net\.netfilter\.nf_conntrack_max = (\d{1,10})$", re.MULTILINE)
_BUCKETS = re.compile(rb"^net\.netfilter\.nf_conntrack_buckets = (\d{1,10})$", re.MULTILINE)
_DECISION = re.compile(rb"^# When: .* Decision: `guard show ([^`]{1,64})`$", re.MULTILINE)
_ID = re.compile(rb"\b(boot_id|machine_id)=([0-9a-f-]{1,64})\b")
_SIZE = re.compile(rb"\b(memory_total_bytes|budget_bytes)=(\d{1,18})(?!\S)")
_MOST_BYTES = 64 * 1024
"""Sixteen times a drop-in with all its comments."""
_LISTED, _VALUE = 8, 40
"""Lines and characters of a value in the comment: it is for people."""


class Overriding(NamedTuple):
    """A line of another file that has a saved value end otherwise, and the tools that apply it so."""

    what: str
    saved: int
    line: Assignment
    tools: list[Tool]


class SysctlDropIn:
    """/etc/sysctl.d/99-zz-conntrackd-guard.conf, replaced in one step.

    `decided_seconds` is the CLOCK_BOOTTIME of the decision: an older one never replaces the file of a newer one.
    Methods raise HostError.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = DropInLock(paths)

    def limit(self) -> int | None:
        """Return the limit in the file, None without a file (or without a line of ours in it: 1 to INT_MAX)."""
        persisted = self._read()
        return None if persisted is None else persisted.limit

    def persisted(self) -> PersistedLimit | None:
        """Return the persisted limit with its origin, None without one; a pending override counts as written."""
        pending = self._lock.pending_override()
        if pending is None:
            return self._read()
        wanted = pending.content
        if wanted is None:
            return None
        return PersistedLimit(
            limit=wanted.limit, buckets=wanted.buckets, decision=wanted.decision, boot_id=pending.boot_id
        )

    def overridden_by(self) -> list[Overriding]:
        """Return the lines of other files that have limit or buckets end at other values."""
        return _overridden_by(sysctl_files(self._paths.root), self._paths)

    def put(self, persisted: Persisted, decided_seconds: float, buckets: int | None = None) -> None:
        """Persist a limit durably, unless a newer decision has the file already.

        Buckets that an earlier raise persisted stay, unless more are in force by now (`buckets`): another program's.
        """
        self._settle(self._request(replace(persisted, keeps_buckets=buckets or 0), decided_seconds))

    def release(self, limit: int, decided_seconds: float) -> int | None:
        """Remove a persisted limit that is lower than `limit` and return it, unless a newer decision has the file."""
        request = replace(self._request(None, decided_seconds), lower_than=limit)
        self._withdraw(request)
        with self._lock.held():  # behind a write at work
            persisted = self.limit()
        if persisted is None or not is_lower(persisted, limit):
            return None
        self._settle(request)
        return persisted if self.limit() is None else None

    def override(self, persisted: Persisted | None, decided_seconds: float) -> None:
        """Persist what an operator wants, None: nothing. A write at work in another process ends in this too."""
        override = self._request(persisted, decided_seconds)
        self._lock.leave_override(override)
        with self._lock.held():
            self._carry_out(override)
            self._obey()

    def follow_override(self) -> None:
        """Do what an earlier `override` could not, as it was killed or the disk stalled."""
        if (override := self._lock.pending_override()) is not None:
            self._settle(override)

    def serve(self) -> bool:
        """Carry out the request of a daemon that may not do it itself, and leave it the answer; False without a request.

        Raises AnswerIsNo once the request is gone, HostError while it stays.
        """
        decided_us = None
        try:
            if (request := self._lock.take_request()) is None:
                return False
            decided_us = request.decided_us
            self._follow(request)
        except GuardError as error:
            self._lock.leave_answer(decided_us, str(error))
            if self._lock.is_taken():
                raise AnswerIsNo(str(error)) from error
            raise
        return True

    def _withdraw(self, request: DropInRequest) -> None:  # noqa: ARG002 - for one that asks
        """Withdraw the request of an older decision than this one, if nobody has taken it yet."""
        self._lock.drop_request()

    def _request(self, content: Persisted | None, decided_seconds: float) -> DropInRequest:
        return DropInRequest(boot_id=self._lock.boot_id, decided_us=int(decided_seconds * 1e6), content=content)

    def _settle(self, request: DropInRequest) -> None:
        """Have the drop-in follow a request, and read it back."""
        self._follow(request)

    def _follow(self, request: DropInRequest) -> None:
        with self._lock.held():
            self._obey()
            if request.decided_us > self._lock.followed_us():
                self._carry_out(request)
            self._obey()
            self._read_back(request)

    def _obey(self) -> None:
        """Carry out overrides until none is pending: another may have come meanwhile. Each once, whatever the lock shows."""
        done = None
        while (override := self._lock.pending_override()) is not None and override != done:
            self._carry_out(override)
            done = override

    def _carry_out(self, request: DropInRequest) -> None:
        content, before = request.content, None
        with contextlib.suppress(HostError):  # what can't be read is replaced
            before = self._read()
        if content is not None:
            kept = None if before is None else before.buckets
            if content.buckets is None and content.keeps_buckets is not None and (kept or 0) >= content.keeps_buckets:
                content = replace(content, buckets=kept)
            self._write(content, request.boot_id)
        elif request.lower_than is None or (before is not None and is_lower(before.limit, request.lower_than)):
            self._remove()
        self._lock.follow(request.decided_us)

    def _read_back(self, request: DropInRequest) -> None:
        """Raise HostError if the drop-in follows `request` and does not hold what that wants. For the lock's holder.

        Another program replaced it meanwhile. It follows that request no longer: the next try writes it again.
        """
        wanted, found = None if request.content is None else request.content.limit, self.limit()
        if self._lock.followed_us() != request.decided_us or request.lower_than is not None or found == wanted:
            return
        self._lock.follow(request.decided_us - 1)
        holds = ["no limit" if limit is None else format_limit(limit) for limit in (found, wanted)]
        error = OSError(None, f"it holds {holds[0]} after a write of {holds[1]}")
        raise HostError("keep", self._paths.drop_in, error, "Find out what else writes it.")

    def _read(self) -> PersistedLimit | None:
        try:
            content = files.read(self._paths.drop_in, _MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise HostError("read", self._paths.drop_in, error, "Check its rights, or remove it.") from error
        setting = _SETTING.search(content)
        if setting is None or is_unlimited(int(setting[1])):
            return None
        origin: dict[str, Any] = {name.decode(): value.decode() for name, value in _ID.findall(content)}
        origin |= {name.decode(): int(value) for name, value in _SIZE.findall(content)}
        if decision := _DECISION.search(content):
            origin["decision"] = decision[1].decode("ascii", "replace")
        if raised := _BUCKETS.search(content):
            origin["buckets"] = int(raised[1])
        return PersistedLimit(limit=int(setting[1]), **origin)

    def _write(self, persisted: Persisted, boot_id: str) -> None:
        path = self._paths.drop_in
        next_step = "Until this works, the limit falls back at the next boot; it is tried again."
        with files.translate_errors("write", path, next_step):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, self._text(persisted, boot_id).encode(), durable=True)

    def _remove(self) -> None:
        path = self._paths.drop_in
        missing = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with files.translate_errors("remove", path, "Remove it by hand."), missing:
            path.unlink()
            files.sync_folder(path.parent)

    def _text(self, persisted: Persisted, boot_id: str) -> str:
        buckets = f"net.netfilter.nf_conntrack_buckets = {persisted.buckets}\n" if persisted.buckets else ""
        ours = SysctlFile(
            folder=FOLDERS[0],
            name=self._paths.drop_in.name,
            path=str(self._paths.drop_in),
            content=f"{buckets}net.netfilter.nf_conntrack_max = {persisted.limit}\n",
        )
        found = [file for file in sysctl_files(self._paths.root) if file.path != ours.path]
        before = read_before([*found, ours], ours.path)
        overridden = [line for line in writes(found, Tool.PROCPS) if line.path in before]
        by = [
            f"{_listed([other.line])} with {' and '.join(other.tools)}"
            for other in _overridden_by([*found, ours], self._paths)
        ]
        but = f"\n# Overridden by: {', '.join(by)}" if by else ""
        machine = files.read_id(self._paths.machine_id) or "unknown"
        return f"""\
# Written by conntrackd-guard {__version__}; the next raise replaces this file.
# When: {rfc3339(persisted.wall_seconds)}   Decision: `guard show {persisted.decision}`
# Why: {_why(persisted)}
# Overrides: {_listed(overridden) or "nothing"}{but}
# To go back: `guard revert --all`. To remove: delete this file; the running limit stays until a reboot.
# boot_id={boot_id} machine_id={_printable(machine)}
# memory_total_bytes={persisted.memory_total_bytes} budget_bytes={persisted.budget_bytes}
{ours.content}"""


class NoDropIn(SysctlDropIn):
    """Writes nothing: in a dry run, and with `persist: false`, which does not read the file either (`reads`)."""

    def __init__(self, paths: Paths, *, reads: bool) -> None:
        super().__init__(paths)
        self._reads = reads

    def persisted(self) -> PersistedLimit | None:
        """Return the acting guard's persisted limit."""
        return super().persisted() if self._reads else None

    def overridden_by(self) -> list[Overriding]:
        """Return nothing: no file of this guard could be overridden."""
        return []

    def _write_nothing(self, *_: object, **__: object) -> None:
        """Ignore a change."""

    put = release = override = follow_override = _write_nothing


def _why(persisted: Persisted) -> str:
    verb = "raised" if persisted.limit >= persisted.limit_before else "reverted"
    return f"the limit was {verb} from {persisted.limit_before:,} to {persisted.limit:,}."


def _overridden_by(found_files: Sequence[SysctlFile], paths: Paths) -> list[Overriding]:
    found: dict[Assignment, Overriding] = {}
    lowest = lowest_accepted(files.read_id(paths.kernel_release) or "", None)
    for what, keys, least in (("limit", LIMIT_KEYS, lowest), ("number of hash buckets", BUCKET_KEYS, 1)):
        for tool in Tool:
            if (other := overriding(found_files, tool, str(paths.drop_in), least, keys)) is not None:
                saved, line = other
                found.setdefault(line, Overriding(what, saved, line, [])).tools.append(tool)
    return list(found.values())


def _listed(lines: Sequence[Assignment]) -> str:
    """Return each line with its place and value; of many the last ones, which were in effect before."""
    shown = ", ".join(_printable(f"{line.path}:{line.line} ({line.value[:_VALUE]})") for line in lines[-_LISTED:])
    return f"{shown} and {len(lines) - _LISTED} more" if len(lines) > _LISTED else shown


def _printable(text: str) -> str:
    """Replace unprintable characters: a file name or value could end the comment line."""
    return "".join(char if char.isprintable() else "?" for char in text)
