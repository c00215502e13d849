"""What is live, what is past, and what was taken already.

Kernel stamps are compared with kernel stamps of the same boot only: they drift from every system
clock, and run ahead by minutes after a suspend.
"""

from __future__ import annotations

from enum import Enum

from conntrackd_guard.core.kernel_messages import KernelEvent
from conntrackd_guard.core.model import MessageKind

MOST_REMEMBERED = 4096
"""Lines remembered for pairing (about 0.8 MB). At the kernel's own rate, 10 lines in 5 s, that is half an hour;
journald brings a line to the journal within half a second."""

_Key = tuple[str, int, MessageKind, int | None]


class MessageStatus(Enum):
    """What becomes of a line."""

    NEW = "new"
    HISTORICAL = "historical"
    DUPLICATE = "duplicate"


class Deduplicator:
    """Judges each line once, whichever source heard it first.

    `newest_stamp_us` is the newest stamp in the ring buffer at start, None where it could not be read.
    """

    def __init__(self, *, boot_id: str, newest_stamp_us: int | None) -> None:
        self._boot_id = boot_id
        self._newest_at_start_us = newest_stamp_us
        self._recorded_boot_id: str | None = None
        self._recorded_us: int | None = None
        self._remembered: dict[_Key, None] = {}
        self._forgotten_us = -1
        """At and below this stamp, lines of this boot are too old to be remembered one by one."""
        self.newest_taken_us: int | None = None
        """Newest stamp of this boot that was taken, by this run or an earlier one."""

    def recall(self, boot_id: str | None, stamp_us: int | None) -> None:
        """Learn how far an earlier run came: its lines are taken already."""
        self._recorded_boot_id, self._recorded_us = boot_id, stamp_us
        if boot_id == self._boot_id and stamp_us is not None:
            self.newest_taken_us = max(stamp_us, self.newest_taken_us or 0)

    def judge(self, event: KernelEvent) -> MessageStatus:
        """Return whether the line is live, past, or taken before; it counts as taken from now on.

        Two equal lines with the same stamp are one: the second would tell nothing new, and a journald
        that reads the ring buffer again brings each line a second time.
        """
        stamp = event.stamp_us
        if stamp is None:
            return MessageStatus.HISTORICAL  # it can't be placed; whether a table is full now is for the tables to say
        ours = event.boot_id == self._boot_id
        key = (event.boot_id, stamp, event.message.kind, event.message.namespace)
        if key in self._remembered or (ours and stamp <= self._forgotten_us) or self._is_recorded(event.boot_id, stamp):
            return MessageStatus.DUPLICATE
        self._remember(key)
        if not ours:
            return MessageStatus.HISTORICAL
        self.newest_taken_us = stamp if self.newest_taken_us is None else max(self.newest_taken_us, stamp)
        if self._newest_at_start_us is None:
            return MessageStatus.HISTORICAL if event.held_at_start else MessageStatus.NEW
        return MessageStatus.NEW if stamp > self._newest_at_start_us else MessageStatus.HISTORICAL

    def _is_recorded(self, boot_id: str, stamp: int) -> bool:
        return boot_id == self._recorded_boot_id and self._recorded_us is not None and stamp <= self._recorded_us

    def _remember(self, key: _Key) -> None:
        self._remembered[key] = None
        if len(self._remembered) > MOST_REMEMBERED:
            oldest = next(iter(self._remembered))
            del self._remembered[oldest]
            if oldest[0] == self._boot_id:
                self._forgotten_us = max(self._forgotten_us, oldest[1])
