"""A history's rows are decided again: under the recorded policy each gets its recorded verdict."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.guarded import LIMIT, Guarded, Host, an_override

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import MessageKind, OverrideKind
from conntrackd_guard.replay.engine import compare, replay
from conntrackd_guard.replay.exact import MOST_VERSIONS
from conntrackd_guard.replay.lines import Answer
from conntrackd_guard.replay.model import Grade, HostInput, HostResult, Span
from conntrackd_guard.replay.sources.history import HistoryFile


@pytest.fixture
def recorded(host: Host) -> Path:
    """Give the history of a guard that decided in many ways, under two policies."""
    guarded = Guarded(host, Policy(max_limit=4 * LIMIT))
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.message()  # superseded
    guarded.turn(0.1)
    guarded.message(kind=MessageKind.NEIGHBOUR_FULL)
    guarded.message(live=False)
    guarded.turn(3.0)
    host.limit = LIMIT  # another writer lowers it
    guarded.turn(3.0)
    host.table(2 * LIMIT)
    guarded.intents_folder.meanwhile.append(lambda: setattr(host, "limit", host.limit + 1))  # ahead of a write
    for count in (2 * LIMIT, 4 * LIMIT):
        host.table(count)
        for _ in range(8):  # to the ceiling
            guarded.turn(3.0)
    guarded.controller.policy = Policy(threshold=0.5, growth_factor=3.0)
    for count in (3 * LIMIT, 5 * LIMIT, 8 * LIMIT):
        host.table(count)
        for _ in range(4):
            guarded.turn(3.0)
    guarded.recorder.submit(an_override(guarded, OverrideKind.PAUSE), guarded.policy)
    guarded.written()
    guarded.stop()
    return guarded.paths.history


def decided(path: Path, policy: Policy | None = None, span: Span | None = None) -> HostResult:
    """Return the exact row of a history file."""
    for found in HistoryFile(path).read(span or Span()):
        if isinstance(found, HostInput) and found.grade is Grade.EXACT:
            return replay(found, policy or Policy(), recorded=policy is None)
    pytest.fail("the file has no decisions")


def test_every_row_gets_its_recorded_verdict(recorded: Path) -> None:
    """The law of an exact replay; the history holds raises, and holds of several kinds."""
    row = decided(recorded)
    assert row.exact is not None
    assert row.exact.differences == ()
    assert (row.exact.different, row.exact.unreadable, row.exact.other_versions) == (0, 0, {})
    assert row.exact.same == row.exact.rows - row.exact.overrides > 10
    assert row.exact.overrides == 1
    assert row.raises >= 3
    assert {"at_ceiling", "limit_lowered", "changed_under_us", "neighbour_table"} <= row.holds.keys()


def test_another_policy_decides_otherwise(recorded: Path) -> None:
    """Under a ceiling at the first limit no raise is left, and each one is shown as a difference."""
    before, row = decided(recorded), decided(recorded, Policy(max_limit=LIMIT))
    assert row.exact is not None
    assert row.raises == 0
    assert row.exact.different >= before.raises
    assert "hold at_ceiling" in {one.replayed for one in row.exact.differences}


def test_rows_of_another_version_count_as_recorded(recorded: Path) -> None:
    """What another version decided is not judged by this one."""
    with sqlite3.connect(recorded) as database:
        database.execute("UPDATE decisions SET guard_version = '0.0.9' WHERE verdict = 'raise'")
    before, row = decided(recorded), decided(recorded)
    assert row.exact is not None
    assert row.exact.other_versions == {"0.0.9": before.raises}
    assert row.raises == before.raises


def test_rows_of_another_version_are_no_difference_of_two_policies(recorded: Path) -> None:
    """Else each comparison after an upgrade would fail."""
    with sqlite3.connect(recorded) as database:
        database.execute("UPDATE decisions SET guard_version = '0.0.9' WHERE id = 1")
        database.execute("DELETE FROM decisions WHERE id > 3")
    reading = HistoryFile(recorded).read(Span())
    host = next(reading)
    assert isinstance(host, HostInput)
    row, against = compare(host, Policy(), Policy(max_limit=4 * LIMIT), recorded=True)
    assert row.exact is not None
    assert against.exact is not None
    assert (sum(row.exact.other_versions.values()), against.exact.other_versions) == (1, {})
    assert not Answer(host=row, against=against).differs
    assert Answer(host=row, against=replace(against, raises=9)).differs


def test_messages_are_counted_once(host: Host) -> None:
    """Decisions made again for the same message are no messages, and those that one raise answers are all counted."""
    guarded = Guarded(host, Policy(max_limit=LIMIT, raise_early=False))
    host.table(LIMIT)
    guarded.message()
    for _ in range(60):
        guarded.turn(1.0)
    guarded.controller.policy = Policy()
    for _ in range(10):
        guarded.message()
    guarded.turn(1.0)
    guarded.written()
    assert guarded.rows()[0].repeats > 2
    guarded.stop()
    assert decided(guarded.paths.history).messages == 11


def test_the_versions_of_a_hostile_history_are_bounded(recorded: Path) -> None:
    """Each of its rows may name another one, as long as it likes; the rows still add up."""
    with sqlite3.connect(recorded) as database:
        database.execute(
            "UPDATE decisions SET guard_version = id || '.' || hex(zeroblob(10000)) WHERE verdict <> 'override'"
        )
    row = decided(recorded)
    assert row.exact is not None
    versions = row.exact.other_versions
    assert len(versions) == MOST_VERSIONS + 1
    assert max(map(len, versions)) <= 64
    assert versions["others"] == row.exact.rows - row.exact.overrides - MOST_VERSIONS > 0


def test_damaged_rows_are_counted(recorded: Path) -> None:
    """A row whose evidence is no JSON is unreadable, and the others are decided."""
    with sqlite3.connect(recorded) as database:
        database.execute("UPDATE evidence SET observation = '{' WHERE id = 1")
        database.execute("DELETE FROM evidence WHERE id = 2")
    row = decided(recorded)
    assert row.exact is not None
    assert row.exact.unreadable == 2
    assert row.exact.different == 0


def test_only_the_time_asked_for_is_decided(recorded: Path) -> None:
    """The span leaves out what came before it."""
    whole = decided(recorded)
    assert whole.exact is not None
    assert whole.since is not None
    later = decided(recorded, span=Span(since=whole.since + 10))
    assert later.exact is not None
    assert 0 < later.exact.rows < whole.exact.rows
