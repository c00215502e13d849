"""Read the kernel's messages from the journal: now and then (`JournalBacklog`), or all the time (`JournalFollower`).

The files are memory-mapped from a disk that may stall, so they are read on a thread other than the main loop's. That
one takes the events from a queue, woken by an eventfd.
"""

import contextlib
import os
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

from conntrackd_guard.core.kernel_messages import KernelEvent
from conntrackd_guard.host.kernel_log.journal_reader import KernelJournal, files_below

NONE_HERE = "not found on this host"
NONE_READABLE = "not readable"
MOST_A_TURN = 1000
"""Entries read between two checks of the bounds below."""
MOST_QUEUED = 1000
"""Events waiting for the main loop. Reading stops there: the journal keeps the rest."""
MOST_AN_OPENING = 20_000
"""Entries read before the journal is closed. What was read stays mapped, as resident memory, until then."""
POLL_SECONDS = 0.2
"""The follower's pause. An entry is readable at once; journald wakes its readers 250–500 ms later (systemd 252, 257)."""
BACKLOG_SECONDS = 60.0
"""A backlog's pause, with the journal closed: open, it costs 0.25 MiB of resident memory for each of its files."""
REOPEN_SECONDS = 60.0
"""A journal folder that appeared after opening is found by opening again."""
REOPEN_WITHOUT_INOTIFY_SECONDS = 5.0
"""Without an inotify instance, so is a rotation."""
RETRY_SECONDS = 1.0
"""Pause after a failure; it doubles with each further one, up to the number below."""
FAILURES_BEFORE_SKIPPING = 4
"""Failures at one place after which reading goes on at the end of the journal."""
ABSENT_SECONDS = 3.0
"""Pause while there is no journal, and once more when it appears: a new journald begins with the ring buffer's past."""
STOP_SECONDS = 1.0
"""How long `stop` waits. A thread that a disk holds up ends with the process."""


