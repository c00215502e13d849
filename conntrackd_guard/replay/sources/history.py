"""A guard's history.db: its decisions, to decide them again, and its time series, to simulate.

Anybody's file may be named here, so a damaged or hostile one ends in a clear line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.history.database import History, UnreadableRow
from conntrackd_guard.replay.model import Grade, HostFacts, HostInput, Recorded, Skipped, Span

_MAGIC = b"SQLite format 3\0"


def is_history(path: Path) -> bool:
    """Return whether the file is an SQLite database by its first bytes. Raises OSError."""
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
        with History(self.path, mode="reader") as history:
            yield HostInput(name=self.key, grade=Grade.EXACT, facts=HostFacts(), decisions=_decisions(history, span))
            if history.damage:
                yield Skipped(name=self.key, why=history.damage)


def _decisions(history: History, span: Span) -> Iterator[Recorded]:
    policies: dict[str, Policy | None] = {}
    for row, record in history.evidence(since=span.since, until=span.until):
        if row.policy_hash not in policies:
            try:
                policies[row.policy_hash] = history.policy(row)
            except UnreadableRow:
                policies[row.policy_hash] = None
        yield Recorded(
            row=row.id,
            guard_version=row.guard_version,
            repeats=row.repeats,
            record=record,
            policy=policies[row.policy_hash],
        )
