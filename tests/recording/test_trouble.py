"""Errors in the recorder: it outlives them, logs each once, and drops it when the work succeeds."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
from testbed.disks import until
from testbed.guarded import LIMIT, Guarded, Host, Killed, again

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.history import file
from conntrackd_guard.history.database import History, HistoryDamaged, Position
from conntrackd_guard.recording import worker
from conntrackd_guard.recording.samples import TableSampler
from conntrackd_guard.recording.worker import Worker

COUNT, SET_ASIDE = History.count, file.set_aside
FULL = HostError("write to", "history.db", OSError(28, "No space left on device"), "Free space.")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush at every turn of the recorder."""
    monkeypatch.setattr("conntrackd_guard.recording.worker.FLUSH_SECONDS", 0.0)


def failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> threading.Event:
    """Have the owner's function raise the error while the event is set."""
    real, fails = getattr(owner, name), threading.Event()

    def work(*args: Any, **more: Any) -> Any:
        if fails.is_set():
            raise error
        return real(*args, **more)

    monkeypatch.setattr(owner, name, work)
    fails.set()
    return fails


def test_a_damaged_history_that_cannot_be_moved_ends_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a read-only disk it is an error; raises are logged and persisted, and recorded once the disk is writable."""
    guarded = Guarded(host)
    damaged = HistoryDamaged("write to", guarded.paths.history, OSError(None, "malformed"), "It is set aside.")
    faults = [
        failing(monkeypatch, History, "count", damaged),
        failing(monkeypatch, History, "add", damaged),
        failing(monkeypatch, file, "set_aside", FULL),
    ]
    guarded.recorder.note_position(Position(cursor="c"))
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    until(lambda: guarded.logged("guard.raise") and guarded.recorder.report()["trouble"])
    assert host.persisted == host.limit
    for fault in faults:
        fault.clear()
    assert [row.limit_after for row in guarded.rows()] == [host.limit]
    guarded.written()
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_recorder_that_ended_is_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status shows that nothing is recorded any more, and the exit is no success."""
    guarded = Guarded(host)
    guarded.written()
    failing(monkeypatch, History, "add", Killed())  # type: ignore[arg-type] # no Exception: as a bug would end a thread
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    until(lambda: guarded.recorder.report()["trouble"])
    assert "nothing is recorded" in guarded.recorder.report()["trouble"][0]
    assert guarded.recorder.close(1.0) is False


def test_rows_refused_to_the_end_are_no_success(host: Host, refusing: threading.Event) -> None:
    """The exit code shows that rows are missing; the next start recovers them from the intents."""
    guarded = Guarded(host)
    refusing.set()
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    assert guarded.recorder.close(5.0) is False


@pytest.mark.parametrize(("owner", "name"), [(History, "count"), (History, "prune")])
def test_an_error_ends_with_its_cause(host: Host, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """One error is one message; it is over when the work succeeds, and logged again when it comes back."""
    for figure in ("STEADY_SECONDS", "PRUNE_SECONDS"):
        monkeypatch.setattr(f"conntrackd_guard.recording.worker.{figure}", 0.0)
    guarded = Guarded(host)
    fails = failing(monkeypatch, owner, name, FULL)
    for number in (1, 2):
        fails.set()
        guarded.recorder.note_position(Position(cursor=str(number)))
        until(lambda: guarded.recorder.report()["trouble"])
        for _ in range(3):
            guarded.written()
        assert len(guarded.logged("guard.error")) == number
        fails.clear()
        guarded.written()
        guarded.written()
        assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


def test_an_error_of_many_kinds_of_work_is_logged_once(host: Host) -> None:
    """A disk refuses rows, samples and series alike; the status names the error once, until all of them work."""
    guarded = Guarded(host)

    def fail(worker: Worker) -> None:
        for subject in ("one", "other", "one"):
            worker.report_failure(subject, FULL)

    guarded.recorder.call(fail).result(10.0)
    guarded.written()
    assert [line["message"] for line in guarded.logged("guard.error")] == [str(FULL)]
    assert guarded.recorder.report()["trouble"] == [str(FULL)]
    for subject, left in (("one", [str(FULL)]), ("other", [])):
        guarded.recorder.call(partial(Worker.attempt, subject=subject, work=lambda: None)).result(10.0)
        assert guarded.recorder.report()["trouble"] == left
    guarded.stop()


def test_an_unforeseen_error_delays_no_other_record(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs that row alone, is logged, and is over with the next record."""
    guarded = Guarded(host)
    fails = failing(monkeypatch, History, "add", ZeroDivisionError("a bug"))
    for _ in range(2):
        host.table(host.limit)
        guarded.message()
        guarded.turn(3.0)
        guarded.written()
        fails.clear()
    assert [row.limit_after for row in guarded.rows() if row.verdict == "raise"] == [host.limit]
    assert [line["message"] for line in guarded.logged("guard.error")] == ["a bug"]
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


def test_an_unforeseen_error_of_the_sampler_leaves_no_intent_open(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is written by then; the next start would log the raise once more."""
    guarded = Guarded(host)
    failing(monkeypatch, TableSampler, "analyze", RuntimeError("can't start new thread"))
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.written()
    assert [row.limit_after for row in guarded.rows()] == [host.limit]
    assert guarded.intents() == 0
    assert [line["message"] for line in guarded.logged("guard.error")] == ["can't start new thread"]
    guarded.stop()


def test_a_change_is_recorded_although_its_cause_cannot_be_looked_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a row and a log message without a cause; the error is logged once, and over with the next one."""
    guarded = Guarded(host)
    fails = failing(monkeypatch, worker, "attribute_change", RuntimeError("a bug"))
    for limit in (LIMIT // 2, LIMIT // 4):
        host.limit = limit
        guarded.turn(20.0)
        guarded.written()
    assert [(row.from_limit, row.detail) for row in guarded.rows()] == [(LIMIT // 2, ""), (LIMIT // 4, "")]
    assert len(guarded.logged("guard.hold")) == 2
    assert [line["message"] for line in guarded.logged("guard.error")] == ["a bug"]
    fails.clear()
    host.limit = LIMIT
    guarded.turn(20.0)
    guarded.written()
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


def test_old_rows_are_deleted_soon_after_a_start(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a host that restarts its guard every few hours prunes too."""
    guarded = Guarded(host)
    guarded.message()  # a hold: the table holds nothing
    guarded.turn()
    assert len(guarded.rows()) == 1
    guarded.stop()
    monkeypatch.setattr("conntrackd_guard.recording.worker.STEADY_SECONDS", 0.0)
    monkeypatch.setattr(Guarded, "max_rows", 0)
    after = again(guarded)
    after.written()
    assert after.rows() == []
    after.stop()
