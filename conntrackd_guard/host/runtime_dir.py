"""Files of one boot under /run: lock, intents, overrides, pause and status.

They are in memory, so a stalled disk does not affect them. They survive kill -9; like the kernel's limit, they don't
survive a reboot. Only root may write to the folder.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conntrackd_guard.core.codec import encode_one
from conntrackd_guard.core.errors import AnswerIsNo, HostError, NotPermitted
from conntrackd_guard.core.model import Pause
from conntrackd_guard.core.text import LONGEST_REASON
from conntrackd_guard.core.units import MOST_BYTES, MOST_SECONDS
from conntrackd_guard.host import files
from conntrackd_guard.host.container import RUN_FOLDER, mount_step
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.processes import home, own_pid

_NO_ROOM = "Check that /run has room and is writable."
_STOP = "Stop it first, or see `guard status`."
_STATUS_NUMBERS = {
    "pid": 1 << 22, "since": 1e11, "at": 1e11, "boottime_seconds": MOST_SECONDS, "memory_total_bytes": MOST_BYTES,
}  # fmt: skip
"""Numbers in a status, each with its maximum: `PID_MAX_LIMIT`, the year 5138, 100 years, 1 EiB."""
_STATUS_LISTS = (("recorder", "trouble"), ("sources", "notes"))
_LOCK = re.compile(rb"^[0-9]+: FLOCK +ADVISORY +WRITE +([0-9]{1,10}) ([0-9a-f]+:[0-9a-f]+:[0-9]+) ", re.MULTILINE)
"""A row of /proc/locks: `1: FLOCK  ADVISORY  WRITE 4711 00:1a:1234 0 EOF`."""
_JSON = json.JSONEncoder(default=encode_one, check_circular=False)


class JsonFolder:
    """A folder with one JSON file for each key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, content: object) -> None:
        """Write or replace a file; `content` is a value of `core.model` or a dict. Raises HostError."""
        path = f"{self._folder}/{key}.json"
        try:
            files.replace(path, _JSON.encode(content).encode(), durable=False)
        except OSError as error:
            raise HostError("write", path, error, _NO_ROOM) from error

    def all(self) -> list[tuple[str, dict[str, Any] | None]]:
        """Return all files, oldest first, as (key, content); unreadable content is None. Never raises."""
        found: list[tuple[int, str, dict[str, Any] | None]] = []
        try:
            names = [name for name in os.listdir(self._folder) if name.endswith(".json") and not name.startswith(".")]
        except OSError:
            return []
        for path in map(self._folder.joinpath, names):
            with contextlib.suppress(OSError):  # removed in the meantime
                content = _read(path)
                found.append((path.lstat().st_mtime_ns, path.stem, content))
        return [(key, content) for _, key, content in sorted(found, key=lambda item: item[:2])]

    def drop(self, key: str) -> None:
        """Remove a file, if it exists. Raises HostError."""
        _drop(self._folder / f"{key}.json")

    def set_aside(self, key: str) -> str:
        """Rename a file so that it is read no more, and return its path, safe to print. Raises HostError."""
        return files.set_aside(self._folder / f"{key}.json")


