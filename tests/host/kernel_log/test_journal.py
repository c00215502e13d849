"""Followers on real journal files."""

from __future__ import annotations

import os
import select
import threading
import time
from pathlib import Path

import pytest
from testbed.journal_files import (
    BOOT,
    DEADLINE_SECONDS,
    MESSAGE,
    REMOTE,
    Start,
    entry,
    numbers,
    read_to_end,
    start,
    take,
    until,
    write,
)

from conntrackd_guard.host.kernel_log import journal as followed
from conntrackd_guard.host.kernel_log.journal import JournalBacklog
from conntrackd_guard.host.kernel_log.journal_reader import Drained, KernelJournal, newest_message

__all__ = ["start"]

pytestmark = pytest.mark.skipif(not os.path.exists(REMOTE), reason="needs the package systemd-journal-remote")


def test_without_a_cursor_only_later_entries_are_taken(tmp_path: Path, start: Start) -> None:
    """The follower begins at the end; its descriptor is readable while events wait."""
    write(tmp_path, "a", entry(1), entry(2))
    follower = start(tmp_path)
    assert follower.take() == []
    write(tmp_path, "a", entry(3))
    assert select.select([follower], [], [], DEADLINE_SECONDS)[0]
    (event,) = take(follower, 1)
    assert (event.message.namespace, event.stamp_us, event.boot_id) == (3, 3, BOOT)
    assert (event.source, event.held_at_start, event.cursor) == ("journal", False, follower.newest_cursor)
    assert not select.select([follower], [], [], 0)[0]


def test_the_first_kernel_message_of_a_journal_is_taken(tmp_path: Path, start: Start) -> None:
    """A journal without any kernel message at the start is followed like others."""
    write(tmp_path, "a", entry(1, _TRANSPORT="syslog"))
    follower = start(tmp_path)
    write(tmp_path, "a", entry(2))
    assert numbers(take(follower, 1)) == [2]


def test_resuming_at_a_cursor_misses_nothing_and_repeats_nothing(tmp_path: Path, start: Start) -> None:
    """Entries from between two runs are taken as held at start; later ones are not."""
    write(tmp_path, "a", entry(1))
    first = start(tmp_path)
    write(tmp_path, "a", entry(2))
    take(first, 1)
    first.stop()
    write(tmp_path, "a", entry(3), entry(4))
    second = start(tmp_path, first.newest_cursor)
    events = take(second, 2)
    assert (numbers(events), [event.held_at_start for event in events]) == ([3, 4], [True, True])
    write(tmp_path, "a", entry(5))
    (event,) = take(second, 1)
    assert (event.message.namespace, event.held_at_start) == (5, False)


def test_the_entry_after_a_vacuumed_cursor_is_taken(tmp_path: Path, start: Start) -> None:
    """If the saved entry is gone, the next one is not skipped."""
    old = write(tmp_path, "old", entry(1))
    cursor = read_to_end(start, tmp_path)
    write(tmp_path, "new", entry(2), entry(3))
    old.unlink()
    assert numbers(take(start(tmp_path, cursor), 2)) == [2, 3]


def test_a_cursor_from_the_future_or_no_cursor_at_all_falls_back_to_the_end(tmp_path: Path, start: Start) -> None:
    """After a clock was set back, later entries are taken, and the state counts the lost cursor."""
    write(tmp_path, "a", entry(1))
    future = f"s={'0' * 31}1;i=ffffff;b={'f' * 32};m=ffffffffff;t=7fffffffffffff;x=1"
    for cursor in (future, "no cursor"):
        follower = start(tmp_path, cursor)
        assert "1 cursors not found" in follower.state
        number = 2 if cursor == future else 3
        write(tmp_path, "a", entry(number))
        assert numbers(take(follower, 1)) == [number]


def test_only_the_kernels_own_messages_are_taken(tmp_path: Path, start: Start) -> None:
    """Other transports and facilities, text around the message, and several lines don't match."""
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    forged = (
        entry(2, _TRANSPORT="syslog"),
        entry(3, SYSLOG_FACILITY="1"),
        entry(4, _TRANSPORT="journal"),
        entry(5, SYSLOG_FACILITY=None),
        entry(6, MESSAGE=MESSAGE.format(6) + " IN=lo"),
        entry(7, MESSAGE=MESSAGE.format(7) + "\n"),
        entry(8, MESSAGE=b"\xff" + MESSAGE.format(8).encode()),
        entry(9, MESSAGE=None, PRIORITY="4"),
    )
    write(tmp_path, "a", *forged, entry(10))
    assert numbers(take(follower, 1)) == [10]


def test_a_message_without_a_timestamp_is_taken(tmp_path: Path, start: Start) -> None:
    """A missing or malformed timestamp is None."""
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    write(tmp_path, "a", entry(2, _SOURCE_MONOTONIC_TIMESTAMP=None), entry(3, _SOURCE_MONOTONIC_TIMESTAMP="x"))
    assert [event.stamp_us for event in take(follower, 2)] == [None, None]


