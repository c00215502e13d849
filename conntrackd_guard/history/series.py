"""The time series in a history: points of 1 s for an hour, of 1 min for a week, of 1 h for a year.

At each step the MOST_TABLES with the highest peaks have a point each, and the others one as a sum. So the rows are
bounded, however many namespaces come and go: 21 tables in 3,600 + 10,080 + 8,760 steps are 471,240 rows of about
35 bytes, and MOST_NAMES names: a quarter of 64 MiB (a test fills it).
"""

import heapq
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Point:
    """One table (or all `others`, as a sum) over the step that begins at `at`."""

    at: int
    """Wall time, in whole seconds."""
    namespace: int
    label: str
    limit: int
    count: int
    """The most entries seen."""
    dropped: int = 0
    """The rise of the drop counter."""
    evicted: int = 0
    """The rise of the early_drop counter."""
    step: int = 1
    """Seconds: 1, 60 or 3600 as stored, more where steps were joined to be shown."""

    @property
    def name(self) -> tuple[int, str]:
        """Identify the table: a number is reused, and so is a label."""
        return self.namespace, self.label


Execute = Callable[[str, dict[str, object]], Iterable[tuple[Any, ...]]]
"""Returns the rows of a query."""
OTHERS: Final = "others"
"""The label of the sum of all tables without a point of their own; its namespace is 0."""
THE_OTHERS: Final = (0, OTHERS)
"""That sum, as `Point.name`."""
MOST_TABLES: Final = 20
MOST_NAMES: Final = 20_000
"""Tables with a name of their own; beyond, a new one is among the others until there is room."""
NAMES_LEFT: Final = 12_000
"""Of those seen last, when room is made: the next six hours bring up to 7,200, twenty a minute."""
_OTHERS_ID: Final = 0
_FUTURE_SECONDS: Final = 120
"""Points further ahead than this come from a clock that was set back since."""

KEPT: Final = ((1, 3600, 60), (60, 7 * 86400, 3600), (3600, 365 * 86400, None))
"""(step, how long its points are kept, the step they are then joined to), all in seconds."""

TABLES: Final = (
    """CREATE TABLE series_names (id INTEGER PRIMARY KEY, namespace INTEGER NOT NULL, label TEXT NOT NULL,
        UNIQUE (namespace, label))""",
    "INSERT INTO series_names VALUES (0, 0, 'others')",
    """CREATE TABLE series (
        step INTEGER NOT NULL, at INTEGER NOT NULL, name INTEGER NOT NULL, "limit" INTEGER NOT NULL,
        count INTEGER NOT NULL, dropped INTEGER NOT NULL, evicted INTEGER NOT NULL,
        PRIMARY KEY (step, at, name)) WITHOUT ROWID""",
)

_KINDS: Final = (int, int, str, int, int, int, int, int)
"""Of a point's fields: SQLite stores any type in any column."""
_PUT: Final = """INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    "limit" = max("limit", excluded."limit"), count = max(count, excluded.count),
    dropped = dropped + excluded.dropped, evicted = evicted + excluded.evicted"""

_JOIN: Final = """
    WITH joined AS (
        SELECT at - at % :wider AS slot, name, max("limit") AS most, max(count) AS peak,
            sum(dropped) AS dropped, sum(evicted) AS evicted
        FROM series WHERE step = :step AND at < :before GROUP BY slot, name),
    ranked AS (
        SELECT *, row_number() OVER (PARTITION BY slot ORDER BY name = :others, peak DESC) AS place FROM joined)
    SELECT :wider, slot, iif(place <= :tables, name, :others) AS shown, max(most), sum(peak), sum(dropped), sum(evicted)
    FROM ranked GROUP BY slot, shown"""

_ADD_TO_OTHERS: Final = """
    INSERT INTO series SELECT step, at, ?, max("limit"), sum(count), sum(dropped), sum(evicted)
    FROM series WHERE name NOT IN (SELECT id FROM series_names) GROUP BY step, at
    ON CONFLICT DO UPDATE SET "limit" = max("limit", excluded."limit"), count = count + excluded.count,
    dropped = dropped + excluded.dropped, evicted = evicted + excluded.evicted"""
"""Move points without a name."""

_WITHIN: Final = """((step = 1 AND at BETWEEN :since AND :until) OR (step = 60 AND at BETWEEN :since - 59 AND :until)
    OR (step = 3600 AND at BETWEEN :since - 3599 AND :until))"""