class JournalBacklog:
    """The kernel's messages after a cursor. One thread calls `begin` and `take`, another `read`; none raises.

    `root` is where the host's files are mounted, None for this system's journal.
    """

    pause_seconds = BACKLOG_SECONDS
    at_end = "read once a minute"
    """The state once everything is read."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._refused: tuple[str, ...] = ()
        """Files that this libsystemd can't read, as the last opening found them."""
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._queue: deque[KernelEvent | str] = deque()
        """Events, and the cursors that were reached behind them."""
        self._journal: KernelJournal | None = None
        self._reopen_at = 0.0
        self._entries = 0
        """Read since the journal was opened."""
        self._condition = "starting"
        self._cursor: str | None = None
        self._opened_before = self._was_absent = False
        self._held: tuple[str, int | None] | None = None
        """Boot id and newest stamp that the journal held at start; None until its end was reached once."""
        self._caught_up = threading.Event()
        self._failures = 0
        self._taken_to: str | None = None
        self.reopens = self.skipped = self.lost_places = 0

    @property
    def state(self) -> str:
        """What is done with the journal at the moment, for people."""
        counts = (
            (self.reopens, "reopened after an error"),
            (self.skipped, "unreadable entries skipped"),
            (self.lost_places, "cursors not found"),
            (len(self._refused), f"files that this libsystemd can't read, such as {(*self._refused, '')[0]}"),
        )
        text = ", ".join(f"{count} {what}" for count, what in counts if count)
        return f"{self._condition} ({text})" if text else self._condition

    @property
    def newest_cursor(self) -> str | None:
        """Where to resume so that nothing is missed: the cursor in front of the oldest event that waits."""
        while self._queue and isinstance(self._queue[0], str):
            self._taken_to = str(self._queue.popleft())
        return self._taken_to

    def begin(self, cursor: str | None) -> None:
        """Set where the first reading starts: after `cursor`, or with the entries to come if it is None."""
        self._cursor = self._taken_to = cursor

    def await_end(self, seconds: float) -> None:
        """Wait until what the journal held at start is read, or there is none: later entries are new."""
        self._caught_up.wait(seconds)

    def fileno(self) -> int:
        """Return the descriptor that is readable while events wait."""
        return self._news

    def take(self) -> list[KernelEvent]:
        """Return the events that wait, oldest first."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._news)
        events = []
        while self._queue:
            entry = self._queue.popleft()
            if isinstance(entry, KernelEvent):
                events.append(entry)
            self._taken_to = (entry.cursor if isinstance(entry, KernelEvent) else entry) or self._taken_to
        return events

    def keep_running(self) -> None:
        """Start the reading thread again if it has ended. A backlog has none of its own."""

    def stop(self) -> None:
        """End the reading."""
        self._condition = "stopped"

    # -- the reading thread ----------------------------------------------------------------------

    def read_once(self) -> float:
        """Read what has come, close the journal, and return the seconds until the next reading is due."""
        try:
            return self.read()
        finally:
            self.close()

    def read(self) -> float:
        """Read what has come, within the bounds above, and return the seconds until the next reading is due."""
        if len(self._queue) >= MOST_QUEUED:
            return POLL_SECONDS
        try:
            if self._entries >= MOST_AN_OPENING or time.monotonic() >= self._reopen_at:
                self.close()
            if self._journal is None:
                return self._open()
            self._journal.process()
            return self._drain(self._journal, unread=False)
        except FileNotFoundError:
            self.close()
            self._condition, self._was_absent = NONE_READABLE if self._refused else NONE_HERE, True
            self._caught_up.set()
            return max(ABSENT_SECONDS, self.pause_seconds)
        except Exception as error:  # noqa: BLE001 - damaged files, no memory, or a fault of this program
            self.close()
            self._condition = f"not readable, to be opened again: {_reason(error)}"
            self.reopens += 1
            self._failures += 1
            return RETRY_SECONDS * 2.0 ** (min(self._failures, FAILURES_BEFORE_SKIPPING) - 1)

    def close(self) -> None:
        """Close the journal until the next reading."""
        journal, self._journal, self._entries = self._journal, None, 0
        if journal is not None:
            journal.close()

    def _open(self) -> float:
        """Open the journal and read. Raises FileNotFoundError where there is none."""
        if self._root is not None:
            refused = ((path, why) for path, why in files_below(self._root) if why is not None)
            self._refused = tuple(f"{path} ({why})" for path, why in refused)
        self._journal = journal = KernelJournal(self._root)
        if not journal.exists():
            raise FileNotFoundError
        if self._was_absent:
            self.close()
            self._was_absent = False
            return ABSENT_SECONDS
        self._reopen_at = time.monotonic() + (REOPEN_SECONDS if journal.has_inotify else REOPEN_WITHOUT_INOTIFY_SECONDS)
        unread = self._place(journal)
        self._opened_before = True
        return self._drain(journal, unread=unread)

    def _drain(self, journal: KernelJournal, *, unread: bool) -> float:
        """Read to the end, or until something is full; `unread`: begin with the current entry."""
        while True:
            drained = journal.drain(MOST_A_TURN, this_one_first=unread)
            unread = False
            self._entries += drained.entries
            self.skipped += drained.skipped
            if drained.entries:
                self._failures = 0
            self._queue.extend(replace(event, held_at_start=self._was_held(event)) for event in drained.events)
            self._reach(drained.cursor)
            if drained.events:  # a cursor alone wakes nobody
                os.eventfd_write(self._news, 1)
            if drained.ended:
                self._held = self._held or journal.here()
                self._condition = self.at_end if journal.has_inotify else f"{self.at_end} without inotify"
                self._caught_up.set()
                return self.pause_seconds
            if self._entries >= MOST_AN_OPENING or len(self._queue) >= MOST_QUEUED:
                return 0.0

    def _place(self, journal: KernelJournal) -> bool:
        """Move to where reading goes on; return whether the current entry is still to be read."""
        if self._failures >= FAILURES_BEFORE_SKIPPING:
            self._cursor, self._opened_before, self._failures = None, False, 0
            self.lost_places += 1
        if self._cursor is not None:
            with contextlib.suppress(ValueError):
                unread = journal.place_after(self._cursor)
                if unread is not None:
                    return unread
        elif self._opened_before:
            journal.place_at_start()  # nothing was there at the first opening: all of it is new
            return False
        journal.place_at_end()
        lost, self._cursor = self._cursor, journal.cursor()
        self.lost_places += lost is not None and self._cursor is not None
        self._reach(self._cursor)
        return False

    def _reach(self, cursor: str | None) -> None:
        """Queue a cursor, in the place of one that nobody took and that no event follows."""
        if cursor is not None:
            self._cursor = cursor
            with contextlib.suppress(IndexError):  # `take` has just emptied the queue
                if isinstance(self._queue[-1], str):
                    self._queue[-1] = cursor
                    return
            self._queue.append(cursor)

    def _was_held(self, event: KernelEvent) -> bool:
        """A journald that reads the ring buffer (again) logs old messages late: the kernel's stamp shows it."""
        if self._held is None:
            return True
        boot_id, newest = self._held
        return event.boot_id == boot_id and newest is not None and (event.stamp_us or 0) <= newest


class JournalFollower(JournalBacklog):
    """Reads the journal all the time, in a thread of its own: where no ring buffer can be read.

    `begin`, then `take` whenever `fileno()` is readable. No method waits for a disk.
    """

    pause_seconds = POLL_SECONDS
    at_end = "following"

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(root)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def begin(self, cursor: str | None) -> None:
        """Start the thread: after `cursor`, or with the entries to come if it is None."""
        super().begin(cursor)
        self.keep_running()

    def keep_running(self) -> None:
        """Start the thread if it doesn't run. Where none can be had, the state has the reason, and the next call tries again."""
        if self._stopping.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        try:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()
        except (RuntimeError, MemoryError) as error:
            self._condition = f"not readable, to be tried again: {_reason(error)}"

    def stop(self) -> None:
        """End the thread, within STOP_SECONDS."""
        self._stopping.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        super().stop()

    def _run(self) -> None:
        while not self._stopping.wait(self.read()):
            pass
        self.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
