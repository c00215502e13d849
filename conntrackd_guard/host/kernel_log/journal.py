"""Follows the journal in a thread of its own: its files are memory-mapped from a disk that may stall.

The loop gets events through a queue and an eventfd, and never waits for the thread. Every failure is
counted, waited out within bounds, and followed by opening the journal again at the last cursor.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from conntrackd_guard.core.model import KernelEvent
from conntrackd_guard.host.kernel_log.journal_reader import READ_ERRORS, Drained, KernelJournal

MOST_A_TURN = 1000
"""Entries read before the thread looks up again."""
MOST_QUEUED = 1000
"""Events waiting for the loop; with more the thread reads on later: the journal keeps them."""
MOST_AN_OPENING = 20_000
"""Entries read before the journal is opened again: what was read stays mapped, and is resident memory, until it is closed."""
FLOOD_LINES = 100
"""Kernel lines a second from which the thread rests between reads: a gateway's firewall log is thousands a second."""
REST_SECONDS = 0.002
LOOK_SECONDS = 2.0
"""The longest wait: where no inotify watches are left, the descriptor is silent without an error."""
DEAF_LOOK_SECONDS = 0.25
DEAF_REOPEN_SECONDS = 5.0
"""Without any inotify instance a rotation is only seen by opening again."""
QUIET_REOPEN_SECONDS = 60.0
"""A journal folder that appeared after opening is only seen by opening again."""
REST_BETWEEN_LOOKS_SECONDS = 60.0
"""An open journal costs 0.25 MiB of resident memory for each of its files: beside another source it is closed meanwhile."""
CLOSE_LOOK_SECONDS = 30.0
"""How long the journal is followed without a rest once the other source has lost lines: journald itself may be behind."""
RETRY_SECONDS = (0.1, 5.0)
"""Pause after a failure: the first, and the longest it doubles to."""
ABSENT_SECONDS = 3.0
"""Pause while there is no journal, and once more when it appears: a new journald begins with the ring buffer's past."""
FAILURES_BEFORE_SKIPPING = 4
"""So often the same place may fail before the rest of it is given up for the end of the journal."""
STOP_SECONDS = 1.0
"""How long `stop` waits; a thread held up by a disk ends with the process."""


