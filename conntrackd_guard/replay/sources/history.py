"""A guard's history.db: its decisions, to decide them again, and its time series, to simulate.

Anybody's file may be named here, so a damaged or hostile one ends in a clear line.
"""

import errno
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.model import Observation
from conntrackd_guard.core.text import short
from conntrackd_guard.core.units import YEAR_10000
from conntrackd_guard.history import file
from conntrackd_guard.history.database import History, UnreadableRow
from conntrackd_guard.history.series import THE_OTHERS, Point
from conntrackd_guard.replay.model import Grade, HostFacts, HostInput, Recorded, Sample, Skipped, Span

INITIAL = "initial"
"""The label of the initial namespace's table in a time series."""
MOST_ROWS = 1_000_000
"""Decisions that are replayed of one file: five times what a guard keeps."""
_MAGIC = b"SQLite format 3\0"
_MEMORY = "Memory available is known at decisions only: between them it is that of the decision before."
_NO_MEMORY = "No decision of that time shows the memory, so no raise can be simulated."


def is_history(path: Path) -> bool:
    """Return whether the file is an SQLite database by its first bytes. Raises OSError, also for what is no file."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for a writer
        raise OSError(errno.EINVAL, "not a regular file")
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """One history file as a unit of work; its name is the host's."""

    path: Path

    @property
    def key(self) -> str:
        """The path as it was given."""
        return str(self.path)

    def read(self, span: Span) -> Iterator[HostInput | Skipped]:
        """Yield the host once for each grade of evidence. Raises HostError if the file can't be opened."""
        seen = _Seen()
        _expect_tables(self.path)
        with History(self.path, mode="reader") as history:
            decisions = _decisions(history, span, seen)
            yield HostInput(name=self.key, grade=Grade.EXACT, facts=HostFacts(), decisions=decisions)
            for _ in decisions:  # what nobody read
                pass
            if history.damage:
                yield Skipped(name=self.key, why=history.damage)
            if seen.is_cut:
                why = f"More than {MOST_ROWS:,} decisions: the later ones are not replayed. Narrow --since and --until."
                yield Skipped(name=self.key, why=why)
            points = _fullest(_points(history, span))
        if points:
            label = points[0].label
            about = () if label == INITIAL else (f"This is the table of {short(label)}, the fullest.",)
            yield HostInput(
                name=self.key,
                grade=Grade.SIMULATED,
                facts=seen.facts(),
                samples=_samples(points, seen.memory),
                notes=(*about, _MEMORY if seen.memory else _NO_MEMORY),
            )


def _expect_tables(path: Path) -> None:
    """Raise HostError if the file has a view, which may have no end; a guard makes none."""
    database, _ = file.connect(path, writes=False)
    with closing(database), file.translate_errors("read the history", path):
        view = database.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchone()
    if view is not None:
        cause = OSError(None, f"it has the view {short(str(view[0]))}, and a guard's history has none")
        raise HostError("read the history", path, cause, "Name a file as a guard wrote it.")


def _fullest(points: Iterable[Point]) -> list[Point]:
    """Return the points of the table with the highest peak; the sum of many tables is none."""
    tables: dict[tuple[int, str], list[Point]] = {}
    for point in points:
        if point.name != THE_OTHERS:
            tables.setdefault(point.name, []).append(point)
    return max(tables.values(), key=lambda found: max(point.count for point in found), default=[])


def _points(history: History, span: Span) -> list[Point]:
    since = 0 if span.since is None else span.since
    return history.points(since, YEAR_10000 - 1 if span.until is None else span.until, 1)


@dataclass(slots=True)
class _Seen:
    """What the decisions read of the host."""

    memory: list[tuple[float, int | None]] = field(default_factory=list)
    """(wall time, bytes available), oldest first."""
    newest: Observation | None = None
    boots: set[str] = field(default_factory=set)
    is_cut: bool = False
    """There are more than MOST_ROWS."""

    def take(self, seen: Observation) -> None:
        """Take a decision's observation."""
        self.memory.append((seen.wall_seconds, None if seen.memory_unknown else seen.memory_available_bytes))
        self.newest = seen
        self.boots.add(seen.boot_id)

    def facts(self) -> HostFacts:
        """Return what the newest decision shows of the host."""
        newest = self.newest
        if newest is None:
            return HostFacts()
        return HostFacts(
            total_bytes=newest.memory_total_bytes or None,
            buckets=newest.buckets,
            entry_slab_bytes=newest.entry_slab_bytes,
            hugetlb_bytes=newest.memory_hugetlb_bytes,
            chain_limit=newest.chain_limit,
            boots=len(self.boots),
        )


def _samples(points: Iterable[Point], memory: Sequence[tuple[float, int | None]]) -> Iterator[Sample]:
    """Yield a sample for each point: of a minute or an hour the peak. Memory is that of the decision before, else after."""
    drops, place, last = 0, 0, -1
    for point in points:
        if point.at <= last:
            continue  # joined to a wider step meanwhile
        last, drops = point.at, drops + point.dropped
        while place + 1 < len(memory) and memory[place + 1][0] <= point.at:
            place += 1
        yield Sample(point.at, point.count, point.limit, memory[place][1] if memory else None, drops)


def _decisions(history: History, span: Span, seen: _Seen) -> Iterator[Recorded]:
    """Yield the decisions; have `seen` take what they read of the host."""
    policies: dict[str, Policy | None] = {}
    for number, (row, record) in enumerate(history.evidence(since=span.since, until=span.until)):
        if number == MOST_ROWS:
            seen.is_cut = True
            return
        if row.policy_hash not in policies:
            try:
                policies[row.policy_hash] = history.policy(row)
            except UnreadableRow:
                policies[row.policy_hash] = None
        if record is not None and record.observation.memory_total_bytes:
            seen.take(record.observation)
        yield Recorded(
            row=row.id,
            guard_version=row.guard_version,
            repeats=row.repeats,
            record=record,
            policy=policies[row.policy_hash],
        )
