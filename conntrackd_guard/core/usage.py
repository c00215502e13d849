"""Growth and fullness of a table. Pure: counters in, figures out."""

from __future__ import annotations

import math

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Table

URGENT_SECONDS = 1.0
"""A table that its growth would fill this soon needs a raise at any use: four idle ticks of the watch."""
RELEASE = 0.05
"""An episode ends this far below the threshold, so that use wavering around it is one episode."""
STABLE_SECONDS = 600.0
"""A table above the threshold that is longer than this from full is stable."""
QUIET_SECONDS = 10.0
"""An episode ends after this time without need or a new drop: two windows of the kernel's rate limit."""
CONFIRM_USE = 0.90
"""From this use on a table counts as full: above 95 % the kernel evicts, so a full one may read a little less."""
TICK_SECONDS = 0.25
HURRIED_TICK_SECONDS = 0.05
HURRY_SECONDS = 30.0
"""The watch hurries while growth would fill a table within this time."""
GATE_USE = 0.30
"""While all namespaces together hold less than this share of the limit, no table can be near it."""

_WINDOWS_SECONDS = (0.1, 1.0)
"""Growth is the steepest of these: the short one catches a burst, the long one a burst that just paused."""
_SHORTEST_SECONDS = 0.02
"""Two readings closer together than this give no rate."""
_LOOKS_KEPT_SECONDS = 2.0
_U32 = 1 << 32


class Growth:
    """What the looks at one table show: its demand, and what it dropped since the last raise or quiet spell."""

    __slots__ = ("_drop", "_dropped", "_dropped_at", "_early_drop", "_looks", "_refused", "count", "demand_per_second",
                 "dropped", "dropped_since_raise")  # fmt: skip

    def __init__(self) -> None:
        self.count: int | None = None
        """Entries at the last look, None before the first."""
        self.demand_per_second: float | None = None
        self.dropped: int | None = None
        """None while the counter can't be read or there is nothing to compare with."""
        self.dropped_since_raise = 0
        self._drop: int | None = None
        self._early_drop: int | None = None
        self._dropped = 0
        self._refused = 0
        self._dropped_at: float | None = None
        self._looks: list[tuple[float, int]] = []
        """When, and the entries wanted until then: those held, and those refused since the first look."""

    def look(self, now: float, count: int, drop: int | None = None, early_drop: int | None = None) -> None:
        """Take in one look (CLOCK_BOOTTIME). The counters are sums of u32 counters that wrap.

        Demand is Δcount + Δdrop + Δearly_drop a second over the steepest window: a full table grows in
        the counters only. It is None before two looks.
        """
        is_new = self._drop is None and bool(drop)  # packets were dropped, but nobody knows when
        rise = 0 if drop is None or self._drop is None else (drop - self._drop) % _U32
        if rise >= _U32 // 2:  # another namespace has the number: all its drops are new
            self._dropped = self.dropped_since_raise = drop or 0
            self._dropped_at = now
        elif rise:
            self._dropped, self._dropped_at = self._dropped + rise, now
            self._refused, self.dropped_since_raise = self._refused + rise, self.dropped_since_raise + rise
        elif self._dropped_at is not None and now - self._dropped_at >= QUIET_SECONDS:
            self._dropped, self._dropped_at = 0, None
        rise = 0 if early_drop is None or self._early_drop is None else (early_drop - self._early_drop) % _U32
        self._refused += rise if rise < _U32 // 2 else 0
        self.dropped = None if drop is None or is_new else self._dropped
        self.count = count
        self._drop = self._drop if drop is None else drop
        self._early_drop = self._early_drop if early_drop is None else early_drop
        self._looks = [look for look in self._looks if now - look[0] <= _LOOKS_KEPT_SECONDS]
        self._looks.append((now, count + self._refused))
        self.demand_per_second = None
        for window in _WINDOWS_SECONDS:
            earliest = now - window - 1e-6
            at, wanted = next(look for look in self._looks if look[0] >= earliest)
            if at == now and len(self._looks) > 1:
                at, wanted = self._looks[-2]
            if now - at >= _SHORTEST_SECONDS:
                rate = (self._looks[-1][1] - wanted) / (now - at)
                self.demand_per_second = max(self.demand_per_second or 0.0, rate)

    def restart(self) -> None:
        """Begin to count drops again: what was dropped until now belongs to the old limit."""
        self._dropped, self.dropped_since_raise, self._dropped_at = 0, 0, None


def risen(before: int | None, now: int | None) -> int:
    """Return how far a counter rose, 0 if that can't be known. It is a sum of u32 counters that wrap."""
    return 0 if before is None or now is None or went_back(before, now) else (now - before) % _U32


def went_back(before: int | None, now: int | None) -> bool:
    """Return whether a counter fell by less than half its range: no wrap, but another namespace under a reused number."""
    return before is not None and now is not None and (now - before) % _U32 >= _U32 // 2


def seconds_to_full(count: int, limit: int, demand: float | None) -> float:
    """Return how long the table lasts at this demand; infinite without demand."""
    if not demand:
        return math.inf
    return max(0, limit - count) / demand


def is_full(table: Table, kernel_limit: int) -> bool:
    """Return whether a table is at the limit in force, or dropped since the last raise or quiet spell."""
    return table.count >= CONFIRM_USE * kernel_limit or bool(table.dropped)


def presses(count: int, limit: int, demand: float | None, policy: Policy, *, already: bool = False) -> bool:
    """Return whether a table is over the threshold, or about to be full; `already` applies the hysteresis.

    A nearly empty table is never about to be full: the growth of a moment is no forecast for most of a table.
    """
    threshold = policy.threshold - RELEASE if already else policy.threshold
    if count >= threshold * limit:
        return True
    return count >= GATE_USE * limit and bool(demand) and limit - count <= URGENT_SECONDS * (demand or 0.0)


def is_stable(count: int, limit: int, demand: float | None) -> bool:
    """Return whether a table above the threshold may be left alone for now."""
    return count < CONFIRM_USE * limit and seconds_to_full(count, limit, demand) > STABLE_SECONDS
