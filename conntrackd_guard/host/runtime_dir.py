"""The files of one boot under /run: lock, intents, orders, pause and live status.

They live in memory, so no disk can stall them; they survive kill -9, and need not survive a power
cut because the kernel's limit does not either. Only root may write the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from conntrackd_guard.core.errors import AnswerIsNo, HostError, NotPermitted
from conntrackd_guard.core.model import Pause
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths


class RuntimeDir:
    """Reads and writes the guard's files of this boot. Methods raise HostError unless they say otherwise."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._pauses = (str(paths.fleet_pause), str(paths.pause))
        self._intents = str(paths.intents)
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make the folders. Raises NotPermitted where this user may not write there, HostError where it can't be done."""
        for folder in (self._paths.pause.parent, self._paths.run_folder, self._paths.intents, self._paths.orders):
            denied = f"writing in {folder}: permission denied. Run this as root."
            try:
                folder.mkdir(mode=0o755, exist_ok=True)
            except PermissionError as error:
                raise NotPermitted(denied) from error
            except OSError as error:
                raise HostError("creating", folder, error, "Check that /run is mounted and writable.") from error
            if os.geteuid() and not os.access(folder, os.W_OK):
                raise NotPermitted(denied)

    def take_lock(self) -> None:
        """Become the one guard of this host and mode, until this process ends. Raises AnswerIsNo if there is one."""
        path = self._paths.lock
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(descriptor, 0o600)  # whoever may open it may lock it
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                raise
        except BlockingIOError as error:
            holder = files.read(path).decode("ascii", "replace").strip()
            raise AnswerIsNo(
                f"A guard is running already (process {holder or 'unknown'} holds {path}). "
                "Stop it first, or look at it with `guard status`."
            ) from error
        except OSError as error:
            raise HostError("locking", path, error, "Check /run.") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
        self._lock = descriptor

    def holder(self) -> int | None:
        """Return the process id of the guard that holds the lock, 0 where none does, None where that can't be told.

        Any user may ask, and nothing is locked for it: a guard that starts meanwhile would find the lock taken.
        """
        try:
            lock = os.stat(self._paths.lock)
        except OSError as error:
            return 0 if isinstance(error, FileNotFoundError) else None
        place = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
        try:
            with open(self._paths.proc / "locks", encoding="ascii") as locks:
                for line in locks:  # 1: FLOCK  ADVISORY  WRITE 4711 00:1a:1234 0 EOF
                    _, kind, _, _, pid, where, *_ = line.split()
                    if (kind, where) == ("FLOCK", place):
                        return int(pid)
        except (OSError, ValueError):
            return None
        return 0

    def is_running(self) -> bool | None:
        """Return whether a guard holds the lock; None where that can't be told. Never raises."""
        holder = self.holder()
        return None if holder is None else holder > 0

    def put_intent(self, key: str, content: dict[str, Any]) -> None:
        """Note a write before it is made."""
        self._put(f"{self._intents}/{key}.json", content)

    def intents(self) -> list[tuple[str, dict[str, Any] | None]]:
        """Return open intents, oldest first, as (key, content); the content is None where it can't be read."""
        return self._all(self._paths.intents)

    def drop_intent(self, key: str) -> None:
        """Forget an intent: its record is durable."""
        self._drop(self._paths.intents / f"{key}.json")

    def put_override(self, key: str, content: dict[str, Any]) -> None:
        """Leave an order's record for the running guard to take into its state."""
        self._put(self._paths.orders / f"{key}.json", content)

    def orders(self) -> list[tuple[str, dict[str, Any] | None]]:
        """Return the orders left, oldest first, as (key, content)."""
        return self._all(self._paths.orders)

    def drop_override(self, key: str) -> None:
        """Forget an order."""
        self._drop(self._paths.orders / f"{key}.json")

    def put_pause(self, pause: Pause) -> None:
        """Stop raising until the pause ends."""
        content = {"version": 1, "by": pause.by, "reason": pause.reason, "until_seconds": pause.until_seconds}
        self._put(self._paths.pause, content)

    def drop_pause(self) -> bool:
        """End the pause that an order began; return whether there was one."""
        existed = self._paths.pause.exists()
        self._drop(self._paths.pause)
        return existed

    def pause(self, now: float) -> Pause | None:
        """Return the pause in force at `now` (CLOCK_BOOTTIME), whoever began it. Never raises."""
        fleet, _ = self._pauses
        if os.path.lexists(fleet):
            return Pause(by=fleet, reason="the file exists")
        return self.ordered_pause(now)

    def ordered_pause(self, now: float) -> Pause | None:
        """Return the pause that an order began and that is in force at `now`. Never raises.

        A file that can't be read counts as a pause: an operator wanted one.
        """
        try:
            content = json.loads(files.read(self._pauses[1]))
            until = content["until_seconds"]
            pause = Pause(
                by=str(content["by"]),
                reason=str(content["reason"]),
                until_seconds=None if until is None else float(until),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return Pause(by=self._pauses[1], reason="the file can't be read; `guard resume` removes it")
        return None if pause.until_seconds is not None and pause.until_seconds <= now else pause

    def put_status(self, content: dict[str, Any]) -> None:
        """Publish what the running guard says of itself."""
        self._put(self._paths.status_file, content)

    def status(self) -> dict[str, Any] | None:
        """Return what the running guard last said of itself. Never raises."""
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(files.read(self._paths.status_file))
            if isinstance(content, dict):
                return content
        return None

    @staticmethod
    def _put(path: Path | str, content: dict[str, Any]) -> None:
        try:
            files.replace(path, json.dumps(content).encode(), durable=False)
        except OSError as error:
            raise HostError("writing", path, error, "Check that /run has room and is writable.") from error

    @staticmethod
    def _drop(path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise HostError("removing", path, error, "Check that /run is writable.") from error

    @staticmethod
    def _all(folder: Path) -> list[tuple[str, dict[str, Any] | None]]:
        found: list[tuple[int, str, dict[str, Any] | None]] = []
        try:
            names = [name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith(".")]
        except OSError:
            return []
        for path in map(folder.joinpath, names):
            content = None
            with contextlib.suppress(OSError, ValueError):
                read = json.loads(files.read(path))
                content = read if isinstance(read, dict) else None
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime_ns, path.stem, content))
        return [(key, content) for _, key, content in sorted(found, key=lambda item: item[:2])]
