"""The kernel's ring buffer as a source of lines: within milliseconds, and without a journald."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Self

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.kernel_messages import recognise, worth_reading
from conntrackd_guard.core.model import KernelEvent

SOURCE = "ring buffer"
_DEVICE = os.makedev(1, 11)  # Documentation/admin-guide/devices.txt
_RECORD_BYTES = 8192  # a read with less room than a record needs is EINVAL; records end at about 1 KiB + dictionary
_KERNEL_FACILITY = 8  # prefix = facility * 8 + level; what user space writes never gets facility 0
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


class RingBuffer:
    """An open /dev/kmsg. `overruns` counts the times that records were lost to a full buffer."""

    def __init__(self, descriptor: int, boot_id: str) -> None:
        self._descriptor = descriptor
        self._boot_id = boot_id
        self.overruns = 0
        os.set_blocking(descriptor, False)

    @classmethod
    def open(cls, path: Path, boot_id: str) -> Self:
        """Open the device. Raises HostError where it is missing or needs CAP_SYSLOG."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            step = "Without it lines come by the journal alone, about 0.4 s late: run as root, or hand it in."
            raise HostError("opening", path, error, step) from error
        if not cls.is_one(descriptor):
            os.close(descriptor)
            raise HostError("opening", path, None, "It is not the kernel's ring buffer (character device 1:11).")
        return cls(descriptor, boot_id)

    @staticmethod
    def is_one(descriptor: int) -> bool:
        """Return whether a descriptor (standard input, say) is the ring buffer."""
        try:
            found = os.fstat(descriptor)
        except OSError:
            return False
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == _DEVICE

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._descriptor

    def catch_up(self) -> tuple[list[KernelEvent], int | None]:
        """Read to the end: return the lines of the past, and the newest stamp of any record (None if empty)."""
        events: list[KernelEvent] = []
        newest: int | None = None
        while (record := self._next()) is not None:
            stamp = _stamp(record)
            newest = stamp if newest is None or (stamp or 0) > newest else newest
            event = self._event(record)
            if event is not None:
                events.append(replace(event, held_at_start=True))
        return events, newest

    def read(self, most: int = 1000) -> list[KernelEvent]:
        """Return the lines that are there now, from `most` records; never blocks."""
        events = []
        for _ in range(most):
            record = self._next()
            if record is None:
                break
            if worth_reading(record) and (event := self._event(record)) is not None:
                events.append(event)
        return events

    def _next(self) -> bytes | None:
        """Return the next record, None when there is none yet."""
        while True:
            try:
                return os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.EPIPE:  # overrun: the next read gives the oldest record that is left
                    self.overruns += 1
                elif error.errno != errno.EINVAL:  # EINVAL: a record longer than the room; the kernel steps over it
                    step = "The journal goes on alone; restart the guard to try again."
                    raise HostError("reading", "/dev/kmsg", error, step) from error

    def _event(self, record: bytes) -> KernelEvent | None:
        """Read `prefix,sequence,stamp,flags[,…];message` and the dictionary lines after it."""
        head, _, rest = record.partition(b";")
        stamp = _stamp(record)
        try:
            from_kernel = int(head.split(b",", 1)[0]) < _KERNEL_FACILITY
        except ValueError:
            return None
        if not from_kernel or stamp is None:
            return None
        text = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), rest.split(b"\n", 1)[0])
        line = recognise(text.decode("utf-8", "replace"))
        return line and KernelEvent(line=line, stamp_us=stamp, boot_id=self._boot_id, source=SOURCE)


def _stamp(record: bytes) -> int | None:
    try:
        return int(record.split(b",", 3)[2])
    except (IndexError, ValueError):
        return None
