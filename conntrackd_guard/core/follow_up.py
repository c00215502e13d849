"""What came of a raise, by the looks that the loop takes anyway. Pure.

A raise begins it, every look at the tables adds to it, and it ends after WATCH_SECONDS, or at once
when the limit changes: what comes then is no longer that raise's doing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from conntrackd_guard.core.model import Record, Table
from conntrackd_guard.core.pressure import QUIET_SECONDS, risen

WATCH_SECONDS = QUIET_SECONDS
"""The episode that led to the raise keeps the tables looked at for as long."""
_MOST_TABLES = 64
"""Twice those that an observation names one by one: any user may make thousands."""
_SHORTEST_SECONDS = 1.0
"""The growth of less than this says nothing of how long a limit lasts."""


class Drops(StrEnum):
    """What the drop counters showed."""

    NONE = "none"
    ENDED = "ended"
    GO_ON = "go_on"
    UNKNOWN = "unknown"


class End(StrEnum):
    """What ended the watching."""

    WATCHED = "watched"
    RAISED_AGAIN = "raised_again"
    LIMIT_CHANGED = "limit_changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """What came of one raise. Stored beside its decision."""

    key: str
    """Of the raise's record."""
    limit: int
    seconds: float
    """How long the tables were watched."""
    end: End
    drops: Drops
    dropped: int | None
    """Drops since the raise, in all tables seen; None where no counter could be read."""
    last_drop_seconds: float | None
    """When the last of them was seen, counted from the raise."""
    growth_per_second: float | None
    """Δcount + Δdrop + Δearly_drop a second of the table that is full first; None where it was seen too short."""
    lasts_seconds: float | None
    """How long the limit lasts at that growth; None where none grows, or that can't be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One table since the raise."""

    first: Table
    first_seconds: float
    last: Table
    last_seconds: float
    dropped: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterRaise:
    """A raise that is being watched."""

    key: str
    limit: int
    raised_seconds: float
    tables: dict[int, _Seen]
    last_drop_seconds: float | None = None


def begin(record: Record, limit: int) -> AfterRaise:
    """Return the watch on an applied raise; `limit` is the one it left in force."""
    now = record.observation.boottime_seconds
    tables = {
        table.namespace: _Seen(first=table, first_seconds=now, last=table, last_seconds=now)
        for table in record.observation.tables
    }
    return AfterRaise(key=record.key, limit=limit, raised_seconds=now, tables=tables)


def seen(after: AfterRaise, tables: Sequence[Table], now: float) -> AfterRaise:
    """Return the watch with one look more."""
    known, last_drop = dict(after.tables), after.last_drop_seconds
    for table in tables:
        if table.namespace not in known and len(known) >= _MOST_TABLES:
            continue
        before = known.get(table.namespace) or _Seen(first=table, first_seconds=now, last=table, last_seconds=now)
        dropped = before.dropped
        if table.dropped is not None:  # counted from the raise on, until ten quiet seconds end it
            dropped = max(table.dropped, dropped or 0)
            if dropped > (before.dropped or 0):
                last_drop = now - after.raised_seconds
        known[table.namespace] = replace(before, last=table, last_seconds=now, dropped=dropped)
    return replace(after, tables=known, last_drop_seconds=last_drop)


def ended_by(after: AfterRaise, limit: int | None, now: float) -> End | None:
    """Return what ends the watch now, None while it goes on."""
    if limit != after.limit:
        return End.LIMIT_CHANGED
    return End.WATCHED if now - after.raised_seconds >= WATCH_SECONDS else None


def conclude(after: AfterRaise, end: End, now: float) -> FollowUp:
    """Return what came of the raise."""
    seconds = max(0.0, now - after.raised_seconds)
    counted = [table.dropped for table in after.tables.values() if table.dropped is not None]
    growths = {name: rate for name, table in after.tables.items() if (rate := _growth_per_second(table)) is not None}
    lasts = {name: _lasts_seconds(after, name, rate) for name, rate in growths.items() if rate > 0}
    first_full = min(lasts, key=lambda name: lasts[name], default=None)
    growth = (0.0 if growths else None) if first_full is None else growths[first_full]
    return FollowUp(
        key=after.key,
        limit=after.limit,
        seconds=round(seconds, 3),
        end=end,
        drops=_drops(after, counted, seconds),
        dropped=sum(counted) if counted else None,
        last_drop_seconds=None if after.last_drop_seconds is None else round(after.last_drop_seconds, 3),
        growth_per_second=None if growth is None else round(growth, 1),
        lasts_seconds=None if first_full is None else round(lasts[first_full], 1),
    )


def _drops(after: AfterRaise, counted: list[int], seconds: float) -> Drops:
    """Drops go on where the later half of the watch still saw some: packets in flight come at once."""
    if not counted:
        return Drops.UNKNOWN
    if after.last_drop_seconds is None:
        return Drops.NONE
    return Drops.GO_ON if after.last_drop_seconds > seconds / 2 else Drops.ENDED


def _growth_per_second(table: _Seen) -> float | None:
    elapsed = table.last_seconds - table.first_seconds
    if elapsed < _SHORTEST_SECONDS:
        return None
    evicted = risen(table.first.early_drop, table.last.early_drop)
    return (table.last.count - table.first.count + (table.dropped or 0) + evicted) / elapsed


def _lasts_seconds(after: AfterRaise, name: int, growth: float) -> float:
    return max(0, after.limit - after.tables[name].last.count) / growth
