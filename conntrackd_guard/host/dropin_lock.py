"""One writer of the drop-in at a time, across processes, and the newest decision wins.

The guard's recorder and `guard revert` both write the drop-in, and a disk can stall either of them in the middle of it.
Two files under /run, which no disk can stall, decide what becomes of such a write. The lock file carries the time of the
decision that the drop-in follows. The override file carries what a revert wants, and is left before the revert waits for
the lock: whoever holds the lock reads it again after its own write.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

WAIT_SECONDS = 2.0
"""A write takes milliseconds; one that lasts longer than this waits for a stalled disk."""
_POLL_SECONDS = 0.02
_CONTENT_BYTES = 80
"""Process id, boot id and microseconds, padded: one write that leaves nothing of an older content."""


@dataclass(frozen=True, slots=True)
class DropInOverride:
    """The drop-in that a revert wants."""

    decided_us: int
    """CLOCK_BOOTTIME."""
    content: dict[str, Any] | None
    """The fields of `Persisted`; None: no drop-in."""


class DropInLock:
    """The lock beside the drop-in. `followed_us` may be used by its holder only; times of another boot count as 0."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def leave_override(self, override: DropInOverride) -> None:
        """Have the holder of the lock, now and later, follow `override`. Raises HostError."""
        path = self._paths.drop_in_override
        content = {"boot_id": self._boot_id, "decided_us": override.decided_us, "content": override.content}
        with files.translate_errors("write", path, "Check that /run has room and is writable."):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, json.dumps(content).encode(), mode=0o600, durable=False)

    def pending_override(self) -> DropInOverride | None:
        """Return the override that the drop-in does not follow yet. Never raises."""
        with suppress(OSError, ValueError, TypeError, LookupError, OverflowError):
            left = files.read_json(self._paths.drop_in_override)
            override = DropInOverride(int(left["decided_us"]), left["content"])
            if left["boot_id"] == self._boot_id and override.decided_us > self.followed_us():
                return override
        return None

    def followed_us(self) -> int:
        """Return the time of the decision that the drop-in follows, 0 if none of this boot wrote it."""
        with suppress(OSError, ValueError):
            _, boot_id, decided_us = files.read(self._paths.drop_in_lock).decode("ascii").split()
            return int(decided_us) if boot_id == self._boot_id else 0
        return 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock. Raises HostError if another process has it for WAIT_SECONDS; a killed holder frees it."""
        path = self._paths.drop_in_lock
        with files.translate_errors("lock", path, "Check /run."):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = files.open_lock(path)
        try:
            self._wait(descriptor)
            self.follow(self.followed_us())  # notes this process as the holder
            yield
        finally:
            os.close(descriptor)

    def follow(self, decided_us: int) -> None:
        """Note the decision that the drop-in follows now. For the holder. Raises HostError."""
        content = f"{os.getpid()} {self._boot_id} {decided_us}".ljust(_CONTENT_BYTES - 1) + "\n"
        path = self._paths.drop_in_lock
        with files.translate_errors("write", path, "Check /run."):
            descriptor = files.open_lock(path)
            try:
                os.write(descriptor, content.encode())
            finally:
                os.close(descriptor)

    def _wait(self, descriptor: int) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
        holder = os.pread(descriptor, _CONTENT_BYTES, 0).decode("ascii", "replace").partition(" ")[0]
        busy = OSError(errno.EBUSY, f"process {holder or 'unknown'} is still writing it, so the disk may be stalled")
        next_step = "The file follows the newest decision as soon as that write ends."
        raise HostError("write", self._paths.drop_in, busy, next_step)

    @property
    def _boot_id(self) -> str:
        return files.read_id(self._paths.boot_id) or "unknown"
