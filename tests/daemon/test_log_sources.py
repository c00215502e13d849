"""Ring buffer and journal joined: the recorder's thread reads the journal beside a ring buffer."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from testbed.disks import until
from testbed.guarded import Guarded, Host
from testbed.journal_files import BOOT, MESSAGE, REMOTE, entry, write

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.kernel_messages import KernelEvent
from conntrackd_guard.core.model import State
from conntrackd_guard.daemon import log_sources as joined
from conntrackd_guard.daemon.log_sources import LogSources
from conntrackd_guard.history.database import Position
from conntrackd_guard.host.kernel_log.journal import JournalBacklog, JournalFollower
from conntrackd_guard.host.kernel_log.kmsg import RingBuffer
from conntrackd_guard.recording.items import Past

pytestmark = pytest.mark.skipif(not os.path.exists(REMOTE), reason="needs the package systemd-journal-remote")


class Ring(RingBuffer):
    """A ring buffer with records to be read one after the other."""

    def __init__(self) -> None:
        super().__init__(os.eventfd(0), "fake")
        self._boot_id = BOOT
        self.records: list[bytes] = []
        self.is_broken = False

    def log(self, *numbers: int) -> None:
        """Have the kernel log messages that name these namespaces, stamped with the same numbers."""
        self.records += [f"4,1,{number},-;{MESSAGE.format(number)}\n".encode() for number in numbers]

    def _records(self, most: int) -> Iterator[bytes]:
        if self.is_broken:
            raise HostError("read", "fake", OSError(errno.EIO, "I/O error"), "Restart the guard.")
        self.is_drained = len(self.records) < most
        for _ in range(min(most, len(self.records))):
            yield self.records.pop(0)


@pytest.fixture
def ring() -> Ring:
    """Give an empty ring buffer."""
    return Ring()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of the journal that is read, with one old entry in it."""
    made = tmp_path / "journal"
    made.mkdir()
    monkeypatch.setattr(joined, "JournalBacklog", lambda _: JournalBacklog(made))
    monkeypatch.setattr(joined, "JournalFollower", lambda _: JournalFollower(made))
    write(made, "a", entry(1))
    return made


@pytest.fixture
def guarded(host: Host) -> Guarded:
    """Give a guard, for its recorder."""
    return Guarded(host)


def known(position: Position | None = None) -> Future[Past]:
    """Return a past that the history has returned."""
    future: Future[Past] = Future()
    future.set_result(Past(state=State(), position=position, persisted=None))
    return future


def numbers(taken: list[tuple[KernelEvent, bool]]) -> list[tuple[int | None, bool]]:
    """Return the namespaces that the messages name, each with whether the message is new."""
    return [(event.message.namespace, is_new) for event, is_new in taken]


def take(sources: LogSources, count: int) -> list[tuple[int | None, bool]]:
    """Take messages until there are `count`."""
    taken: list[tuple[KernelEvent, bool]] = []

    def enough() -> bool:
        taken.extend(sources.take())
        sources.position()  # as the loop does each turn
        return len(taken) >= count

    until(enough)
    return numbers(taken)


@pytest.mark.usefixtures("folder")
def test_a_newer_message_leaves_none_from_before_the_start_behind(ring: Ring, guarded: Guarded) -> None:
    """Those wait for the history. Until they are taken, which no descriptor calls for, no position passes them."""
    past: Future[Past] = Future()
    ring.log(2)
    sources = LogSources(ring, guarded.recorder, past, BOOT)
    assert not sources.is_behind()
    ring.log(3)
    past.set_result(known().result())
    assert numbers(sources.take()) == [(3, True)]
    assert sources.is_behind()
    assert sources.position() is None
    assert (2, False) in numbers(sources.take())
    assert not sources.is_behind()
    position = sources.position()
    assert position is not None
    assert position.stamp_us == 3


def test_messages_logged_while_no_guard_ran_are_taken_once(folder: Path, ring: Ring, guarded: Guarded) -> None:
    """The journal holds what the ring buffer no longer does; what both hold comes once, as historical."""
    first = LogSources(ring, guarded.recorder, known(), BOOT)
    before = first.position()
    write(folder, "a", entry(2), entry(3))
    ring.log(3)
    second = LogSources(ring, guarded.recorder, known(before), BOOT)
    assert sorted(take(second, 2)) == [(2, False), (3, False)]
    ring.log(4)
    write(folder, "a", entry(4))
    assert take(second, 1) == [(4, True)]
    second._read_at = 0.0  # a minute later
    until(lambda: numbers(second.take()) == [] and second.position() != before)
    after = second.position()
    assert before is not None
    assert after is not None
    assert after.cursor not in {before.cursor, None}
    guarded.stop()


def test_an_overrun_has_the_journal_read_at_once(folder: Path, ring: Ring, guarded: Guarded) -> None:
    """Lost messages are taken from the journal and are new; so are those that journald wrote a little later."""
    sources = LogSources(ring, guarded.recorder, known(), BOOT)
    write(folder, "a", entry(2))
    assert numbers(sources.take()) == []
    ring.overruns += 1
    ring.log(4)
    assert sorted(take(sources, 2)) == [(2, True), (4, True)]
    write(folder, "a", entry(3))
    assert take(sources, 1) == [(3, True)]
    assert sources.report()["ring_buffer_overruns"] == 1
    guarded.stop()


