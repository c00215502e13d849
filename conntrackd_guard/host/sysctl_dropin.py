"""The one file that carries the limit over a reboot."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Protocol

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.model import PersistedLimit
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_files import assignments

_SETTING = re.compile(rb"^net\.netfilter\.nf_conntrack_max = (\d+)$", re.MULTILINE)

_DECISION = re.compile(rb"^# When: .* Decision: `guard show ([^`]{1,64})`$", re.MULTILINE)
_ORIGIN = re.compile(rb"\b(boot_id|machine_id|memory_total_bytes|budget_bytes)=([0-9a-f-]{1,64})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Persisted:
    """What the file says and why. `why` is the guard's own sentence: no text from the kernel."""

    limit: int
    at: str
    version: str
    decision: str
    why: str
    boot_id: str
    memory_total_bytes: int
    budget_bytes: int


class DropIn(Protocol):
    """The port that makes a limit survive a reboot. Methods raise HostError."""

    def limit(self) -> int | None:
        """Return the persisted limit."""

    def kept(self) -> PersistedLimit | None:
        """Return the persisted limit and what the file says of its origin."""

    def put(self, persisted: Persisted) -> None:
        """Persist a limit."""

    def remove(self) -> None:
        """Persist nothing any more."""


class SysctlDropIn:
    """/etc/sysctl.d/99-zz-conntrackd-guard.conf, replaced in one step."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def limit(self) -> int | None:
        """Return the limit in the file, None without a file (or without our line in it)."""
        kept = self.kept()
        return None if kept is None else kept.limit

    def kept(self) -> PersistedLimit | None:
        """Return what the file keeps, None without a file (or without our line in it)."""
        try:
            content = files.read(self._paths.drop_in)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise HostError("reading", self._paths.drop_in, error, "Check its rights.") from error
        setting = _SETTING.search(content)
        if setting is None:
            return None
        told = {name.decode(): value.decode("ascii", "replace") for name, value in _ORIGIN.findall(content)}
        decision = _DECISION.search(content)
        return PersistedLimit(
            limit=int(setting[1]),
            decision=decision[1].decode("ascii", "replace") if decision else "",
            boot_id=told.get("boot_id", ""),
            machine_id=told.get("machine_id", ""),
            memory_total_bytes=_number(told.get("memory_total_bytes", "")),
            budget_bytes=_number(told.get("budget_bytes", "")),
        )

    def put(self, persisted: Persisted) -> None:
        """Write the file durably: temporary file, fsync, rename, fsync of the folder."""
        path = self._paths.drop_in
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, self._text(persisted).encode(), durable=True)
        except OSError as error:
            raise HostError(
                "writing", path, error, "Until this works, the limit falls back at the next boot; it is tried again."
            ) from error

    def remove(self) -> None:
        """Remove the file durably; without one there is nothing to do."""
        path = self._paths.drop_in
        try:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                files.sync_folder(path.parent)
        except OSError as error:
            raise HostError("removing", path, error, "Remove it by hand.") from error

    def _text(self, persisted: Persisted) -> str:
        others = [found for found in assignments(self._paths.root) if found.path != str(self._paths.drop_in)]
        overridden = [_printable(f"{found.path}:{found.line} ({found.value})") for found in others]
        try:
            machine = files.read(self._paths.machine_id).decode("ascii", "replace").strip()
        except OSError:
            machine = "unknown"
        return "\n".join(
            [
                f"# Written by conntrackd-guard {persisted.version}; the next raise replaces this file.",
                f"# When: {persisted.at}   Decision: `guard show {persisted.decision}`",
                f"# Why: {persisted.why}",
                f"# Overrides: {', '.join(overridden) or 'nothing'}",
                "# To go back: `guard revert --all`. To remove: delete this file; the running limit stays until a reboot.",
                f"# boot_id={persisted.boot_id} machine_id={_printable(machine)}",
                f"# memory_total_bytes={persisted.memory_total_bytes} budget_bytes={persisted.budget_bytes}",
                f"net.netfilter.nf_conntrack_max = {persisted.limit}",
                "",
            ]
        )


class NoDropIn:
    """Persists nothing: dry run, and `persist: false`. `real` is what a dry run may read of the acting guard's file."""

    def __init__(self, real: DropIn | None = None) -> None:
        self._real = real

    def limit(self) -> int | None:
        """Return None: nothing is persisted."""
        return None

    def kept(self) -> PersistedLimit | None:
        """Return what the acting guard keeps."""
        return None if self._real is None else self._real.kept()

    def put(self, persisted: Persisted) -> None:
        """Write nothing."""

    def remove(self) -> None:
        """Remove nothing."""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _printable(text: str) -> str:
    """A file name or a value could end the comment line: keep what prints."""
    return "".join(char if char.isprintable() else "?" for char in text)
