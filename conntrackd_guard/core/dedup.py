"""Decide which kernel messages are new, historical or duplicates. Pure.

Kernel stamps are compared with kernel stamps of the same boot only: they drift from every system
clock, and run ahead by minutes after a suspend.
"""

from enum import Enum

from conntrackd_guard.core.kernel_messages import KernelEvent
from conntrackd_guard.core.model import MessageKind

MOST_REMEMBERED = 4096
"""Messages remembered for pairing (about 0.8 MB). At the kernel's rate limit, 10 messages in 5 s, that is half an hour;
journald stores a message within half a second."""

_Key = tuple[str, int, MessageKind, int | None]


class MessageStatus(Enum):
    """What a message is to this run."""

    NEW = "new"
    HISTORICAL = "historical"
    DUPLICATE = "duplicate"


class Deduplicator:
    """Judges each message once, whichever source has it first.

    `newest_stamp_us` is the newest stamp in the ring buffer at start, None if it could not be read.
    """

    def __init__(self, *, boot_id: str, newest_stamp_us: int | None) -> None:
        self._boot_id = boot_id
        self._newest_at_start_us = newest_stamp_us
        self._recorded_boot_id: str | None = None
        self._recorded_us = -1
        self._remembered: dict[_Key, None] = {}
        self._forgotten_us = -1
        """Messages of this boot up to this stamp are no longer remembered one by one."""
        self.newest_taken_us: int | None = None
        """Newest stamp of this boot that this run or an earlier one took."""

    def recall(self, boot_id: str | None, stamp_us: int | None) -> None:
        """Learn how far an earlier run read: its messages are duplicates."""
        self._recorded_boot_id, self._recorded_us = boot_id, -1 if stamp_us is None else stamp_us
        if boot_id == self._boot_id and stamp_us is not None:
            self.newest_taken_us = max(stamp_us, self.newest_taken_us or 0)

    def judge(self, event: KernelEvent) -> MessageStatus:
        """Return the status of a message, and remember it.

        Two equal messages with one stamp are one: a journald that reads the ring buffer again stores each a second time.
        """
        stamp = event.stamp_us
        if stamp is None:
            return MessageStatus.HISTORICAL  # no order can be known; the tables show whether one is full now
        ours = event.boot_id == self._boot_id
        key = (event.boot_id, stamp, event.message.kind, event.message.namespace)
        is_recorded = event.boot_id == self._recorded_boot_id and stamp <= self._recorded_us
        if key in self._remembered or (ours and stamp <= self._forgotten_us) or is_recorded:
            return MessageStatus.DUPLICATE
        self._remembered[key] = None
        if len(self._remembered) > MOST_REMEMBERED:
            oldest = next(iter(self._remembered))
            del self._remembered[oldest]
            if oldest[0] == self._boot_id:
                self._forgotten_us = max(self._forgotten_us, oldest[1])
        if not ours:
            return MessageStatus.HISTORICAL
        self.newest_taken_us = stamp if self.newest_taken_us is None else max(self.newest_taken_us, stamp)
        if self._newest_at_start_us is None:
            return MessageStatus.HISTORICAL if event.held_at_start else MessageStatus.NEW
        return MessageStatus.NEW if stamp > self._newest_at_start_us else MessageStatus.HISTORICAL