def add(database: sqlite3.Connection, points: Iterable[Point]) -> None:
    """Write points of one second each: the tables with the highest peaks, and the sum of the others."""
    found = list(points)
    peaks: dict[tuple[int, str], int] = {}
    for point in found:
        if point.name != THE_OTHERS:
            peaks[point.name] = max(peaks.get(point.name, 0), point.count)
    ids = _ids(database, heapq.nlargest(MOST_TABLES, peaks, key=lambda name: peaks[name]))
    put: list[tuple[int, Point]] = []
    others: dict[int, Point] = {}
    for point in found:
        if point.name in ids:
            put.append((ids[point.name], point))
        else:
            sum_ = others.get(point.at, Point(point.at, *THE_OTHERS, limit=0, count=0))
            counts = {name: getattr(sum_, name) + getattr(point, name) for name in ("count", "dropped", "evicted")}
            others[point.at] = replace(sum_, limit=point.limit, **counts)
    put += [(_OTHERS_ID, point) for point in others.values()]
    rows = ((p.step, p.at, name, p.limit, p.count, p.dropped, p.evicted) for name, p in put)
    database.executemany(_PUT, rows)


def thin(database: sqlite3.Connection, now: int) -> None:
    """Join points too old for their step into wider ones, and delete the oldest. `now`: time of the newest point."""
    database.execute("DELETE FROM series WHERE step IN (1, 60) AND at > ?", (now + _FUTURE_SECONDS,))
    for step, kept, wider in KEPT:
        before = now - kept
        if wider is not None:
            before -= before % wider  # whole wider steps only: each is joined once
            values = {"step": step, "wider": wider, "before": before, "others": _OTHERS_ID, "tables": MOST_TABLES}
            joined = database.execute(_JOIN, values)
            database.executemany(_PUT, joined.fetchall())
        database.execute("DELETE FROM series WHERE step = ? AND at < ?", (step, before))


def forget_names(database: sqlite3.Connection) -> None:
    """Delete names without points; beyond MOST_NAMES, those seen last keep theirs."""
    query = "DELETE FROM series_names WHERE id != ? AND id NOT IN (SELECT name FROM series)"
    database.execute(query, (_OTHERS_ID,))
    surplus = database.execute("SELECT count(*) FROM series_names").fetchone()[0] - NAMES_LEFT
    if surplus > 0:
        oldest = "SELECT name FROM series WHERE name != ? GROUP BY name ORDER BY max(at) LIMIT ?"
        database.execute(f"DELETE FROM series_names WHERE id IN ({oldest})", (_OTHERS_ID, surplus))  # noqa: S608 - constant
        database.execute(_ADD_TO_OTHERS, (_OTHERS_ID,))
        database.execute("DELETE FROM series WHERE name NOT IN (SELECT id FROM series_names)")


def read(execute: Execute, since: int, until: int, step: int) -> Iterator[Point]:
    """Yield the points between two wall times, oldest first, joined to steps of at least `step` seconds."""
    # in the order of Point's fields
    query = f"""SELECT at - at % max(step, :wide) AS slot, namespace, label, max("limit"), max(count),
            sum(dropped), sum(evicted), max(max(step, :wide))
        FROM series JOIN series_names ON series_names.id = series.name
        WHERE {_WITHIN} GROUP BY slot, name ORDER BY slot, namespace"""  # noqa: S608 - a constant
    for row in execute(query, {"wide": step, "since": since, "until": until}):
        if all(isinstance(value, kind) for value, kind in zip(row, _KINDS, strict=True)):  # else a damaged one
            yield Point(*row)


def held(database: sqlite3.Connection, since: int, until: int, step: int) -> list[tuple[int, int]]:
    """Return (time, the most entries in all tables together) as `read` returns points.

    Not their sum: tables that existed one after the other within a step are not added up.
    """
    query = f"""SELECT at - at % max(step, :wide) AS slot, max(entries) FROM
            (SELECT step, at, sum(count) AS entries FROM series WHERE {_WITHIN} GROUP BY step, at)
        GROUP BY slot ORDER BY slot"""  # noqa: S608 - a constant
    return database.execute(query, {"wide": step, "since": since, "until": until}).fetchall()


def peak(database: sqlite3.Connection, since: int) -> tuple[int, int] | None:
    """Return (the most entries in one table, its wall time) since then; None without a point."""
    query = "SELECT max(count), at FROM series WHERE at >= ? AND name != ?"
    found, at = database.execute(query, (since, _OTHERS_ID)).fetchone()
    return (found, at) if isinstance(found, int) and isinstance(at, int) else None


def _ids(database: sqlite3.Connection, names: Iterable[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Return the ids of names, new ones included while there is room."""
    room = MOST_NAMES - database.execute("SELECT count(*) FROM series_names").fetchone()[0]
    ids = {}
    for name in names:
        found = database.execute("SELECT id FROM series_names WHERE namespace = ? AND label = ?", name).fetchone()
        if found is None and room > 0:
            room -= 1
            query = "INSERT INTO series_names (namespace, label) VALUES (?, ?) RETURNING id"
            (found,) = database.execute(query, name).fetchall()
        if found is not None:
            ids[name] = int(found[0])
    return ids