class JournalFollower:
    """`start`, then `take` whenever `fileno()` is readable. No method raises or waits for a disk.

    `directory` reads journal files from there instead of the system's journal.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._stopping = False
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._queue: deque[tuple[int, KernelEvent]] = deque()
        self._read_to: tuple[int, str | None] = (0, None)
        """Events handed over when the cursor was reached, and that cursor."""
        self._handed = 0
        self._poll_seconds: float | None = None
        self._resting = False
        self._closely_until = 0.0
        self._condition = "starting"
        self._cursor: str | None = None
        self._opened_before = False
        self._caught_up = threading.Event()
        self._held: tuple[str, int | None] | None = None
        """Boot id and newest stamp that the journal held at start; None until its end was reached once."""
        self._failures = 0
        self._second, self._lines, self._flooded = 0, 0, False
        self.newest_cursor: str | None = None
        """Where to resume so that nothing is missed: after the newest entry that `take` returned or passed over."""
        self.reopens = self.skipped = self.lost_places = 0

    @property
    def state(self) -> str:
        """What the follower does at the moment, for people."""
        counts = (
            (self.reopens, "reopened after an error"),
            (self.skipped, "unreadable entries skipped"),
            (self.lost_places, "cursors not found"),
        )
        faults = ", ".join(f"{count} {what}" for count, what in counts if count)
        return f"{self._condition} ({faults})" if faults else self._condition

    @property
    def poll_seconds(self) -> float | None:
        """The interval of unprompted reads; None waits for the wake-up from journald, which is 250–500 ms late."""
        return self._poll_seconds

    @poll_seconds.setter
    def poll_seconds(self, seconds: float | None) -> None:
        if seconds != self._poll_seconds:
            self._poll_seconds = seconds
            os.eventfd_write(self._wake, 1)

    def rest_between_looks(self) -> None:
        """Read once a minute only, with the journal closed in between: another source has each message at once."""
        self._resting = True

    def look_closely(self, seconds: float = CLOSE_LOOK_SECONDS) -> None:
        """Look now, and follow without a rest for a while: the other source has lost lines."""
        self._closely_until = time.monotonic() + seconds
        os.eventfd_write(self._wake, 1)

    def start(self, cursor: str | None) -> None:
        """Begin after `cursor`, or with the entries to come where there is none."""
        self._cursor = self.newest_cursor = cursor
        self._read_to = (0, cursor)
        self._thread.start()

    def await_end(self, seconds: float) -> None:
        """Wait until what the journal held at start is read, or there is none: what comes then is live."""
        self._caught_up.wait(seconds)

    def stop(self) -> None:
        """End the thread, within STOP_SECONDS."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)
        self._condition = "stopped"

    def fileno(self) -> int:
        """Return the descriptor that is readable while events wait."""
        return self._news

    def take(self) -> list[KernelEvent]:
        """Return the events that wait, oldest first."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._news)
        handed, cursor = self._read_to  # before the queue: its events are handed over first
        events = []
        last = 0
        while self._queue:
            last, event = self._queue.popleft()
            events.append(event)
        self.newest_cursor = (events[-1].cursor if last > handed else cursor) or self.newest_cursor
        return events

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        pause = RETRY_SECONDS[0]
        was_absent = False
        while not self._stopping:
            try:
                with KernelJournal(self._directory) as journal:
                    exists = journal.exists()
                    rests = exists and not was_absent and self._follow(journal)
                if not exists or was_absent:
                    was_absent = not exists
                    self._wait_for_journal()
                elif rests:
                    self._sleep(REST_BETWEEN_LOOKS_SECONDS, until=lambda: not self._may_rest())
            except FileNotFoundError:
                was_absent = True
                self._wait_for_journal()
            except READ_ERRORS as error:
                self._condition = f"waiting: reading the journal failed ({_short(error)}); it is opened again"
                self.reopens += 1
                self._failures += 1
                pause = RETRY_SECONDS[0] if self._failures == 1 else min(pause * 2, RETRY_SECONDS[1])
                self._sleep(pause)

    def _wait_for_journal(self) -> None:
        self._condition = "waiting: this host has no journal"
        self._caught_up.set()
        self._sleep(ABSENT_SECONDS)

    def _follow(self, journal: KernelJournal) -> bool:
        """Read until stopped, or until the journal must be reopened. Return whether to rest before that."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if journal.descriptor is not None:
            poller.register(journal.descriptor, journal.events_mask())
        unread = self._place(journal)
        quiet_since = time.monotonic()
        entries = 0
        while not self._stopping and entries < MOST_AN_OPENING:
            drained = journal.drain(MOST_A_TURN, this_one_first=unread)
            unread = False
            now = time.monotonic()
            self._hand_over(drained)
            entries += drained.entries
            if drained.entries:
                self._failures = 0
                quiet_since = now if journal.descriptor is not None else quiet_since
            if drained.ended:
                self._reached_the_end(journal)
                if self._may_rest():
                    return True
                deaf = journal.descriptor is None
                if now - quiet_since >= (DEAF_REOPEN_SECONDS if deaf else QUIET_REOPEN_SECONDS):
                    break
                if self._is_flooded(drained.entries, now):
                    time.sleep(REST_SECONDS)
                poller.poll(self._wait_seconds(journal) * 1000)
                self._clear_wake()
            journal.process()
        return False

    def _place(self, journal: KernelJournal) -> bool:
        """Stand where reading goes on; return whether the entry stood on is still to be read."""
        if self._failures >= FAILURES_BEFORE_SKIPPING:
            self._cursor, self._opened_before, self._failures = None, False, 0
            self.lost_places += 1
        if self._cursor is not None:
            try:
                unread = journal.place_after(self._cursor)
            except ValueError:
                unread = None
            if unread is not None:
                self._opened_before = True
                return unread
        if self._cursor is None and self._opened_before:
            journal.place_at_start()  # nothing was there at the first opening: all of it is new
        else:
            journal.place_at_end()
            lost, self._cursor = self._cursor, journal.cursor()
            self.lost_places += lost is not None and self._cursor is not None
            self._read_to = (self._handed, self._cursor)
        self._opened_before = True
        return False

    def _hand_over(self, drained: Drained) -> None:
        """Queue what was read; wake the loop for events only."""
        self.skipped += drained.skipped
        for event in drained.events:
            self._handed += 1
            self._queue.append((self._handed, replace(event, held_at_start=self._was_held(event))))
        if drained.cursor is not None:
            self._cursor = drained.cursor
            self._read_to = (self._handed, drained.cursor)
        if drained.events:
            os.eventfd_write(self._news, 1)
        while len(self._queue) >= MOST_QUEUED and not self._stopping:
            self._sleep(DEAF_LOOK_SECONDS)

    def _was_held(self, event: KernelEvent) -> bool:
        """Return whether the message is from before the start, by the kernel's stamp: journald may reread the ring buffer."""
        if self._held is None:
            return True
        boot_id, newest = self._held
        return event.boot_id == boot_id and newest is not None and (event.stamp_us or 0) <= newest

    def _reached_the_end(self, journal: KernelJournal) -> None:
        if self._held is None:
            self._held = journal.here()
            self._caught_up.set()
        if self._may_rest():
            self._condition = "looked at once a minute"
        else:
            self._condition = "following" if journal.descriptor is not None else "following without inotify"

    def _wait_seconds(self, journal: KernelJournal) -> float:
        wishes = (
            LOOK_SECONDS if journal.descriptor is not None else DEAF_LOOK_SECONDS,
            journal.timeout_seconds(),
            self._poll_seconds,
        )
        return min(wish for wish in wishes if wish is not None)

    def _is_flooded(self, entries: int, now: float) -> bool:
        if int(now) != self._second:
            self._flooded = self._lines > FLOOD_LINES and int(now) == self._second + 1
            self._second, self._lines = int(now), 0
        self._lines += entries
        return self._flooded or self._lines > FLOOD_LINES

    def _may_rest(self) -> bool:
        return self._resting and time.monotonic() >= self._closely_until

    def _sleep(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Wait, but not for longer than until `stop`, or until `until` holds when woken."""
        deadline = time.monotonic() + seconds
        while not self._stopping and not until() and (left := deadline - time.monotonic()) > 0:
            select.select([self._wake], [], [], left)
            self._clear_wake()

    def _clear_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
