"""The watch's constants and the arithmetic of counters. Pure."""

import math

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
NEAR_USE = 0.80
"""From this use on drops are refused entries. Below it they are lost races and failed allocations: `drop` counts those too.

Judgement: a table that was full reads less if many entries expire between two readings, 250 ms apart at most.
"""
BRIM_USE = 0.95
"""From this use on a raise waits for no second measurement: the kernel itself begins to evict here (nf_conntrack_max95)."""
SUSTAINED_SECONDS = 0.2
"""Growth measured over less than this is a demand only if the interval before it grew too: one burst is no demand."""
TICK_SECONDS = 0.25
HURRIED_TICK_SECONDS = 0.05
HURRY_SECONDS = 30.0
"""The watch hurries while growth would fill a table within this time."""
GATE_USE = 0.30
"""While all namespaces together hold less than this share of the limit, no table can be near it."""

U32 = 1 << 32


def risen(before: int | None, now: int | None) -> int:
    """Return how far a counter rose, 0 if that can't be known. It is a sum of u32 counters that wrap."""
    return 0 if before is None or now is None or went_back(before, now) else (now - before) % U32


def went_back(before: int | None, now: int | None) -> bool:
    """Return whether a counter fell by less than half its range: no wrap, but another namespace under a reused number."""
    return before is not None and now is not None and (now - before) % U32 >= U32 // 2


def seconds_to_full(count: int, limit: int, demand: float | None) -> float:
    """Return how long the table lasts at this demand; infinite without demand."""
    if not demand:
        return math.inf
    return max(0, limit - count) / demand


def is_stable(count: int, limit: int, demand: float | None) -> bool:
    """Return whether a table above the threshold may be left alone for now."""
    return count < CONFIRM_USE * limit and seconds_to_full(count, limit, demand) > STABLE_SECONDS