class RuntimeDir:
    """The guard's files of this boot. Methods raise HostError unless noted."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self.intents = JsonFolder(paths.intents)
        """One file for each write to the kernel, put before it is made and dropped once its record is durable."""
        self.overrides = JsonFolder(paths.overrides)
        """Records of overrides, queued for the running guard."""
        self._run_folder = JsonFolder(paths.run_folder)
        self.pause_files = (str(paths.fleet_pause), str(paths.pause))
        """While neither exists, raising is not paused: cheaper to check than `pause`."""
        self._lock: int | None = None
        self.pid, self.root = own_pid(paths), str(paths.root)
        """This process's, among the host's processes, and where it has the host's files."""

    def prepare(self) -> list[str]:
        """Create the folders, set aside what is none, and return a message for each of those. Raises NotPermitted too."""
        moved = list[str]()
        for folder in (self._paths.pause.parent, self._paths.run_folder, self._paths.intents, self._paths.overrides):
            denied = f"Can't write to {folder}: permission denied. Run this as root."
            try:
                if os.path.lexists(folder) and not folder.is_dir():
                    moved.append(f"{folder} is no folder. Moved it to {files.set_aside(folder)}.")
                folder.mkdir(mode=0o755, exist_ok=True)
            except PermissionError as error:
                raise NotPermitted(denied) from error
            except OSError as error:
                step = mount_step(self._paths, RUN_FOLDER, "Check that /run is mounted and writable.")
                raise HostError("create", folder, error, step) from error
            if os.geteuid() and not os.access(folder, os.W_OK):
                raise NotPermitted(denied)
        return moved + [
            f"{path} is no regular file. Moved it to {files.set_aside(path)}."
            for path in (
                self._paths.lock,
                self._paths.drop_in_lock,
                self._paths.drop_in_override,
                self._paths.status_file,
            )
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode)
        ]

    def take_lock(self) -> None:
        """Lock out other guards of this mode until this process ends. Raises AnswerIsNo if one is running."""
        path = self._paths.lock
        with files.translate_errors("lock", path, "Check /run."):
            descriptor = files.open_lock(path)
            os.fchmod(descriptor, 0o600)  # anyone who can open it could lock it
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise AnswerIsNo(self._occupied()) from error
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % self.pid)
        self._lock = descriptor
        for unfinished in self._paths.intents.glob(".*.json.new"):  # left by a kill: nobody but this guard writes there
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def _occupied(self) -> str:
        """Return who holds the lock and where: a guard from the package and one in a pod have the same lock."""
        pid, path = self.holder(), self._paths.lock
        if not pid:  # hidden, or a process of another PID namespace: as it noted itself
            return f"A guard is already running (process {files.read_id(path) or 'unknown'} holds {path}). {_STOP}"
        where = home(self._paths, pid)
        return f"A guard is already running (process {pid}{where and f' in {where}'} holds {path}). {_STOP}"

    def holder(self) -> int | None:
        """Return the pid of the running guard, 0 without one, None if unknown. Needs no rights. Never raises.

        Reads the kernel's list of locks: trying the lock could keep a guard from starting at that moment.
        """
        try:
            lock = os.stat(self._paths.lock)
        except OSError as error:
            return 0 if isinstance(error, FileNotFoundError) else None
        place = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
        for _ in range(2):  # the kernel shows a page at a time, and may skip a row if another lock ends meanwhile
            try:
                rows = files.read(self._paths.proc / "locks")
            except OSError:
                return None
            if rows and not rows.endswith(b"\n"):
                return None  # cut short
            if pids := [int(pid) for pid, where in _LOCK.findall(rows) if where == place.encode()]:
                return pids[0]
        return 0

    def is_running(self) -> bool | None:
        """Return whether a guard is running; None if unknown. Never raises."""
        holder = self.holder()
        return None if holder is None else holder > 0

    def put_pause(self, pause: Pause) -> None:
        """Pause raising."""
        content = {"version": 1, "by": pause.by, "reason": pause.reason, "until_seconds": pause.until_seconds}
        with files.translate_errors(
            "write", self._paths.pause, _NO_ROOM, {errno.EISDIR: "`guard resume` moves it away."}
        ):
            files.replace(self._paths.pause, json.dumps(content).encode(), durable=False)

    def drop_pause(self) -> None:
        """End an operator's pause."""
        _drop(self._paths.pause)

    def pause(self, now: float) -> Pause | None:
        """Return the pause in force at `now` (CLOCK_BOOTTIME), the fleet's or an operator's. Never raises."""
        if os.path.lexists(self.pause_files[0]):
            return Pause(by=self.pause_files[0], reason="the file exists")
        return self.operator_pause(now)

    def operator_pause(self, now: float) -> Pause | None:
        """Return the operator's pause in force at `now`. An unreadable file counts as a pause. Never raises."""
        try:
            content = files.read_json(self.pause_files[1])
            until = content["until_seconds"]
            by, reason = str(content["by"])[:LONGEST_REASON], str(content["reason"])[:LONGEST_REASON]
            pause = Pause(by=by, reason=reason, until_seconds=until)
            if until is None or now < until <= now + MOST_SECONDS:
                return pause
            if until <= now:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            if not os.path.lexists(self.pause_files[1]):
                return None
        return Pause(by=self.pause_files[1], reason="the file can't be read; `guard resume` removes it")

    def put_status(self, content: dict[str, Any]) -> None:
        """Publish the status of the running guard."""
        self._run_folder.put("status", content)

    def status(self) -> dict[str, Any] | None:
        """Return the last status of the running guard, None if it isn't one that a guard writes. Never raises."""
        content = _read(self._paths.status_file)
        return content if content is not None and is_status(content) else None


def is_status(content: Mapping[str, Any]) -> bool:
    """Return whether what a status contains has the types that its readers expect."""
    for name, most in _STATUS_NUMBERS.items():
        number = content.get(name, 0)
        if not isinstance(number, int | float) or not 0 <= number <= most:
            return False
    parts = [(content.get(part, {}), name) for part, name in _STATUS_LISTS]
    return all(isinstance(part, dict) and isinstance(part.get(name, []), list) for part, name in parts)


def acting_guard(root: Path, limit: int) -> str:
    """Return who of the acting guard and its operator set `limit`, for a dry run beside it; empty if neither. Never raises."""
    acting = RuntimeDir(Paths(root))
    reverted = [_value(content, "outcome", "limit_after") for _, content in acting.overrides.all()]
    raised = [_value(content, "decision", "target") for _, content in acting.intents.all()]
    if limit in reverted:
        return "`guard revert`"
    if limit in raised or (acting.status() or {}).get("limit") == limit:  # published right after a decision
        pid = acting.holder()
        return f"the acting guard (process {pid})" if pid else ""
    return ""


def _value(content: dict[str, Any] | None, part: str, name: str) -> object:
    found = (content or {}).get(part)
    return found.get(name) if isinstance(found, dict) else None


def _read(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if it can't be read, or is something else."""
    with contextlib.suppress(OSError, ValueError):
        return files.read_json(path)
    return None


def _drop(path: Path) -> None:
    with files.translate_errors("remove", path, "Check that /run is writable."):
        try:
            path.unlink(missing_ok=True)
        except IsADirectoryError:
            files.set_aside(path)
