"""The history: every decision with its evidence, durable, readable with the guard stopped.

One SQLite file in WAL mode. One writer (the recorder, or an override while no guard runs), any number of readers. A
decision is written with its policy and the journal position in one transaction that reaches the disk before `add`
returns; positions and repeats alone wait for the next decision's sync: one transaction has both, so losing them costs
only that their messages are read, and counted, again.
"""

import errno
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from conntrackd_guard.core.codec import decode, encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import HostError, NotPermitted
from conntrackd_guard.core.model import Record
from conntrackd_guard.core.units import rfc3339
from conntrackd_guard.core.verification import Verification
from conntrackd_guard.history import file, rows, series
from conntrackd_guard.history.file import HistoryDamaged, translate_errors
from conntrackd_guard.history.rows import COLUMNS, Position, Row
from conntrackd_guard.history.schema import FOLDED
from conntrackd_guard.history.series import Point

if TYPE_CHECKING:
    from conntrackd_guard.core.traffic.analysis import TableAnalysis

__all__ = ["History", "HistoryDamaged", "Position", "Row"]

PRUNE_AT_ONCE: Final = 1000
"""Rows deleted a transaction: each then holds the write lock for some 20 ms only."""
SHRINK_AT_ONCE: Final = 5
"""Such transactions in one `shrink`: the recorder has other work, and comes back in 10 s."""
FOLDED_MOST: Final = 1000
"""Rows of this boot that are never deleted: as many raises as `core.state` remembers."""
SHRUNK: Final = 0.9
"""The share of the maximum that is left when a history is shrunk, so that it isn't shrunk for each new row."""
_EXPENDABLE: Final = ("verdict = 'hold'", "verdict != 'raise'", "TRUE")
"""What is deleted first where room is needed, in this order: raises last."""
_FIRST: Final = frozenset({"id", "key", "at", "at_seconds", "boottime_seconds", "repeats"})
"""The columns that a repeat does not change, or counts."""
_OUTCOME: Final = ("outcome", "limit_after", "errno", "detail", "sentence")
"""The columns that a command knows at its end."""
MOST_REPEATS: Final = 1000
"""Of one row in the state, which keeps no more raises."""
_NAMED: Final = 5
_NUMBER: Final = "typeof({}) IN ('integer', 'real')"
"""SQLite stores any type in any column."""
_SUMMARY: Final = ", ".join(COLUMNS)
_ARITHMETIC: Final = "(SELECT arithmetic FROM evidence WHERE id = decisions.id)"
_VERIFICATION: Final = "(SELECT json FROM verifications WHERE id = decisions.id)"


class UnreadableRow(HostError):  # noqa: N818 - a state of the row
    """A decision that is damaged, or that a newer guard wrote."""

    def __init__(self, row_id: int, path: Path, why: str) -> None:
        next_step = "If a newer guard wrote it, use that one to read it."
        super().__init__(f"understand decision {row_id} of", path, OSError(None, why), next_step)


@dataclass(frozen=True, slots=True)
class Repeats:
    """Decisions equal to that of a row, to be counted there."""

    row_id: int
    times: int
    last_wall_seconds: float
    also: str = ""
    """What the row's detail is to name as well; "" leaves it as it is."""


