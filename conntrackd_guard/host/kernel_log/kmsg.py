"""The kernel's ring buffer, /dev/kmsg: a kernel message is here within microseconds.

One read returns one record: `priority,sequence,stamp,flags[,caller=…];message`, a newline, and perhaps
` KEY=value` lines. A record that a process wrote has a facility other than 0, whatever it set.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Self

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.kernel_messages import MARKS, KernelEvent, recognise
from conntrackd_guard.host import files

_DEVICE = os.makedev(1, 11)
"""Linux's list of assigned device numbers: /dev/kmsg."""

_RECORD_BYTES = 8192
"""The longest record that /dev/kmsg returns (`CONSOLE_EXT_LOG_MAX`); a smaller buffer gets EINVAL."""

_MOST_HELD = 1_000_000
"""Records read at start: more than the largest buffer holds (`log_buf_len` 64 MiB), so this always ends."""

_FACILITY_0_BELOW = 8
"""priority = facility × 8 + level."""
_WARNING = 4
"""The level of the messages that the guard needs."""

_recognise = lru_cache(maxsize=16)(recognise)
"""The kernel prints ten equal messages within a millisecond, while it drops packets."""


class RingBuffer:
    """Follows the ring buffer through one descriptor. Methods raise HostError if the kernel refuses."""

    def __init__(
        self, descriptor: int, path: str, boot_id_path: Path = Path("/proc/sys/kernel/random/boot_id")
    ) -> None:
        self._descriptor, self._path = descriptor, path
        self._boot_id = files.read(boot_id_path).decode("ascii").strip()
        self.is_drained = True
        """Whether the last read came to the end."""
        self.overruns = 0
        """How often the kernel overwrote records before they were read; the journal may still have them."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the ring buffer at its oldest record."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            next_step = "Run as root (CAP_SYSLOG), or hand the open device in on standard input."
            raise HostError("open", path, error, next_step) from error
        if not cls.is_one(descriptor):
            os.close(descriptor)
            raise HostError(
                "read kernel messages from", path, None, "It is no ring buffer: make the device 1:11 there."
            )
        return cls(descriptor, str(path))

    @classmethod
    def adopt(cls, descriptor: int) -> Self:
        """Follow a descriptor that was handed in, from its oldest record; it becomes non-blocking.

        That flag and the position belong to the open file, not to the descriptor: whoever shares it sees both change.
        """
        path = f"descriptor {descriptor}"
        if not cls.is_one(descriptor):
            raise HostError("read kernel messages from", path, None, "Hand in /dev/kmsg, for example `</dev/kmsg`.")
        try:
            os.set_blocking(descriptor, False)
            os.lseek(descriptor, 0, os.SEEK_SET)
        except OSError as error:
            raise HostError("prepare", path, error, "Hand in /dev/kmsg opened for reading.") from error
        return cls(descriptor, path)

    @staticmethod
    def is_one(descriptor: int) -> bool:
        """Return whether the descriptor is the kernel's ring buffer. Never raises."""
        try:
            found = os.fstat(descriptor)
        except OSError:
            return False
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == _DEVICE

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with a record."""
        return self._descriptor

    def catch_up(self) -> tuple[list[KernelEvent], int | None]:
        """Read all that the buffer holds; return the messages among it and the newest stamp (µs) of any record."""
        events: list[KernelEvent] = []
        newest = None
        for _ in range(_MOST_HELD):
            record = self._next()
            if record is None:
                break
            newest = _stamp(record) or newest
            event = self._translate(record)
            if event is not None:
                events.append(event)
        return events, newest

    def read(self, most: int = 1000) -> list[KernelEvent]:
        """Return the kernel's messages among the next `most` records; what is left keeps the descriptor readable."""
        events, self.is_drained = [], False
        full, suppressed, overflow = MARKS
        for _ in range(most):
            record = self._next()
            if record is None:
                self.is_drained = True
                break
            if full in record or suppressed in record or overflow in record:
                event = self._translate(record)
                if event is not None:
                    events.append(event)
        return events

    def newest_warning(self) -> int | None:
        """Read all that the buffer holds; return the stamp (µs) of the kernel's own newest warning, or worse."""
        newest = None
        for _ in range(_MOST_HELD):
            record = self._next()
            if record is None:
                break
            priority = record.partition(b",")[0]
            if priority.isdigit() and int(priority) <= _WARNING:
                newest = _stamp(record) or newest
        return newest

    def close(self) -> None:
        """Stop following."""
        os.close(self._descriptor)

    def _next(self) -> bytes | None:
        """Return the next record, None at the end."""
        while True:
            try:
                return os.read(self._descriptor, _RECORD_BYTES) or None
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.EPIPE:  # the next read gets the oldest record that is left
                    self.overruns += 1
                elif error.errno == errno.EINVAL:  # a record longer than any kernel writes: the position moved past it
                    return b""
                else:
                    next_step = "Restart the guard; the journal is followed meanwhile."
                    raise HostError("read", self._path, error, next_step) from error

    def _translate(self, record: bytes) -> KernelEvent | None:
        """Return the event in a raw record, None if it isn't the kernel's or doesn't concern the guard."""
        head, _, text = record.partition(b";")
        message, _, _ = text.partition(b"\n")
        priority, _, stamp, *_ = [*head.split(b",", 3), b"", b""]
        if not priority.isdigit() or int(priority) >= _FACILITY_0_BELOW:
            return None
        recognised = _recognise(message.decode("ascii", "replace"))
        if recognised is None:
            return None
        return KernelEvent(
            message=recognised,
            stamp_us=int(stamp) if stamp.isdigit() else None,
            boot_id=self._boot_id,
            source="ring buffer",
        )


def _stamp(record: bytes) -> int | None:
    """Return a raw record's stamp in µs, None if it has none."""
    fields = record.split(b",", 3)
    return int(fields[2]) if len(fields) > 3 and fields[2].isdigit() else None  # noqa: PLR2004
