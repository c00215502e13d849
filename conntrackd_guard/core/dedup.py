"""Separate new kernel messages from historical ones and duplicates.

Kernel timestamps are compared with kernel timestamps of the same boot only: they drift from every system clock, and
are minutes ahead of it after a suspend.
"""

from __future__ import annotations

from enum import Enum

from conntrackd_guard.core.kernel_messages import KernelEvent
from conntrackd_guard.core.model import MessageKind

MOST_REMEMBERED = 4096
"""Messages remembered for pairing (about 0.8 MB). At the kernel's own rate, 10 messages in 5 s, that is half an hour;
journald writes a message to the journal within half a second."""

_Key = tuple[str, int, MessageKind, int | None]


class MessageStatus(Enum):
    """What a message is to this run. Only a new one can lead to a raise."""

    NEW = "new"
    HISTORICAL = "historical"
    DUPLICATE = "duplicate"


class Deduplicator:
    """Judges each message once, whichever source delivers it first.

    `newest_stamp_us` is the newest timestamp in the ring buffer at start, None if it can't be read.
    """

    def __init__(self, *, boot_id: str, newest_stamp_us: int | None) -> None:
        self._boot_id = boot_id
        self._newest_at_start_us = newest_stamp_us
        self._recorded_boot_id: str | None = None
        self._recorded_us = -1
        self._remembered: dict[_Key, None] = {}
        self._forgotten_us = -1
        """Up to this timestamp, messages of this boot are no longer remembered one by one."""
        self.newest_taken_us: int | None = None
        """Newest timestamp of this boot that this run or an earlier one took."""

    def recall(self, boot_id: str | None, stamp_us: int | None) -> None:
        """Take over the position of an earlier run: messages up to there are duplicates."""
        self._recorded_boot_id, self._recorded_us = boot_id, -1 if stamp_us is None else stamp_us
        if boot_id == self._boot_id and stamp_us is not None:
            self.newest_taken_us = max(stamp_us, self.newest_taken_us or 0)

    def judge(self, event: KernelEvent) -> MessageStatus:
        """Return what the message is; from now on it counts as taken.

        Equal messages with the same timestamp are one: a journald that reads the ring buffer again logs each a second
        time.
        """
        boot_id, stamp = event.boot_id, event.stamp_us
        if stamp is None:
            return (
                MessageStatus.HISTORICAL
            )  # no timestamp to place it by; the counters show whether a table is full now
        is_ours = boot_id == self._boot_id
        if boot_id == self._recorded_boot_id and stamp <= self._recorded_us:
            return MessageStatus.DUPLICATE
        key = (boot_id, stamp, event.message.kind, event.message.namespace)
        if key in self._remembered or (is_ours and stamp <= self._forgotten_us):
            return MessageStatus.DUPLICATE
        self._remembered[key] = None
        if len(self._remembered) > MOST_REMEMBERED:
            self._forget_oldest()
        if not is_ours:
            return MessageStatus.HISTORICAL
        self.newest_taken_us = stamp if self.newest_taken_us is None else max(self.newest_taken_us, stamp)
        if self._newest_at_start_us is None:
            return MessageStatus.HISTORICAL if event.held_at_start else MessageStatus.NEW
        return MessageStatus.NEW if stamp > self._newest_at_start_us else MessageStatus.HISTORICAL

    def _forget_oldest(self) -> None:
        oldest = next(iter(self._remembered))
        del self._remembered[oldest]
        if oldest[0] == self._boot_id:
            self._forgotten_us = max(self._forgotten_us, oldest[1])
