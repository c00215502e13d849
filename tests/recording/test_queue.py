"""The queue while the disk stalls: order is kept, conflicts stay apart, the position is never ahead of its rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from testbed.disks import until
from testbed.guarded import Guarded, Host
from testbed.records import BOOT, a_record, raised

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, Record, State, TriggerKind
from conntrackd_guard.core.state import advance
from conntrackd_guard.history.database import History, Position
from conntrackd_guard.recording.worker import Worker

CHAINS = Hold(reason=HoldReason.CHAINS)
ADD = History.add


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush at every turn of the recorder."""
    monkeypatch.setattr("conntrackd_guard.recording.worker.FLUSH_SECONDS", 0.0)


@pytest.fixture
def guarded(host: Host) -> Iterator[Guarded]:
    """Give a running guard."""
    guarded = Guarded(host)
    guarded.written()
    until(lambda: guarded.recorder.report()["backlog"] == 0)  # the call that `written` waits for leaves after its turn
    yield guarded
    guarded.stop()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Give an event, before which no position in the queue reaches the writer."""
    note, comes = Worker.note_position, threading.Event()

    def wait(self: Worker, position: Position) -> None:
        comes.wait(10.0)
        note(self, position)

    monkeypatch.setattr(Worker, "note_position", wait)
    return comes


def at(number: int) -> Position:
    """Return a position in the journal."""
    return Position(cursor=str(number))


def lowered(key: str) -> Record:
    """Return the record of a limit that another program lowered below the guard's."""
    return a_record(key, Hold(reason=HoldReason.LIMIT_LOWERED), trigger=TriggerKind.OTHER_WRITER)


def on_disk(path: Path) -> tuple[list[tuple[str, int]], Position | None]:
    """Return the rows (key, repeats), oldest first, and the position."""
    with History(path, mode="reader") as history:
        return [(row.key, row.repeats) for row in history.rows()][::-1], history.position()


def test_the_position_waits_for_the_rows_that_it_covers(guarded: Guarded, refusing: threading.Event) -> None:
    """While a hold can't be written, a kill loses no message: the journal is read from before it."""
    guarded.recorder.note_position(at(1))
    guarded.written()
    refusing.set()
    guarded.recorder.submit(a_record("a"), Policy(), at(2))
    guarded.recorder.note_position(at(3))
    until(lambda: guarded.recorder.report()["trouble"])
    assert on_disk(guarded.paths.history) == ([], at(1))
    refusing.clear()
    guarded.written()
    until(lambda: on_disk(guarded.paths.history) == ([("a", 1)], at(3)))


