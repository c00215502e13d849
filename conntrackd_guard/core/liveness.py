"""Live or past, and taken once. Kernel stamps are compared with kernel stamps of the same boot only.

The newest stamp in the ring buffer at start divides them: same boot and later is live, everything
else is the past. Ring buffer and journal deliver the same line; the stamp (µs) pairs the two.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, auto

from conntrackd_guard.core.model import KernelEvent

_PAIRS_KEPT = 4096
"""Stamps remembered for pairing: the kernel logs at most 10 lines in 5 s, journald is late by less than hours."""


class Standing(Enum):
    """What is to be done with a line."""

    LIVE = auto()
    PAST = auto()
    TAKEN = auto()
    """The other source delivered it, or an earlier run recorded it."""


class Liveness:
    """Judges each line once. `newest_stamp_us` is None where the ring buffer can't be read."""

    def __init__(
        self,
        *,
        boot_id: str,
        newest_stamp_us: int | None,
        recorded_boot_id: str | None = None,
        recorded_stamp_us: int | None = None,
    ) -> None:
        self._boot_id = boot_id
        self._newest_at_start = newest_stamp_us
        self._recorded = recorded_stamp_us if recorded_boot_id == boot_id else None
        self._heard: OrderedDict[tuple[int | None, int], dict[str, int]] = OrderedDict()
        self.newest_taken_us = self._recorded

    def judge(self, event: KernelEvent) -> Standing:
        """Return the standing of a line, and remember it."""
        stamp = event.stamp_us
        if event.boot_id != self._boot_id:
            return Standing.PAST
        if stamp is None:
            return Standing.PAST if event.held_at_start else Standing.LIVE
        if self._is_second_hearing(event, stamp):
            return Standing.TAKEN
        if self._recorded is not None and stamp <= self._recorded:
            return Standing.TAKEN
        self.newest_taken_us = max(stamp, self.newest_taken_us or 0)
        if self._newest_at_start is not None:
            return Standing.LIVE if stamp > self._newest_at_start else Standing.PAST
        return Standing.PAST if event.held_at_start else Standing.LIVE

    def _is_second_hearing(self, event: KernelEvent, stamp: int) -> bool:
        """Return whether another source delivered this line before; lines of one µs are paired one to one."""
        heard = self._heard.setdefault((event.line.namespace, stamp), {})
        before = max((count for source, count in heard.items() if source != event.source), default=0)
        heard[event.source] = heard.get(event.source, 0) + 1
        while len(self._heard) > _PAIRS_KEPT:
            self._heard.popitem(last=False)
        return heard[event.source] <= before
