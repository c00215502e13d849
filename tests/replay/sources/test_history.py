"""A history of anybody: what its decisions and series may cost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.replay.model import HostInput, Skipped, Span
from conntrackd_guard.replay.sources import history
from conntrackd_guard.replay.sources.history import HistoryFile


@pytest.fixture
def recorded(host: Host) -> Path:
    """Give a history with some decisions."""
    guarded = Guarded(host)
    for count in (LIMIT, 2 * LIMIT, 4 * LIMIT):
        host.table(count)
        guarded.message()
        guarded.turn(3.0)
    guarded.stop()
    return guarded.paths.history


def test_a_view_in_place_of_a_table_is_refused(recorded: Path) -> None:
    """A recursive one has no end."""
    with sqlite3.connect(recorded) as database:
        names = [name for _, name, *_ in database.execute("PRAGMA table_info(decisions)")]
        database.execute("DROP TABLE decisions")
        columns = ", ".join(f"i AS {name}" for name in names)
        endless = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT 100000)"
        database.execute(f"CREATE VIEW decisions AS {endless} SELECT {columns} FROM c")  # noqa: S608 - names of columns
    with pytest.raises(HostError, match="it has the view decisions, and a guard's history has none"):
        list(HistoryFile(recorded).read(Span()))


def test_the_decisions_of_a_history_are_bounded(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is named."""
    monkeypatch.setattr(history, "MOST_ROWS", 2)
    found = list[HostInput | Skipped]()
    for one in HistoryFile(recorded).read(Span()):
        if isinstance(one, HostInput) and one.decisions:
            assert [row.row for row in one.decisions] == [1, 2]
        found.append(one)
    assert [one.why for one in found if isinstance(one, Skipped)] == [
        "More than 2 decisions: the later ones are not replayed. Narrow --since and --until."
    ]
