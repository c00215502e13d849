"""Verification of a raise from the readings that the main loop makes anyway. Pure.

It begins with the raise, each reading of the tables adds to it, and it ends after WATCH_SECONDS, or at once with the next
raise or another limit, because later drops say nothing about this raise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from conntrackd_guard.core.model import Corroboration, Raise, Record, Table
from conntrackd_guard.core.usage import NEAR_USE, QUIET_SECONDS, risen, went_back

WATCH_SECONDS = QUIET_SECONDS
"""The episode that led to the raise has the tables read for as long."""
_MOST_TABLES = 64
"""Twice those that a record lists one by one: any user can create thousands."""
_SHORTEST_SECONDS = 1.0
"""A shorter time is no basis for a forecast."""
_LAST_SECONDS = 1.0
"""The growth at the end: an average says nothing of a burst that is over."""


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
    """Wanted entries a second, on average over `seconds`, of the table that would be full first.

    None if watched too briefly. Refused entries count while the table stands near the limit.
    """
    seconds_to_full: float | None
    """Until a table is full at that average; None if none grows, or if unknown."""
    last_growth_per_second: float | None = None
    """Of the same table in the last second watched; None if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One table since the raise."""

    count: int
    drop: int | None
    early_drop: int | None
    looks: tuple[tuple[float, int], ...]
    """When, and the entries wanted since the first look: the first look, and those of the last second."""
    dropped: int | None = None
    """All drops since the raise; None while no reading has them."""

    def last_growth(self) -> float | None:
        """Return the entries wanted a second in the last second, None without a reading just before it."""
        now, wanted = self.looks[-1]
        earlier = [look for look in self.looks if _LAST_SECONDS <= now - look[0] <= 2 * _LAST_SECONDS]
        return (wanted - earlier[-1][1]) / (now - earlier[-1][0]) if earlier else None


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


def begin(record: Record, limit: int, tables: Sequence[Table]) -> PendingVerification:
    """Return the verification of an applied raise: `limit` is in force now, and `tables` were read after the write."""
    now, known = record.observation.boottime_seconds, {table.namespace for table in record.observation.tables}
    first = {table.namespace: _first(table, now, None) for table in tables if table.namespace in known}
    return PendingVerification(record=record, limit=limit, tables=first)


def seen(after: PendingVerification, tables: Sequence[Table], now: float) -> PendingVerification:
    """Return the verification with one more reading."""
    known, last_drop = dict(after.tables), after.last_drop_seconds
    for table in tables:
        before = known.get(table.namespace)
        if before is None and not _has_room(known, table):
            continue
        if before is None or went_back(before.drop, table.drop):  # another one under a reused number
            lost = None if before is None else before.dropped
            known[table.namespace] = _first(table, now, table.dropped if lost is None else lost + (table.dropped or 0))
            rise = table.dropped or 0
        else:
            known[table.namespace] = _next(before, table, after.limit, now)
            rise = risen(before.drop, table.drop)
        last_drop = now - after.raised_seconds if rise else last_drop
    return replace(after, tables=known, last_drop_seconds=last_drop)


def _first(table: Table, now: float, dropped: int | None) -> _Seen:
    return _Seen(count=table.count, drop=table.drop, early_drop=table.early_drop, looks=((now, 0),), dropped=dropped)


def _next(before: _Seen, table: Table, limit: int, now: float) -> _Seen:
    """Return what is known of a table after one more reading."""
    rise, evicted = risen(before.drop, table.drop), risen(before.early_drop, table.early_drop)
    is_near = max(before.count, table.count) >= NEAR_USE * limit
    wanted = before.looks[-1][1] + table.count - before.count + (rise + evicted if is_near else 0)
    first, *looks = *before.looks, (now, wanted)
    while len(looks) > 1 and now - looks[1][0] >= _LAST_SECONDS:
        del looks[0]
    return _Seen(
        count=table.count,
        drop=before.drop if table.drop is None else table.drop,
        early_drop=before.early_drop if table.early_drop is None else table.early_drop,
        looks=(first, *looks),
        dropped=before.dropped if table.drop is None else (before.dropped or 0) + rise,
    )


def _has_room(known: dict[int, _Seen], table: Table) -> bool:
    """Return whether one more table is remembered: one that drops replaces the emptiest that doesn't."""
    if len(known) < _MOST_TABLES:
        return True
    quiet = [name for name, other in known.items() if not other.dropped]
    if not table.dropped or not quiet:
        return False
    del known[min(quiet, key=lambda name: known[name].count)]
    return True


def is_over(after: PendingVerification, now: float) -> bool:
    """Return whether WATCH_SECONDS are over."""
    return now - after.raised_seconds >= WATCH_SECONDS


def conclude(after: PendingVerification, end: End, now: float) -> Verification:
    """Return the result."""
    seconds = max(0.0, now - after.raised_seconds)
    drops = _drops(after, seconds)
    growths: list[tuple[float, _Seen]] = []
    for table in after.tables.values():
        (first, _), (last, wanted) = table.looks[0], table.looks[-1]
        # A namespace without a reading in the later half has ended: it fills no limit.
        if last - first >= _SHORTEST_SECONDS and last - after.raised_seconds >= seconds / 2:
            growths.append((wanted / (last - first), table))
    growth: float | None = 0.0 if growths else None
    full: float | None = None
    last_growth: float | None = None
    growing = [(max(0, after.limit - table.count) / rate, rate, table) for rate, table in growths if round(rate, 1) > 0]
    if growing:
        full, growth, table = min(growing, key=lambda found: found[:2])
        last_growth = table.last_growth()
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
        last_growth_per_second=None if last_growth is None else round(last_growth, 1),
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
