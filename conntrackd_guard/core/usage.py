"""Growth and fullness of a table. Pure: readings in, figures out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
LOOKS_KEPT_SECONDS = 2.0
_U32 = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One reading of a table (CLOCK_BOOTTIME seconds)."""

    at_seconds: float
    count: int
    drop: int | None = None
    early_drop: int | None = None


def risen(before: int | None, now: int | None) -> int:
    """Return how far a counter rose, 0 if that can't be known. It is a sum of u32 counters that wrap."""
    if before is None or now is None:
        return 0
    rise = (now - before) % _U32
    return rise if rise < _U32 // 2 else 0


def went_back(before: int | None, now: int | None) -> bool:
    """Return whether a counter fell by less than half its range: no wrap, but another namespace under a reused number."""
    return before is not None and now is not None and (now - before) % _U32 >= _U32 // 2


def demand_per_second(looks: Sequence[Look]) -> float | None:
    """Return new entries wanted per second, None before two readings.

    That is Δcount + Δdrop + Δearly_drop over the steepest window: a full table grows in the
    counters only.
    """
    last, demand = looks[-1], None
    for window in _WINDOWS_SECONDS:
        for first in looks:
            if first.at_seconds >= last.at_seconds - window - 1e-6:
                break
        if first is last and len(looks) > 1:
            first = looks[-2]
        elapsed = last.at_seconds - first.at_seconds
        if elapsed >= _SHORTEST_SECONDS:
            grown = last.count - first.count + risen(first.drop, last.drop) + risen(first.early_drop, last.early_drop)
            demand = max(demand or 0.0, grown / elapsed)
    return demand


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
