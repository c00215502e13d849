"""Verification of a raise from the readings that the main loop makes anyway. Pure.

It begins with the raise, each reading of the tables adds to it, and it ends after WATCH_SECONDS, or at once with the next
raise or another limit, because later drops say nothing about this raise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from conntrackd_guard.core.model import Corroboration, Raise, Record, Table
from conntrackd_guard.core.usage import QUIET_SECONDS, risen, went_back

WATCH_SECONDS = QUIET_SECONDS
"""The episode that led to the raise has the tables read for as long."""
_MOST_TABLES = 64
"""Twice those that a record lists one by one: any user can create thousands."""
_SHORTEST_SECONDS = 1.0
"""A shorter time is no basis for a forecast."""


class Drops(StrEnum):
    """What the drop counters show."""

    NONE = "none"
    ENDED = "ended"
    CONTINUING = "continuing"
    UNKNOWN = "unknown"


class End(StrEnum):
    """What ended the verification."""

    WATCHED = "watched"
    RAISED_AGAIN = "raised_again"
    LIMIT_CHANGED = "limit_changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result for one raise. Stored beside its decision."""

    key: str
    """Of the raise's record."""
    limit: int
    seconds: float
    """How long the tables were watched."""
    end: End
    drops: Drops
    dropped: int | None
    """Drops since the raise, in all tables read; None if `drops` is unknown."""
    last_drop_seconds: float | None
    """When the last of them was read, counted from the raise."""
    growth_per_second: float | None
    """Δcount + Δdrop + Δearly_drop a second of the table that would be full first; None if watched too briefly."""
    seconds_to_full: float | None
    """Until a table is full at that growth; None if none grows, or if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One table since the raise."""

    first: Table
    first_seconds: float
    last: Table
    last_seconds: float
    counted: int = 0
    """`Table.dropped` as last read: drops since the raise, or since a quiet period reset the counter."""
    dropped: int | None = None
    """All drops since the raise; None while no reading has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingVerification:
    """A raise under verification."""

    record: Record
    limit: int
    """The one that the raise left in force."""
    tables: dict[int, _Seen]
    last_drop_seconds: float | None = None

    @property
    def raised_seconds(self) -> float:
        """When the limit was raised."""
        return self.record.observation.boottime_seconds


def begin(record: Record, limit: int) -> PendingVerification:
    """Return the verification of an applied raise; `limit` is the one it left in force."""
    now = record.observation.boottime_seconds
    tables = {
        table.namespace: _Seen(first=table, first_seconds=now, last=table, last_seconds=now)
        for table in record.observation.tables
    }
    return PendingVerification(record=record, limit=limit, tables=tables)


def seen(after: PendingVerification, tables: Sequence[Table], now: float) -> PendingVerification:
    """Return the verification with one more reading."""
    known, last_drop = dict(after.tables), after.last_drop_seconds
    for table in tables:
        before = known.get(table.namespace)
        if before is None and not _has_room(known, table):
            continue
        if before is None or went_back(before.last.drop, table.drop):  # another one under a reused number
            lost = None if before is None else before.dropped
            before = _Seen(first=table, first_seconds=now, last=table, last_seconds=now, dropped=lost)
        counted, dropped = before.counted, before.dropped
        if table.dropped is not None:
            rise = table.dropped - counted if table.dropped >= counted else table.dropped
            counted, dropped = table.dropped, (dropped or 0) + rise
            last_drop = now - after.raised_seconds if rise else last_drop
        known[table.namespace] = replace(before, last=table, last_seconds=now, counted=counted, dropped=dropped)
    return replace(after, tables=known, last_drop_seconds=last_drop)


def _has_room(known: dict[int, _Seen], table: Table) -> bool:
    """Return whether one more table is remembered: one that drops replaces the emptiest that doesn't."""
    if len(known) < _MOST_TABLES:
        return True
    quiet = [name for name, other in known.items() if not other.dropped]
    if not table.dropped or not quiet:
        return False
    del known[min(quiet, key=lambda name: known[name].last.count)]
    return True


def is_over(after: PendingVerification, now: float) -> bool:
    """Return whether WATCH_SECONDS are over."""
    return now - after.raised_seconds >= WATCH_SECONDS


def conclude(after: PendingVerification, end: End, now: float) -> Verification:
    """Return the result."""
    seconds = max(0.0, now - after.raised_seconds)
    drops = _drops(after, seconds)
    measured = (
        table for table in after.tables.values() if table.last_seconds - table.first_seconds >= _SHORTEST_SECONDS
    )
    # A namespace without a reading in the later half has ended: it fills no limit.
    growths = [(_growth(t), t.last.count) for t in measured if t.last_seconds - after.raised_seconds >= seconds / 2]
    lasts = [(max(0, after.limit - count) / rate, rate) for rate, count in growths if round(rate, 1) > 0]
    full, growth = min(lasts, default=(None, 0.0 if growths else None))
    return Verification(
        key=after.record.key,
        limit=after.limit,
        seconds=round(seconds, 3),
        end=end,
        drops=drops,
        dropped=None if drops is Drops.UNKNOWN else sum(table.dropped or 0 for table in after.tables.values()),
        last_drop_seconds=None if after.last_drop_seconds is None else round(after.last_drop_seconds, 3),
        growth_per_second=None if growth is None else round(growth, 1),
        seconds_to_full=None if full is None else round(full, 1),
    )


def _drops(after: PendingVerification, seconds: float) -> Drops:
    """Return what the drop counters show.

    Drops continue if the later half of the time has some: packets in flight are dropped at once. Other tables without
    drops prove nothing about a table that was not read.
    """
    if after.last_drop_seconds is not None and after.last_drop_seconds > seconds / 2:
        return Drops.CONTINUING
    counted = {name for name, table in after.tables.items() if table.dropped is not None}
    decision, number = after.record.decision, after.record.trigger.namespace
    is_confirmed = not isinstance(decision, Raise) or decision.corroboration is not Corroboration.UNKNOWN
    if not counted or not (is_confirmed if number is None else number in counted):
        return Drops.UNKNOWN
    return Drops.NONE if after.last_drop_seconds is None else Drops.ENDED


def _growth(table: _Seen) -> float:
    """Return Δcount + Δdrop + Δearly_drop a second."""
    first, last = table.first, table.last
    refused = risen(first.drop, last.drop) + risen(first.early_drop, last.early_drop)
    return (last.count - first.count + refused) / (table.last_seconds - table.first_seconds)
