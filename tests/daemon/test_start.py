"""A start on a disk that stalls or refuses: no decision is lost, and an interrupted write is recognized by all its traces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from testbed.disks import until
from testbed.guarded import LIMIT, Guarded, Host, Killed, again

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.kernel_messages import KernelEvent, KernelMessage
from conntrackd_guard.core.model import MessageKind
from conntrackd_guard.daemon import recovery
from conntrackd_guard.daemon.log_sources import LogSources
from conntrackd_guard.history.database import History, Position
from conntrackd_guard.host.kernel_log.journal import JournalFollower
from conntrackd_guard.host.kernel_log.kmsg import RingBuffer

STEP = 98_304
STORED = Position(cursor="stored", boot_id="boot-1", stamp_us=5)


class FakeJournal(JournalFollower):
    """A journal that only notes where reading starts."""

    begun: ClassVar[list[str | None]]

    def begin(self, cursor: str | None) -> None:
        """Note the cursor."""
        self.begun.append(cursor)
        self._taken_to = cursor

    def keep_running(self) -> None:
        """Need no thread."""

    def await_end(self, seconds: float) -> None:
        """Stand at the end already."""

    def read(self) -> float:
        """Read nothing."""
        return 60.0


class FakeRing(RingBuffer):
    """A ring buffer with messages of these stamps at start, then those of `later`."""

    def __init__(self, *held: int) -> None:
        self.held, self.later, self.overruns, self.is_drained = held, list[int](), 0, True

    def catch_up(self) -> tuple[list[KernelEvent], int | None]:
        """Return what it holds."""
        return [_event(stamp) for stamp in self.held], max(self.held)

    def read(self, most: int = 0) -> list[KernelEvent]:  # noqa: ARG002
        """Return what came since."""
        later, self.later = self.later, []
        return [_event(stamp) for stamp in later]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Give the list of cursors at which the journal was begun."""
    cursors: list[str | None] = []
    monkeypatch.setattr(FakeJournal, "begun", cursors, raising=False)
    monkeypatch.setattr("conntrackd_guard.daemon.log_sources.JournalFollower", FakeJournal)
    monkeypatch.setattr("conntrackd_guard.daemon.log_sources.JournalBacklog", FakeJournal)
    return cursors


def _event(stamp: int) -> KernelEvent:
    message = KernelMessage(kind=MessageKind.TABLE_FULL, namespace=None, text="full")
    return KernelEvent(message=message, stamp_us=stamp, boot_id="boot-1", source="ring buffer")


def stamps(log_sources: LogSources) -> list[tuple[int | None, bool]]:
    """Take the messages, as stamp and whether it is new."""
    return [(event.stamp_us, is_new) for event, is_new in log_sources.take()]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what is held back at every turn of the recorder."""
    monkeypatch.setattr("conntrackd_guard.recording.worker.FLUSH_SECONDS", 0.0)


@pytest.fixture
def before(host: Host) -> Guarded:
    """Give a guard that ran, took messages in up to a position, and ended."""
    guarded = Guarded(host)
    guarded.recorder.note_position(STORED)
    guarded.stop()
    return guarded


@pytest.fixture(params=["stalls", "refuses"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Give a disk on which the history can't be opened until the event is set."""
    works, init = threading.Event(), History.__init__

    def opened(self: History, *args: Any, **more: Any) -> None:
        if request.param == "refuses" and not works.is_set():
            raise HostError("open the history", "history.db", OSError(28, "No space left on device"), "Free space.")
        assert works.wait(10.0)
        init(self, *args, **more)

    monkeypatch.setattr(recovery, "HISTORY_SECONDS", 0.05)
    monkeypatch.setattr(History, "__init__", opened)
    yield works
    works.set()


def test_the_journal_goes_on_where_it_was_left(before: Guarded, begun: list[str | None]) -> None:
    """On a sound disk the position is known before the first message is taken."""
    guarded = again(before)
    log_sources = LogSources(None, guarded.recorder, guarded.recovered.past, "boot-1")
    assert begun == ["stored"]
    assert log_sources.position() == STORED
    guarded.stop()


def test_the_position_outlives_a_disk_that_does_not_answer(
    before: Guarded, disk: threading.Event, begun: list[str | None]
) -> None:
    """The guard starts and reads new messages; the journal begins, at the old cursor, once that can be read."""
    guarded, ring = again(before), FakeRing(3, 7)
    log_sources = LogSources(ring, guarded.recorder, guarded.recovered.past, "boot-1")
    guarded.recorder.note_position(log_sources.position())
    assert begun == []
    ring.later = [9]
    assert stamps(log_sources) == [(9, True)]
    disk.set()
    until(lambda: log_sources.position() is not None or begun)
    assert begun == ["stored"]
    assert log_sources.position() is None  # so that the message of stamp 9 is not counted ahead of that of stamp 7
    guarded.written()
    guarded.written()
    with History(guarded.paths.history, mode="reader") as history:
        assert history.position() == STORED
    assert stamps(log_sources) == [(7, False)]  # the run before took the message of stamp 3
    assert log_sources.position() == Position(cursor="stored", boot_id="boot-1", stamp_us=9)
    guarded.stop()


def test_a_row_that_cannot_be_understood_costs_the_pace_alone(
    before: Guarded, begun: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is lost, which is logged; the journal goes on where it was left."""

    def broken(self: History, _: str) -> Iterator[Any]:
        raise HostError("understand decision 1 of", self.path, None, "Use a newer guard.")

    monkeypatch.setattr(History, "records", broken)
    guarded = again(before)
    LogSources(None, guarded.recorder, guarded.recovered.past, "boot-1")
    assert len(guarded.recovered.state.raise_seconds) == 10
    assert begun == ["stored"]
    guarded.stop()


def test_a_new_history_begins_at_the_end_of_the_journal(host: Host, begun: list[str | None]) -> None:
    """There is nothing to go on from, and that is known at once."""
    guarded = Guarded(host)
    log_sources = LogSources(None, guarded.recorder, guarded.recovered.past, "boot-1")
    assert begun == [None]
    assert log_sources.position() == Position(boot_id="boot-1")
    guarded.stop()


def test_a_write_that_another_writer_undid_did_happen(host: Host, refusing: threading.Event) -> None:
    """The limit is back where it was, but the drop-in names this very raise: it was applied."""
    guarded = Guarded(host)
    refusing.set()
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    until(lambda: host.persisted == STEP)
    guarded.recorder.close(5.0)
    refusing.clear()
    host.limit = LIMIT
    after = again(guarded)
    (row,) = after.rows()
    assert (row.outcome, row.limit_after) == ("applied", STEP)
    assert "in the drop-in" in row.detail
    after.stop()


def test_an_older_drop_in_of_the_same_limit_proves_nothing(host: Host) -> None:
    """The same step was made and undone before; this write never happened."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.table(10)
    host.limit = LIMIT
    guarded.turn(20.0)
    host.table(LIMIT)
    guarded.message()
    guarded.intents_folder.meanwhile = [die]
    with pytest.raises(Killed):
        guarded.turn()
    guarded.stop()
    assert host.persisted == STEP
    after = again(guarded)
    assert after.reasons()[-1].endswith("not_applied")
    after.stop()


def die() -> None:
    """End the process, as kill -9 does."""
    raise Killed