def test_the_journal_never_runs_ahead_of_the_ring_buffer(folder: Path, ring: Ring, guarded: Guarded) -> None:
    """Behind 1,000 records of others waits a message that the journal has already: it is new once, and comes once."""
    sources = LogSources(ring, guarded.recorder, known(), BOOT)
    guarded.written()
    assert numbers(sources.take()) == []
    ring.records = [b"4,1,6,-;IN=eth0 OUT= SRC=192.0.2.7\n"] * 1000
    ring.log(7)
    write(folder, "a", entry(7))
    sources._read_journal(at_once=True)
    guarded.written()
    assert sources.take() == []
    assert numbers(sources.take()) == [(7, True)]
    assert sources.take() == []
    until(lambda: sources.take() == [] and sources.position() is not None)
    guarded.stop()


def test_no_thread_but_the_recorders_reads_the_journal(folder: Path, ring: Ring, guarded: Guarded) -> None:
    """Beside a ring buffer there is no follower, and the journal is closed between readings."""
    assert folder.exists()
    sources = LogSources(ring, guarded.recorder, known(), BOOT)
    assert "journal" not in {thread.name for thread in threading.enumerate()}
    assert not [name for name in _open_files() if name.endswith(".journal")]
    assert sources.report()["journal"] == "read once a minute"
    guarded.stop()


def test_a_ring_buffer_that_fails_is_replaced_by_the_follower(folder: Path, ring: Ring, guarded: Guarded) -> None:
    """The follower goes on after what was taken, and the report has the reason."""
    sources = LogSources(ring, guarded.recorder, known(), BOOT)
    ring.is_broken = True
    assert sources.take() == []
    write(folder, "a", entry(5))
    assert take(sources, 1) == [(5, True)]
    report = sources.report()
    assert (report["ring_buffer"], report["journal"]) == ("absent", "following")
    assert "fake" in report["notes"][0]
    sources.close()
    guarded.stop()


@pytest.mark.usefixtures("folder")
def test_a_reading_that_fails_is_done_again(ring: Ring, guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The position is known all the same, and the recorder logs the error once."""
    sources = LogSources(ring, guarded.recorder, known(), BOOT)
    guarded.written()
    readings: list[int] = []

    def read_once() -> float:
        readings.append(1)
        if len(readings) == 1:
            raise MemoryError
        return 60.0

    monkeypatch.setattr(sources._journal, "read_once", read_once)
    sources.position()
    sources._read_at = 0.0  # a minute later
    assert sources.position() is not None
    guarded.written()
    assert sources.position() is not None
    assert sources.position() is not None
    assert len(readings) == 1
    assert [message["message"] for message in guarded.logged("guard.error")] == ["MemoryError"]
    sources._read_at = 0.0  # and one more
    assert sources.position() is not None
    guarded.written()
    assert len(readings) == 2
    guarded.stop()


def test_a_past_that_fails_counts_as_no_position(folder: Path, ring: Ring, guarded: Guarded) -> None:
    """Messages are taken, and a position is known again, without the one of an earlier run."""
    past: Future[Past] = Future()
    ring.log(2)
    sources = LogSources(ring, guarded.recorder, past, BOOT)
    past.set_exception(MemoryError())
    ring.log(3)
    write(folder, "a", entry(2), entry(3))
    assert numbers(sources.take()) == [(3, True)]
    assert numbers(sources.take()) == [(2, False)]
    position = sources.position()
    assert position is not None
    assert position.stamp_us == 3
    guarded.stop()


def test_a_reading_that_waits_is_not_the_followers(folder: Path, ring: Ring, guarded: Guarded) -> None:
    """While the recorder is held up, the ring buffer fails: only the follower's own thread reads its journal."""
    go_on, readers = threading.Event(), set[str]()
    sources = LogSources(ring, guarded.recorder, known(), BOOT)
    guarded.written()
    guarded.recorder.call(lambda _: go_on.wait(10.0))
    sources._read_journal(at_once=True)
    ring.is_broken = True
    sources.take()
    follower = sources._journal
    follower.close = lambda: readers.add(threading.current_thread().name)  # type: ignore[method-assign]
    go_on.set()
    guarded.written()
    assert "recorder" not in readers
    write(folder, "a", entry(5))
    assert take(sources, 1) == [(5, True)]
    sources.close()
    guarded.stop()


def test_a_follower_that_no_thread_can_be_had_for_is_started_later(
    folder: Path, ring: Ring, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the status has the reason, and afterwards nothing is missing."""
    ring.log(2)
    sources = LogSources(ring, guarded.recorder, known(), BOOT)
    guarded.written()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "journal":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert numbers(sources.take()) == [(2, False)]
    ring.is_broken = True
    assert sources.take() == []
    assert sources.position() is not None
    assert sources.report()["journal"] == "not readable, to be tried again: can't start new thread"
    write(folder, "a", entry(5))
    monkeypatch.setattr(threading.Thread, "start", start)
    assert take(sources, 1) == [(5, True)]
    assert sources.report()["journal"] == "following"
    sources.close()
    sources.position()  # as the shutdown does
    assert sources.report()["journal"] == "stopped"
    guarded.stop()


def test_a_ring_buffer_stays_until_there_is_a_follower(
    folder: Path, ring: Ring, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors, none can be made; the next turn tries again."""
    sources = LogSources(ring, guarded.recorder, known(), BOOT)
    guarded.written()
    ring.is_broken = True

    def refuse(_: object) -> JournalFollower:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(joined, "JournalFollower", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="Too many open files"):
                sources.take()
    assert sources.take() == []
    write(folder, "a", entry(5))
    assert take(sources, 1) == [(5, True)]
    sources.close()
    guarded.stop()


def _open_files() -> list[str]:
    paths = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [os.readlink(path) for path in paths if os.path.lexists(path)]