def test_a_merged_hold_takes_no_position_to_the_front(
    guarded: Guarded, stalled: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another row waits between the first hold and its repeat: the position that covers it is written after it."""
    for number, record in enumerate([raised("r"), a_record("a"), a_record("b", CHAINS), a_record("c")], 1):
        guarded.recorder.submit(record, Policy(), at(number))
    add = History.add

    def refuse_b(self: History, record: Record, **more: Any) -> int:
        if record.key == "b":
            raise HostError("write", self.path, OSError(28, "No space left on device"), "Free space.")
        return add(self, record, **more)

    monkeypatch.setattr(History, "add", refuse_b)
    stalled.set()
    until(lambda: guarded.recorder.report()["trouble"])
    until(lambda: on_disk(guarded.paths.history) == ([("r", 1), ("a", 1)], at(2)))
    monkeypatch.setattr(History, "add", ADD)
    guarded.written()
    until(lambda: on_disk(guarded.paths.history) == ([("r", 1), ("a", 2), ("b", 1)], at(4)))


def test_a_position_noted_while_another_is_at_work_is_not_lost(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker may be writing the entry that a newer position would replace."""
    begun, returns, note = threading.Event(), threading.Event(), Worker.note_position

    def slow(self: Worker, position: Position) -> None:
        begun.set()
        assert returns.wait(10.0)
        note(self, position)

    monkeypatch.setattr(Worker, "note_position", slow)
    guarded.recorder.note_position(at(1))
    assert begun.wait(10.0)
    guarded.recorder.note_position(at(2))
    returns.set()
    guarded.written()
    until(lambda: on_disk(guarded.paths.history)[1] == at(2))


def test_no_repeat_is_written_before_its_position(
    guarded: Guarded, stalled: threading.Event, late: threading.Event
) -> None:
    """A kill in between counts no message twice: it is read again, or its row counts it."""
    for number, record in enumerate([a_record("a"), a_record("b"), a_record("c")], 1):
        guarded.recorder.submit(record, Policy(), at(number))
    stalled.set()
    until(lambda: on_disk(guarded.paths.history)[0])
    assert on_disk(guarded.paths.history) == ([("a", 1)], at(1))
    late.set()
    until(lambda: on_disk(guarded.paths.history) == ([("a", 3)], at(3)))


@pytest.mark.parametrize("between", [[], [raised("b", boottime_seconds=51.0)]], ids=["alone", "with a raise"])
def test_no_message_is_counted_before_a_position_covers_it(guarded: Guarded, between: list[Record]) -> None:
    """Messages of before the start may still be gathered: a kill meanwhile has this one read, and counted, again."""
    guarded.recorder.submit(a_record("x", CHAINS), Policy(), at(1))
    for record in (a_record("a"), *between):
        guarded.recorder.submit(record, Policy(), times=3 if record.key == "a" else 1)
    guarded.written()
    more = [(record.key, 1) for record in between]
    assert on_disk(guarded.paths.history) == ([("x", 1), ("a", 0), *more], at(1))
    guarded.recorder.note_position(at(2))
    until(lambda: on_disk(guarded.paths.history) == ([("x", 1), ("a", 3), *more], at(2)))


def test_another_record_takes_no_repeat_to_the_disk_before_its_position(
    guarded: Guarded, stalled: threading.Event, late: threading.Event
) -> None:
    """It waits between the first hold and the repeat that joined it: its position does not cover that repeat."""
    for number, record in enumerate([a_record("a"), a_record("b", CHAINS), a_record("c")], 1):
        guarded.recorder.submit(record, Policy(), at(number))
    stalled.set()
    until(lambda: len(on_disk(guarded.paths.history)[0]) == 2)
    assert on_disk(guarded.paths.history) == ([("a", 1), ("b", 0)], at(1))
    late.set()
    until(lambda: on_disk(guarded.paths.history) == ([("a", 2), ("b", 1)], at(3)))


def test_a_position_follows_a_repeat_that_had_none(guarded: Guarded, stalled: threading.Event) -> None:
    """Other messages waited for a decision then: the record of the last one brings the position of all."""
    for record in (a_record("a"), a_record("b"), a_record("c")):
        guarded.recorder.submit(record, Policy())
    until(lambda: guarded.recorder.report()["stuck_seconds"] > 0)
    for record in (a_record("d"), a_record("e")):
        guarded.recorder.submit(record, Policy())
    guarded.recorder.submit(a_record("f", CHAINS), Policy(), at(2))
    guarded.recorder.note_position(at(2))
    stalled.set()
    until(lambda: on_disk(guarded.paths.history) == ([("a", 5), ("f", 1)], at(2)))


def test_the_position_behind_a_repeat_is_written_though_it_is_an_old_one(
    guarded: Guarded, stalled: threading.Event
) -> None:
    """A decision that no message caused is counted as well."""
    for record in (a_record("a"), a_record("b")):
        guarded.recorder.submit(record, Policy(), at(1))
    stalled.set()
    until(lambda: on_disk(guarded.paths.history) == ([("a", 2)], at(1)))


def test_repeats_are_written_before_a_row_whose_position_covers_them(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill right after the row loses none of them."""
    monkeypatch.setattr("conntrackd_guard.recording.worker.FLUSH_SECONDS", 1e9)
    for number, record in enumerate([a_record("a"), a_record("b"), a_record("c", CHAINS)]):
        guarded.recorder.submit(record, Policy(), at(number))
    guarded.written()
    assert on_disk(guarded.paths.history) == ([("a", 2), ("c", 1)], at(2))


def test_a_merged_hold_keeps_its_last_time(guarded: Guarded, stalled: threading.Event) -> None:
    """When the disk returns, the row has the time of the last repeat."""
    for number, seconds in enumerate((1000.0, 1000.0, 1500.0)):
        guarded.recorder.submit(a_record(str(number), wall_seconds=seconds), Policy())
    guarded.recorder.note_position(at(1))
    stalled.set()
    guarded.written()
    until(lambda: guarded.rows()[0].last_seconds == 1500.0)


@pytest.mark.parametrize("between", [raised("b"), lowered("b")])
def test_holds_are_not_merged_across_what_changes_the_state(
    guarded: Guarded, stalled: threading.Event, between: Record
) -> None:
    """A hold after a raise is a row of its own, also if both wait for the disk."""
    for record in (raised("r"), a_record("a"), between, a_record("c"), a_record("d")):
        guarded.recorder.submit(record, Policy())
    stalled.set()
    assert [row.key for row in guarded.rows()] == ["r", "a", "b", "c"]


@pytest.mark.parametrize("stall", [True, False])
def test_each_conflict_is_a_row(guarded: Guarded, stalled: threading.Event, *, stall: bool) -> None:
    """Equal lowerings count one by one: the next start counts as many conflicts as this run."""
    records = [raised("r", limit_after=98304), lowered("a"), raised("s", limit_after=98304), lowered("b"), lowered("c")]
    if not stall:
        stalled.set()
    for record in records:
        guarded.recorder.submit(record, Policy())
    stalled.set()
    assert [row.key for row in guarded.rows()] == ["r", "a", "s", "b", "c"]
    with History(guarded.paths.history, mode="reader") as history:
        assert reduce(advance, history.records(BOOT), State()) == reduce(advance, records, State())


def test_waiting_holds_are_bounded_whatever_comes_between(
    guarded: Guarded, stalled: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conflict of hours while the disk stalls takes bounded memory; lost holds are counted."""
    monkeypatch.setattr("conntrackd_guard.recording.recorder.MOST_HOLDS_QUEUED", 5)
    guarded.recorder.submit(raised("r"), Policy())
    for number in range(20):
        guarded.recorder.submit(lowered(f"w{number}"), Policy())
        guarded.recorder.submit(a_record(f"h{number}"), Policy(), at(number))
    report = guarded.recorder.report()
    assert (report["backlog"], report["lost_holds"]) == (6, 35)
    stalled.set()
    assert len(guarded.rows()) == 6
    guarded.recorder.submit(lowered("later"), Policy())
    assert len(guarded.rows()) == 7
