"""One writer of the drop-in at a time, across processes, and the newest decision wins.

The guard's recorder, `guard revert` and `guard persist` write the drop-in, and a disk can stall each of them in the middle
of it. Files under /run, which no disk can stall, decide what becomes of such a write. The lock file carries the time of
the decision that the drop-in follows. The override file carries what a revert wants, and is left before the revert waits
for the lock: whoever holds the lock reads it again after its own write. The request file carries what a daemon wants that
may not write the drop-in itself, until `guard persist` takes it.

A daemon that was taken over may leave anything there: no file is followed as a link, and only numbers are taken from it.
A time ahead of now (a snapshot of /run, damage) counts for nothing, or no later decision would be written.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files
from conntrackd_guard.host.dropin_request import DropInRequest
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.processes import own_pid

WAIT_SECONDS = 2.0
"""A write takes milliseconds; one that lasts longer than this waits for a stalled disk."""
_POLL_SECONDS = 0.02
_CONTENT_BYTES = 80
"""Process id, boot id and microseconds, padded: one write that leaves nothing of an older content."""
_MOST_BYTES = 4096
"""Eight times a request."""
_CHECK_RUN = "Check that /run has room and is writable."


class DropInLock:
    """The lock beside the drop-in. `followed_us` may be used by its holder only; times of another boot count as 0."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._answer = paths.drop_in_request.with_suffix(".answer")
        """Why `guard persist` did not write the drop-in."""

    @property
    def boot_id(self) -> str:
        """The boot that requests and times are of."""
        return files.read_id(self._paths.boot_id) or "unknown"

    def leave_override(self, override: DropInRequest) -> None:
        """Have the holder of the lock, now and later, follow `override`. Raises HostError."""
        self._leave(self._paths.drop_in_override, override)

    def leave_request(self, request: DropInRequest) -> None:
        """Have conntrackd-guard-persist.path start `guard persist`, which takes the request. Raises HostError."""
        self._drop(self._answer)
        self._leave(self._paths.drop_in_request, request)

    def pending_override(self) -> DropInRequest | None:
        """Return the override that the drop-in does not follow yet; one of another version wants none. Never raises."""
        with suppress(OSError, ValueError, TypeError, LookupError, OverflowError):
            left = files.parse_json(self._read(self._paths.drop_in_override))
            try:
                override = DropInRequest.parse(left, self.boot_id)
            except ValueError:
                override = DropInRequest(boot_id=left["boot_id"], decided_us=int(left["decided_us"]), content=None)
            is_newer = override.decided_us > self.followed_us()
            if override.boot_id == self.boot_id and is_newer and not _is_ahead(override.decided_us):
                return override
        return None

    def is_taken(self) -> bool:
        """Return whether `guard persist` has taken the request that was left."""
        return not os.path.lexists(self._paths.drop_in_request)

    def drop_request(self) -> None:
        """Withdraw the request that nobody has taken yet, if there is one. Raises HostError."""
        self._drop(self._paths.drop_in_request)

    def take_request(self) -> DropInRequest | None:
        """Take the request that was left, None without one. One that can't be carried out is removed. Raises HostError."""
        path, taken = self._paths.drop_in_request, self._paths.drop_in_request.parent / f".drop-in.{os.getpid()}"
        with files.translate_errors("take", path, "Remove it by hand."):
            try:
                os.rename(path, taken)  # one that is left from now on is another
            except FileNotFoundError:
                return None
        refused = None
        try:
            return DropInRequest.parse(files.parse_json(self._read(taken)), self.boot_id)
        except OSError as error:
            refused = error
        except ValueError as error:
            refused = OSError(None, printable(str(error)))
        finally:
            with suppress(OSError):
                os.unlink(taken)
        next_step = "Nothing was written. Restart conntrackd-guard.service: another version of it may be running."
        raise HostError("carry out", path, refused, next_step)

    def leave_answer(self, decided_us: int | None, text: str) -> None:
        """Leave the reason why a request (None: one that can't be read) is not carried out, for the daemon. Never raises."""
        content = {"decided_us": decided_us, "error": text}
        with suppress(OSError):
            files.replace(self._answer, json.dumps(content).encode(), mode=0o600, durable=False)

    def answer(self, decided_us: int) -> str:
        """Return why the request decided at that time was not carried out, "" without an answer. Never raises."""
        with suppress(OSError, ValueError, LookupError):
            left = files.parse_json(self._read(self._answer))
            if left["decided_us"] in {None, decided_us}:
                return printable(str(left["error"]))
        return ""

    def followed_us(self) -> int:
        """Return the time of the decision that the drop-in follows, 0 if none of this boot wrote it."""
        with suppress(OSError, ValueError):
            _, boot_id, decided_us = self._read(self._paths.drop_in_lock).decode("ascii").split()
            return int(decided_us) if boot_id == self.boot_id and not _is_ahead(int(decided_us)) else 0
        return 0

    @contextmanager
    def held(self, wait_seconds: float | None = None) -> Iterator[None]:
        """Hold the lock. Raises HostError if another process has it for that long; a killed holder frees it."""
        path = self._paths.drop_in_lock
        with files.translate_errors("lock", path, "Remove it if it is no regular file; check /run."):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = files.open_lock(path)
        try:
            self._wait(descriptor, WAIT_SECONDS if wait_seconds is None else wait_seconds)
            self.follow(self.followed_us())  # notes this process as the holder
            yield
        finally:
            os.close(descriptor)

    def follow(self, decided_us: int) -> None:
        """Note the decision that the drop-in follows now. For the holder. Raises HostError."""
        content = f"{own_pid(self._paths)} {self.boot_id} {decided_us}".ljust(_CONTENT_BYTES - 1) + "\n"
        with files.translate_errors("write", self._paths.drop_in_lock, "Check /run."):
            descriptor = files.open_lock(self._paths.drop_in_lock)
            try:
                os.write(descriptor, content.encode())
                os.ftruncate(descriptor, _CONTENT_BYTES)  # damage may have left more
            finally:
                os.close(descriptor)

    def _wait(self, descriptor: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
        holder = os.pread(descriptor, _CONTENT_BYTES, 0).partition(b" ")[0]
        pid = holder.decode() if holder.isdigit() else "unknown"
        busy = OSError(errno.EBUSY, f"process {pid} is still writing it, so the disk may be stalled")
        next_step = "The file follows the newest decision as soon as that write ends."
        raise HostError("write", self._paths.drop_in, busy, next_step)

    def _leave(self, path: Path, request: DropInRequest) -> None:
        with files.translate_errors("write", path, _CHECK_RUN):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, json.dumps(request.document()).encode(), mode=0o600, durable=False)

    @staticmethod
    def _drop(path: Path) -> None:
        with files.translate_errors("remove", path, _CHECK_RUN):
            path.unlink(missing_ok=True)

    @staticmethod
    def _read(path: Path) -> bytes:
        """Return the content of a file that another process left. Raises OSError, also for anything but a small file."""
        try:
            return files.read(path, _MOST_BYTES, os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, "a symbolic link") from error
            raise


def _is_ahead(decided_us: int) -> bool:
    return decided_us > 1e6 * time.clock_gettime(time.CLOCK_BOOTTIME)
