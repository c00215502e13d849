"""The drop-in: the sysctl.d file that persists the limit, and the buckets that were raised for it.

`host.dropin_lock` orders its writers.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Self

from conntrackd_guard import __version__
from conntrackd_guard.core.codec import decode
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.limits import is_lower, is_unlimited, lowest_accepted
from conntrackd_guard.core.model import PersistedLimit, Raise, Record
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
from conntrackd_guard.host.dropin_lock import DropInLock, DropInOverride
from conntrackd_guard.host.paths import Paths

_SETTING = re.compile(rb"^net\.netfilter\.nf_conntrack_max = (\d{1,10})$", re.MULTILINE)
_BUCKETS = re.compile(rb"^net\.netfilter\.nf_conntrack_buckets = (\d{1,10})$", re.MULTILINE)
_DECISION = re.compile(rb"^# When: .* Decision: `guard show ([^`]{1,64})`$", re.MULTILINE)
_ID = re.compile(rb"\b(boot_id|machine_id)=([0-9a-f-]{1,64})\b")
_SIZE = re.compile(rb"\b(memory_total_bytes|budget_bytes)=(\d{1,18})(?!\S)")
_LISTED, _VALUE = 8, 40
"""Lines and characters of a value in the comment: it is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Persisted:
    """Content of the file. `why` is the guard's own sentence, without text from the kernel."""

    limit: int
    buckets: int | None = None
    """Hash buckets that the guard raised; None: it raised none with this decision."""
    at: str
    version: str
    decision: str
    why: str
    boot_id: str
    memory_total_bytes: int
    budget_bytes: int

    @classmethod
    def from_record(cls, record: Record, limit: int, sentence: str) -> Self:
        """Return the content for the record that set `limit`."""
        decision, observation = record.decision, record.observation
        return cls(
            limit=limit,
            buckets=decision.buckets_target if isinstance(decision, Raise) else None,
            at=rfc3339(observation.wall_seconds),
            version=__version__,
            decision=record.key,
            why=sentence,
            boot_id=observation.boot_id,
            memory_total_bytes=observation.memory_total_bytes,
            budget_bytes=decision.arithmetic.budget_bytes if isinstance(decision, Raise) else 0,
        )


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
        wanted = _wanted(pending)
        if wanted is None:
            return None
        return PersistedLimit(
            limit=wanted.limit, buckets=wanted.buckets, decision=wanted.decision, boot_id=wanted.boot_id
        )

    def overridden_by(self) -> list[Overriding]:
        """Return the lines of other files that have limit or buckets end at other values."""
        return _overridden_by(sysctl_files(self._paths.root), self._paths)

    def put(self, persisted: Persisted, decided_seconds: float, buckets: int | None = None) -> None:
        """Persist a limit durably, unless a newer decision has the file already.

        Buckets that an earlier raise persisted stay, unless more are in force by now (`buckets`): another program's.
        """
        decided_us = int(decided_seconds * 1e6)
        with self._lock.held():
            self._obey()
            if decided_us > self._lock.followed_us():
                before = None
                with contextlib.suppress(HostError):  # what can't be read is replaced
                    before = self._read() if persisted.buckets is None else None
                if before is not None and (before.buckets or 0) >= (buckets or 0):
                    persisted = replace(persisted, buckets=before.buckets)
                self._write(persisted)
                self._lock.follow(decided_us)
            self._obey()

    def release(self, limit: int) -> int | None:
        """Remove a persisted limit that is lower than `limit` and return it."""
        with self._lock.held():
            self._obey()
            persisted = self.limit()
            if persisted is None or not is_lower(persisted, limit):
                return None
            self._remove()
            self._obey()
            return persisted

    def override(self, persisted: Persisted | None, decided_seconds: float) -> None:
        """Persist what an operator wants, None: nothing. A write at work in another process ends in this too."""
        content = None if persisted is None else asdict(persisted)
        override = DropInOverride(int(decided_seconds * 1e6), content)
        self._lock.leave_override(override)
        with self._lock.held():
            self._carry_out(override)
            self._obey()

    def follow_override(self) -> None:
        """Do what an earlier `override` could not, as it was killed or the disk stalled."""
        if self._lock.pending_override() is not None:
            with self._lock.held():
                self._obey()

    def _obey(self) -> None:
        """Carry out overrides until none is pending: another may have come meanwhile."""
        while (override := self._lock.pending_override()) is not None:
            self._carry_out(override)

    def _carry_out(self, override: DropInOverride) -> None:
        wanted = _wanted(override)
        if wanted is None:
            self._remove()
        else:
            self._write(wanted)
        self._lock.follow(override.decided_us)

    def _read(self) -> PersistedLimit | None:
        try:
            content = files.read(self._paths.drop_in)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise HostError("read", self._paths.drop_in, error, "Check its rights.") from error
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

    def _write(self, persisted: Persisted) -> None:
        path = self._paths.drop_in
        next_step = "Until this works, the limit falls back at the next boot; it is tried again."
        with files.translate_errors("write", path, next_step):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, self._text(persisted).encode(), durable=True)

    def _remove(self) -> None:
        path = self._paths.drop_in
        missing = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with files.translate_errors("remove", path, "Remove it by hand."), missing:
            path.unlink()
            files.sync_folder(path.parent)

    def _text(self, persisted: Persisted) -> str:
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
# Written by conntrackd-guard {persisted.version}; the next raise replaces this file.
# When: {persisted.at}   Decision: `guard show {persisted.decision}`
# Why: {persisted.why}
# Overrides: {_listed(overridden) or "nothing"}{but}
# To go back: `guard revert --all`. To remove: delete this file; the running limit stays until a reboot.
# boot_id={persisted.boot_id} machine_id={_printable(machine)}
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


def _wanted(override: DropInOverride) -> Persisted | None:
    """Return what an override wants persisted; nothing where another version wrote it."""
    with contextlib.suppress(ValueError):
        return None if override.content is None else decode(Persisted, override.content)
    return None


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