def test_late_entries_with_old_timestamps_count_as_held_at_start(tmp_path: Path, start: Start) -> None:
    """A journald that reads the ring buffer again logs old messages with a new time of receipt."""
    write(tmp_path, "a", entry(50))
    follower = start(tmp_path)
    write(tmp_path, "a", entry(60, _SOURCE_MONOTONIC_TIMESTAMP="49"), entry(61))
    assert [event.held_at_start for event in take(follower, 2)] == [True, False]


def test_the_cursor_moves_on_with_other_kernel_messages(tmp_path: Path, start: Start) -> None:
    """A saved position is near the end even if no table ever fills; the loop is not woken."""
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    before = follower.newest_cursor
    write(tmp_path, "a", entry(2, MESSAGE="IN=eth0 OUT= SRC=192.0.2.1"))

    def moved() -> bool:
        assert not select.select([follower], [], [], 0)[0]
        assert follower.take() == []
        return follower.newest_cursor not in {before, None}

    until(moved, "a newer cursor")
    follower.stop()
    write(tmp_path, "a", entry(3))
    assert numbers(take(start(tmp_path, follower.newest_cursor), 1)) == [3]


def test_a_cursor_never_passes_events_that_were_not_taken(tmp_path: Path, start: Start) -> None:
    """After a kill with events still waiting, the next run takes them."""
    write(tmp_path, "a", entry(1))
    first = start(tmp_path)
    saved = first.take() or first.newest_cursor
    write(tmp_path, "a", entry(2), entry(3, MESSAGE="other"))
    assert select.select([first], [], [], DEADLINE_SECONDS)[0]
    time.sleep(0.05)
    assert first.newest_cursor == saved
    first.stop()
    assert numbers(take(start(tmp_path, first.newest_cursor), 1)) == [2]


def test_an_unforeseen_error_is_the_state_until_reading_works_again(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower goes on without memory, say, and takes what came meanwhile."""
    monkeypatch.setattr(followed, "RETRY_SECONDS", 0.05)
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    drain = KernelJournal.drain
    failures: list[int] = []

    def failing(self: KernelJournal, most: int, *, this_one_first: bool = False) -> Drained:
        if len(failures) == 3:
            return drain(self, most, this_one_first=this_one_first)
        failures or write(tmp_path, "a", entry(2))
        failures.append(1)
        raise MemoryError

    monkeypatch.setattr(KernelJournal, "drain", failing)
    until(lambda: follower.state.startswith("not readable, to be opened again: MemoryError"), "the reason")
    until(lambda: follower.state == "following (3 reopened after an error)", "following")
    assert numbers(take(follower, 1)) == [2]


def test_retries_are_spaced_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause doubles with each failure in a row, to 8 s."""

    def failing(_: Path | None) -> KernelJournal:
        raise MemoryError

    monkeypatch.setattr(followed, "KernelJournal", failing)
    backlog = JournalBacklog(tmp_path)
    assert [backlog.read_once() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_thread_that_has_ended_is_replaced(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on where it stood; a thread that runs stays, and none is started after the end."""
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    ended = follower._thread
    assert ended is not None
    with monkeypatch.context() as patched:
        patched.setattr(threading, "excepthook", lambda _: None)
        patched.setattr(follower, "read", lambda: 1 / 0)
        until(lambda: not ended.is_alive(), "an end")
    write(tmp_path, "a", entry(2))
    follower.keep_running()
    running = follower._thread
    assert running is not None
    follower.keep_running()
    assert follower._thread is running
    assert numbers(take(follower, 1)) == [2]
    follower.stop()
    follower.keep_running()
    assert follower._thread is running
    assert not running.is_alive()


def test_a_first_opening_that_fails_halfway_reads_no_old_entries(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next opening begins at the end, too: only a journal that was empty is new as a whole."""
    monkeypatch.setattr(followed, "RETRY_SECONDS", 0.01)
    write(tmp_path, "a", entry(1))
    place_at_end = KernelJournal.place_at_end
    failures: list[int] = []

    def failing(self: KernelJournal) -> None:
        if not failures:
            failures.append(1)
            raise OSError(None, "bad message")
        place_at_end(self)

    monkeypatch.setattr(KernelJournal, "place_at_end", failing)
    follower = start(tmp_path)
    assert failures
    assert follower.take() == []
    write(tmp_path, "a", entry(2))
    assert numbers(take(follower, 1)) == [2]


def test_the_newest_kernel_message_is_returned_with_its_boot(tmp_path: Path) -> None:
    """Messages of processes don't count; a folder without a journal has none."""
    assert newest_message(tmp_path) == (False, "", None)
    write(tmp_path, "a", entry(5), entry(7), entry(9, _TRANSPORT="syslog"))
    assert newest_message(tmp_path) == (True, BOOT, 7)
