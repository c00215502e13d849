"""The kernel's ring buffer, /dev/kmsg: it has a kernel message within microseconds.

One read returns one record: `priority,sequence,timestamp,flags[,caller=…];message`, a newline, and perhaps lines
` KEY=value`. A record that a process wrote never has facility 0, whatever the process requested.
"""

import errno
import os
import stat
from collections.abc import Iterator
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
"""The level of the messages that the guard looks for."""

_recognise = lru_cache(maxsize=16)(recognise)
"""The kernel logs ten equal messages within a millisecond, while it drops packets."""


class RingBuffer:
    """The ring buffer, read through one descriptor. Methods raise HostError if the kernel refuses."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor, self._path = descriptor, path
        self._boot_id = files.read(Path("/proc/sys/kernel/random/boot_id")).decode("ascii").strip()
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
            next_step = "Run as root (CAP_SYSLOG), or pass the open device as standard input."
            raise HostError("open", path, error, next_step) from error
        if not cls.is_kmsg(descriptor):
            os.close(descriptor)
            next_step = "This isn't the ring buffer: create device 1:11 there."
            raise HostError("read kernel messages from", path, None, next_step)
        return cls(descriptor, str(path))

    @classmethod
    def adopt(cls, descriptor: int) -> Self:
        """Read from `descriptor`, opened by somebody else, from its oldest record on; make it non-blocking.

        That flag and the position belong to the open file: they change for every process that shares it.
        """
        path = f"descriptor {descriptor}"
        if not cls.is_kmsg(descriptor):
            raise HostError("read kernel messages from", path, None, "Pass /dev/kmsg, for example `</dev/kmsg`.")
        try:
            os.set_blocking(descriptor, False)
            os.lseek(descriptor, 0, os.SEEK_SET)
        except OSError as error:
            raise HostError("prepare", path, error, "Pass /dev/kmsg opened for reading.") from error
        return cls(descriptor, path)

    @staticmethod
    def is_kmsg(descriptor: int) -> bool:
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
        """Read all that the buffer holds; return the events among it, and the newest timestamp (µs) of any record."""
        events: list[KernelEvent] = []
        newest = None
        for record in self._records(_MOST_HELD):
            newest = _stamp(record) or newest
            if (event := self._event(record)) is not None:
                events.append(event)
        return events, newest

    def read(self, most: int = 1000) -> list[KernelEvent]:
        """Return the events among the next `most` records; what is left keeps the descriptor readable."""
        full, suppressed, overflow = MARKS
        return [
            event
            for record in self._records(most)
            if (full in record or suppressed in record or overflow in record)
            and (event := self._event(record)) is not None
        ]

    def newest_warning(self) -> int | None:
        """Read all that the buffer holds; return the timestamp (µs) of the kernel's own newest warning, or worse."""
        newest = None
        for record in self._records(_MOST_HELD):
            priority = record.partition(b",")[0]
            if priority.isdigit() and int(priority) <= _WARNING:
                newest = _stamp(record) or newest
        return newest

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def _records(self, most: int) -> Iterator[bytes]:
        """Yield the next records, after up to `most` reads none."""
        self.is_drained = False
        for _ in range(most):
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:  # the next read returns the oldest record that is left
                    self.overruns += 1
                elif error.errno != errno.EINVAL:  # that is a record longer than any kernel writes: it was skipped
                    next_step = "Restart the guard. Until then it follows the journal."
                    raise HostError("read", self._path, error, next_step) from error
                continue
            if not record:
                break
            yield record
        else:
            return
        self.is_drained = True

    def _event(self, record: bytes) -> KernelEvent | None:
        """Return the event in a raw record, None if it isn't the kernel's own or doesn't concern the guard."""
        head, _, text = record.partition(b";")
        priority, _, stamp, *_ = [*head.split(b",", 3), b"", b""]
        if not priority.isdigit() or int(priority) >= _FACILITY_0_BELOW:
            return None
        message = _recognise(text.partition(b"\n")[0].decode("ascii", "replace"))
        if message is None:
            return None
        stamp_us = int(stamp) if stamp.isdigit() else None
        return KernelEvent(message=message, stamp_us=stamp_us, boot_id=self._boot_id, source="ring buffer")


def _stamp(record: bytes) -> int | None:
    """Return a raw record's timestamp in µs, None if it has none."""
    fields = record.split(b",", 3)
    return int(fields[2]) if len(fields) > 3 and fields[2].isdigit() else None  # noqa: PLR2004