class History:
    """An open history file. Every method raises HostError where SQLite or the disk refuses."""

    def __init__(self, path: Path, *, mode: Literal["writer", "reader"], traceless: bool = False) -> None:
        self.path = path
        self._database, self.note = file.connect(path, writes=mode == "writer", traceless=traceless)
        self._files = file.OpenFile(path)
        self._damaged = list[int]()

    @classmethod
    def open_or_set_aside(cls, path: Path, now: float) -> tuple[Self, str | None]:
        """Open for writing; move a damaged file aside, start a new one and return the message to log.

        `now` is wall time in seconds and names the file set aside. A file of a newer version is refused, not moved.
        """
        try:
            return cls(path, mode="writer"), None
        except HistoryDamaged as damage:
            sentence = file.set_aside(path, now, damage)
            return cls(path, mode="writer"), sentence

    @classmethod
    def existing(cls, path: Path) -> Self | None:
        """Open for reading, None if there is none. NotPermitted if this user may not read it."""
        try:
            return cls(path, mode="reader")
        except HostError as error:
            if error.errno == errno.EACCES:
                raise NotPermitted(str(error)) from error
            if error.errno != errno.ENOENT:
                raise
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the last writer merges the WAL into it."""
        with suppress(sqlite3.Error):
            self._database.close()

    def change(self) -> str:
        """Return what happened to the file since it was opened, as the end of a sentence; "" if nothing did."""
        return self._files.change()

    def leave(self) -> None:
        """Close a file that `change` has found elsewhere."""
        self._files.leave(self._database)

    def add(  # noqa: PLR0913 - a row has as many parts
        self,
        record: Record,
        *,
        policy: Policy,
        sentence: str,
        kernel_release: str,
        position: Position | None = None,
        again: int | None = None,
        times: int = 1,
        repeats: Sequence[Repeats] = (),
        is_final: bool = False,
    ) -> int:
        """Write the decision, durably, and return its id; a record whose key is known is not written again.

        `again` is the row that it repeats: that one counts it, keeps its key and first time, and takes all else from it.
        A new row counts `times` decisions, 0 if `count` does later. `repeats` of other rows and the position come with
        it, or nothing does. With `is_final`, a row whose key is known takes over the outcome and the sentence: a command
        knows them better than the daemon, which may have written its override first.
        """
        row = replace(
            rows.first_row(record, 0, policy=policy, sentence=sentence, kernel_release=kernel_release), repeats=times
        )
        with self._transaction("write a decision to", durable=True) as database:
            database.execute("INSERT OR IGNORE INTO policies VALUES (?, ?)", rows.hashed(policy))
            _count(database, repeats)
            row_id = _insert(database, row, is_final=is_final) if again is None else _renew(database, again, row)
            if row_id is not None:
                database.execute("REPLACE INTO evidence VALUES (?, ?, ?, ?, ?, ?)", (row_id, *rows.evidence(record)))
            else:
                (row_id,) = database.execute("SELECT id FROM decisions WHERE key = ?", (record.key,)).fetchone()
            _put_position(database, position)
        return int(row_id)

    def count(self, repeats: Sequence[Repeats], position: Position | None = None) -> None:
        """Count repeats, with the position of the newest message among them: both, or nothing; not synced."""
        with self._transaction("count repeats in", durable=False) as database:
            _count(database, repeats)
            _put_position(database, position)

    def add_verification(self, verification: Verification) -> None:
        """Write a raise's verification (nothing where its row is gone); not synced."""
        with self._transaction("write a verification to", durable=False) as database:
            query = "REPLACE INTO verifications SELECT id, ? FROM decisions WHERE key = ?"
            database.execute(query, (rows.compact(encode(verification)), verification.key))

    def add_points(self, points: Sequence[Point], *, thin: bool = True) -> None:
        """Write points of one second into the time series, the newest last, and `thin` it; not synced."""
        with self._transaction("write the time series to", durable=False) as database:
            series.add(database, points)
            if thin:
                series.thin(database, points[-1].at)

    def points(self, since: float, until: float, step: int) -> list[Point]:
        """Return the time series between two wall times, oldest first, in steps of at least `step` seconds."""
        with translate_errors("read", self.path):
            return list(series.read(self._found, int(since), int(until), step))

    def held(self, since: float, until: float, step: int) -> list[tuple[int, int]]:
        """Return (wall time, the most entries in all tables together), in the steps of `points`."""
        with translate_errors("read", self.path):
            return series.held(self._database, int(since), int(until), step)

    def begins(self) -> float | None:
        """Return the wall time of the oldest decision or point, None in an empty history."""
        number = _NUMBER.format("at")
        query = f"""SELECT min(at) FROM (SELECT at_seconds AS at FROM decisions UNION ALL SELECT at FROM series)
            WHERE {number}"""  # noqa: S608 - constants
        found: float | None = self._all(query)[0][0]
        return found

    def add_analysis(self, key: str, analysis: "TableAnalysis") -> None:
        """Write a table's analysis beside the decision with that key (nothing without one); not synced."""
        values = (analysis.wall_seconds, analysis.findings[0].cause.value, rows.compact(encode(analysis)), key)
        with self._transaction("write a sample to", durable=False) as database:
            database.execute("REPLACE INTO samples SELECT id, ?, ?, ? FROM decisions WHERE key = ?", values)

    def prune_samples(self, before_seconds: float) -> None:
        """Delete the analyses made before that wall time."""
        with self._transaction("delete old samples of", durable=False) as database:
            database.execute("DELETE FROM samples WHERE at_seconds < ?", (before_seconds,))

    def find_key(self, key: str) -> int | None:
        """Return the id of the record with that key, None where it is not written."""
        found = self._all("SELECT id FROM decisions WHERE key = ?", (rows.storable(key),))
        return int(found[0][0]) if found else None

    def find_fingerprint(self, wanted: str, boot_id: str) -> tuple[int, float, int | None, str] | None:
        """Return that boot's newest row with this fingerprint: id, wall time of its last repeat, namespace, detail.

        None where it has none, or where another row came since that can change the state: then it is news again.
        """
        query = f"""SELECT id, last_seconds, namespace, detail FROM decisions
            WHERE boot_id = :boot AND fingerprint = :wanted AND id > coalesce(
                (SELECT max(id) FROM decisions WHERE boot_id = :boot AND {FOLDED} AND fingerprint != :wanted), 0)
            AND {_NUMBER.format("last_seconds")} AND typeof(detail) = 'text' AND typeof(namespace) IN ('integer', 'null')
            ORDER BY id DESC LIMIT 1"""  # noqa: S608 - constants
        found = self._all(query, {"boot": boot_id, "wanted": wanted})
        return found[0] if found else None

    def position(self) -> Position | None:
        """Return how far the guard had read, None in a new history and where it can't be understood."""
        found = self._all("SELECT value FROM meta WHERE key = 'position'")
        with suppress(ValueError):
            return decode(Position, rows.parse(found[0][0])) if found else None
        return None

    @property
    def damage(self) -> str:
        """The decisions that were left out so far because they can't be read, as a sentence; "" if there were none."""
        if not self._damaged:
            return ""
        ids = ", ".join(map(str, self._damaged[:_NAMED])) + (" and more" if len(self._damaged) > _NAMED else "")
        return f"{len(self._damaged)} damaged decisions are left out, by number: {ids}."

    def records(self, boot_id: str) -> Iterator[Record]:
        """Yield that boot's records that can change the state, oldest first, each as often as it came: no plain holds.

        Another program's change has of its observation only what `core.state.advance` reads: tens of thousands may be in a
        boot, and reading one takes a fifth of the time. Damaged records are left out (`damage`). An empty `boot_id` is that
        of records made while it could not be read, in any boot: none of them is yielded.
        """
        query = f"""SELECT id, verdict = 'hold' AND repeats = 1, key, boottime_seconds, from_limit, reason,
            (SELECT trigger FROM evidence WHERE id = decisions.id)
            FROM decisions WHERE boot_id = ? AND {FOLDED} ORDER BY id"""  # noqa: S608 - constants
        for row_id, is_change, *columns in self._found(query, (boot_id,)) if boot_id else ():
            change = rows.change_of(boot_id, *columns) if is_change else None
            if change is not None:
                yield change
                continue
            try:
                if (row := self.row(row_id)) is not None:
                    yield from repeat(self.record(row), max(1, min(row.repeats, MOST_REPEATS)))
            except UnreadableRow:
                if row_id not in self._damaged:
                    self._damaged.append(row_id)

    def rows(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        last: int | None = None,
        verdict: str | None = None,
        arithmetic: bool = False,
    ) -> Iterator[Row]:
        """Yield decisions, newest first, that came (or came again) between two wall times, both included."""
        sums = _ARITHMETIC if arithmetic else "NULL"
        query = f"""SELECT {_SUMMARY}, {sums}, {_VERIFICATION} FROM decisions
            WHERE last_seconds >= ? AND (at_seconds <= ? OR NOT {_NUMBER.format("at_seconds")}) AND coalesce(verdict = ?, TRUE)
            ORDER BY id DESC"""  # noqa: S608 - constants
        low, high = (-1e18 if since is None else since), (1e18 if until is None else until)
        yield from islice(self._intact(query, (low, high, verdict)), last)

    def steps(self) -> Iterator[Row]:
        """Yield what moved the limit, newest first: applied raises and reverts, and what other writers did."""
        query = f"""SELECT {_SUMMARY}, {_ARITHMETIC}, NULL FROM decisions
            WHERE (trigger = 'other_writer' AND reason != 'buckets_changed')
            OR (outcome = 'applied' AND (verdict = 'raise' OR reason = 'revert')) ORDER BY id DESC"""  # noqa: S608 - constants
        return self._intact(query, ())

    def row(self, row_id: int) -> Row | None:
        """Return the decision with that id, None where there is none. Raises UnreadableRow."""
        query = f"SELECT {_SUMMARY}, NULL, {_VERIFICATION} FROM decisions WHERE id = ?"  # noqa: S608 - constants
        for row in self._intact(query, (row_id,)):
            return row
        if row_id in self._damaged:
            raise UnreadableRow(row_id, self.path, "a column is damaged")
        return None

    def record(self, row: Row) -> Record:
        """Return the record behind a row. Raises UnreadableRow."""
        query = "SELECT trigger, observation, state, decision, arithmetic FROM evidence WHERE id = ?"
        try:
            return rows.record_of(row, *self._all(query, (row.id,))[0])
        except (ValueError, LookupError, TypeError) as error:
            raise UnreadableRow(row.id, self.path, str(error)) from error

    def evidence(
        self, *, since: float | None = None, until: float | None = None
    ) -> Iterator[tuple[Row, Record | None]]:
        """Yield the decisions that `rows` does, oldest first, each with its record, None if that can't be read."""
        query = f"""SELECT {_SUMMARY}, NULL, NULL, cause, observation, state, decision, sums
            FROM decisions LEFT JOIN
                (SELECT id, trigger AS cause, observation, state, decision, arithmetic AS sums FROM evidence) USING (id)
            WHERE last_seconds >= ? AND (at_seconds <= ? OR NOT {_NUMBER.format("at_seconds")})
            ORDER BY id"""  # noqa: S608 - constants
        low, high = (-1e18 if since is None else since), (1e18 if until is None else until)
        for found in self._found(query, (low, high)):
            row = rows.row_of(found[:-5])
            if row is None:
                self._damaged.append(found[0])
                continue
            try:
                yield row, rows.record_of(row, *found[-5:])
            except (ValueError, LookupError, TypeError):
                yield row, None

    def policy(self, row: Row) -> Policy:
        """Return the policy that a row was decided with. Raises UnreadableRow."""
        try:
            text = self._all("SELECT json FROM policies WHERE hash = ?", (row.policy_hash,))[0][0]
            return decode(Policy, rows.parse(text))
        except (ValueError, LookupError) as error:
            raise UnreadableRow(row.id, self.path, str(error)) from error

    def sample(self, row_id: int) -> str | None:
        """Return the analysis of a decision's table as JSON, None without one."""
        found = self._all("SELECT analysis FROM samples WHERE id = ?", (row_id,))
        return found[0][0] if found else None

    def prune(self, now: float, retention_seconds: float, max_rows: int) -> int:
        """Delete what is older than the retention, and the oldest beyond the maximum, raises last; return how many.

        `now` is wall time. What the newest row's boot needs to fold its state is never deleted.
        """
        old = gone = self._delete("last_seconds < ?", (now - retention_seconds,))
        surplus = max(0, self._all("SELECT count(*) FROM decisions")[0][0] - max_rows)
        with self._transaction("forget tables of", durable=False) as database:
            series.forget_names(database)
        for condition in _EXPENDABLE:
            gone += self._delete(condition, (), surplus - (gone - old))
        return gone

    def shrink(self, max_bytes: int) -> int:
        """Where it takes more than `max_bytes`, delete the oldest rows, raises last, to SHRUNK of that; return how many.

        One call deletes up to SHRINK_AT_ONCE × PRUNE_AT_ONCE rows. The file keeps its size, and takes no more: the pages that
        become free are used for new rows.
        """
        gone, most, left = 0, SHRUNK * max_bytes, SHRINK_AT_ONCE
        for condition in _EXPENDABLE if self.used_bytes() > max_bytes else ():
            done = PRUNE_AT_ONCE
            while done == PRUNE_AT_ONCE and left and self.used_bytes() > most:
                done = self._delete(condition, (), PRUNE_AT_ONCE)
                gone, left = gone + done, left - 1
        return gone

    def used_bytes(self) -> int:
        """Return what the rows and the time series take of the file."""
        page, pages, free = (
            self._all(f"PRAGMA {name}")[0][0] for name in ("page_size", "page_count", "freelist_count")
        )
        return int(page * (pages - free))

    def check(self, seconds: float) -> bool:
        """Check every page; return whether that was done within `seconds`. Raises HistoryDamaged where one is unsound."""
        with translate_errors("check", self.path):
            return file.check_pages(self._database, self.path, seconds)

    def _delete(self, condition: str, values: tuple[object, ...], most: float = float("inf")) -> int:
        """Delete the oldest rows that fit, in small transactions, but for those that this boot's state is folded from."""
        newest = "boot_id = (SELECT boot_id FROM decisions ORDER BY id DESC LIMIT 1)"
        folded = f"{newest} AND {FOLDED}"
        first = f"SELECT id FROM decisions WHERE {folded} ORDER BY id DESC LIMIT 1 OFFSET {FOLDED_MOST - 1}"  # noqa: S608 - constants
        condition += f" AND NOT ({folded} AND id >= coalesce(({first}), 0))"
        gone = 0
        while gone < most:
            batch = min(PRUNE_AT_ONCE, most - gone)
            with self._transaction("delete old rows of", durable=False) as database:
                query = f"SELECT id FROM decisions WHERE {condition} ORDER BY id LIMIT ?"  # noqa: S608 - constants
                done = database.execute(f"DELETE FROM decisions WHERE id IN ({query})", (*values, batch)).rowcount  # noqa: S608
            gone += done
            if done < batch:
                break
        return gone

    def _all(self, query: str, values: tuple[object, ...] | dict[str, object] = ()) -> list[tuple[Any, ...]]:
        return list(self._found(query, values))

    def _intact(self, query: str, values: tuple[object, ...]) -> Iterator[Row]:
        """Yield the rows that a query returns, but for damaged ones, which are noted."""
        for found in self._found(query, values):
            row = rows.row_of(found)
            if row is not None:
                yield row
            elif found[0] not in self._damaged:
                self._damaged.append(found[0])

    def _found(self, query: str, values: tuple[object, ...] | dict[str, object]) -> Iterator[tuple[Any, ...]]:
        """Yield what a query returns. Text that is no UTF-8 gets replacement characters, from the first on: they cost time."""
        count = 0
        with translate_errors("read", self.path):
            while True:
                try:
                    for found in islice(self._database.execute(query, values), count, None):
                        count += 1
                        yield found
                except sqlite3.OperationalError as error:
                    if self._database.text_factory is not str or "UTF-8" not in str(error):
                        raise
                    self._database.text_factory = partial(str, encoding="utf-8", errors="replace")
                else:
                    return

    @contextmanager
    def _transaction(self, action: str, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """Run one transaction; a durable one is on the disk (with all before it) when this returns."""
        with translate_errors(action, self.path):
            self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._database.execute("ROLLBACK")
                raise


def _count(database: sqlite3.Connection, repeats: Sequence[Repeats]) -> None:
    changes = "repeats = repeats + ?, last_at = ?, last_seconds = ?, detail = coalesce(nullif(?, ''), detail)"
    for one in repeats:
        values = (one.times, rfc3339(one.last_wall_seconds), one.last_wall_seconds, rows.storable(one.also), one.row_id)
        database.execute(f"UPDATE decisions SET {changes} WHERE id = ?", values)  # noqa: S608 - constants


def _insert(database: sqlite3.Connection, row: Row, *, is_final: bool) -> int | None:
    """Insert a decision and return its id, None where its key is known: then only `is_final` changes the row."""
    names = COLUMNS[1:]  # all but the id
    query = f"INSERT INTO decisions ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - constants
    values = [getattr(row, name) for name in names]
    taken = ", ".join(f"{name} = excluded.{name}" for name in _OUTCOME)
    action = f"UPDATE SET {taken}" if is_final else "NOTHING"
    found = database.execute(f"{query} ON CONFLICT (key) DO {action} RETURNING id", values).fetchall()
    return found[0][0] if found else None


def _renew(database: sqlite3.Connection, row_id: int, row: Row) -> int:
    """Count a repeat in a decision and take over its evidence."""
    newer = {name: getattr(row, name) for name in COLUMNS if name not in _FIRST}
    changes = ", ".join(f"{name} = ?" for name in newer)
    query = f"UPDATE decisions SET {changes}, repeats = repeats + 1 WHERE id = ?"  # noqa: S608 - constants
    database.execute(query, (*newer.values(), row_id))
    return row_id


def _put_position(database: sqlite3.Connection, position: Position | None) -> None:
    if position is not None:
        database.execute("REPLACE INTO meta VALUES ('position', ?)", (rows.compact(encode(position)),))
