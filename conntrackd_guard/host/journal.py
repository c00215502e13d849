"""The journal as a source of kernel lines: durable, and late by up to half a second.

It is read in a thread of its own, because journal files are memory-mapped from a disk that may
stall. The order of the calls matters (matches before seeks, `process` before draining); see the
comments. `_next`, `_get` and their like are what `Reader.get_next` itself uses, at a seventh of its
cost; this module is the only one that touches them.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import uuid
from collections import deque
from pathlib import Path

from systemd import journal

from conntrackd_guard.core.kernel_messages import recognise, worth_reading
from conntrackd_guard.core.model import KernelEvent

SOURCE = "journal"
_ENTRIES_A_TURN = 1000
_UNRELIABLE_SECONDS = 2.0
"""How often to look where the file system gives no change events (a network mount)."""
_LONGEST_WAIT_SECONDS = 60.0
_FLOOD_ENTRIES = 100
"""Kernel lines a second from which the thread rests between reads."""
_REST_SECONDS = 0.002
_SETTLE_SECONDS = 0.05
"""A pause before looking again after the library reported an error, doubled up to `_LONGEST_RETRY_SECONDS`."""
_LONGEST_RETRY_SECONDS = 30.0
_QUEUE = 10_000


class JournalFollower:
    """Follows kernel lines from a cursor, or from the end. `state` says how it fares; it never gives up."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._events: deque[KernelEvent] = deque(maxlen=_QUEUE)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._cursor: str | None = None
        self._at_end = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self.newest_cursor: str | None = None
        """Where the journal stands, moved on by every kernel line."""
        self.state = "starting"
        self.skipped = 0
        self._second = (0.0, 0)
        self._first_turn = True

    def start(self, cursor: str | None) -> None:
        """Begin after `cursor`, or at the end where there is none."""
        self._cursor = self.newest_cursor = cursor
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it is not waited for where its disk stalls."""
        self._stopping = True
        os.eventfd_write(self._stop, 1)
        self._thread.join(1.0)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `take` has something."""
        return self._wake

    def take(self) -> list[KernelEvent]:
        """Return the lines heard since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._events.popleft())
        return taken

    def _run(self) -> None:
        """Open, follow, and open again after any error, ever slower."""
        wait = _SETTLE_SECONDS
        while not self._stopping:
            opened = time.monotonic()
            try:
                with contextlib.closing(self._open()) as reader:
                    self.state = "following"
                    self._follow(reader)
            except (OSError, ValueError, UnicodeDecodeError) as error:
                self.state = f"reopening after: {error}"
            if time.monotonic() - opened > _LONGEST_RETRY_SECONDS:
                wait = _SETTLE_SECONDS
            select.select([self._stop], [], [], wait)
            wait = min(2 * wait, _LONGEST_RETRY_SECONDS)

    def _open(self) -> journal.Reader:
        """Open the journal and stand where reading goes on."""
        flags = journal.SYSTEM | journal.LOCAL_ONLY
        reader = journal.Reader(path=str(self._directory)) if self._directory else journal.Reader(flags=flags)
        reader.add_match("_TRANSPORT=kernel")  # matches before any seek: a later one would not hold
        reader.add_match("SYSLOG_FACILITY=0")  # what user space writes to /dev/kmsg has another facility
        reader.fileno()  # from here on changes are noticed
        if not self._resume(reader):
            self._seek_end(reader)
        return reader

    def _resume(self, reader: journal.Reader) -> bool:
        """Go to the saved cursor; False where it is of no use (malformed, or from a future that was set back)."""
        if self._cursor is None:
            return False
        try:
            reader.seek_cursor(self._cursor)
            if not reader._next():
                return False  # beyond the end: following it would hear nothing for ever
            if not reader.test_cursor(self._cursor):
                self._take(reader)  # the saved entry was vacuumed: this one is new
        except (ValueError, OSError):
            return False
        return True

    @staticmethod
    def _seek_end(reader: journal.Reader) -> None:
        """Stand on the last entry, so that the next one is new."""
        reader.seek_tail()
        if not reader._previous():
            reader.seek_head()  # nothing matches yet; without this some versions stay deaf

    def _follow(self, reader: journal.Reader) -> None:
        """Drain, wait, process, for ever; raises what the library raises."""
        poller = select.poll()
        poller.register(reader.fileno(), reader.get_events())
        poller.register(self._stop, select.POLLIN)
        while not self._stopping:
            while self._drain(reader) == _ENTRIES_A_TURN and not self._stopping:
                pass
            self._first_turn = False
            poller.poll(self._wait_seconds(reader) * 1000)
            reader.process()  # before draining: it takes in rotation, and without it poll would spin

    def _wait_seconds(self, reader: journal.Reader) -> float:
        asked = reader.get_timeout_ms()
        wait = _LONGEST_WAIT_SECONDS if asked is None or asked < 0 else asked / 1000
        return wait if reader.reliable_fd() else min(wait, _UNRELIABLE_SECONDS)

    def _drain(self, reader: journal.Reader) -> int:
        """Take the entries that are there, up to a turn's worth; return how many."""
        count = 0
        while count < _ENTRIES_A_TURN and reader._next():
            self._take(reader)
            count += 1
        if count:
            self._cursor = self.newest_cursor = reader._get_cursor()
            self._rest(count)
        return count

    def _rest(self, count: int) -> None:
        """Above `_FLOOD_ENTRIES` a second, rest so that one wake-up takes several entries."""
        second, seen = self._second
        now = time.monotonic()
        if now - second >= 1.0:
            second, seen = now, 0
        self._second = (second, seen + count)
        if seen + count > _FLOOD_ENTRIES:
            time.sleep(_REST_SECONDS)

    def _take(self, reader: journal.Reader) -> None:
        """Hand over the current entry, if it concerns the guard."""
        try:
            raw = reader._get("MESSAGE")
        except KeyError:
            return
        except (OSError, ValueError):  # a damaged entry: the next ones may be whole
            self.skipped += 1
            return
        if not worth_reading(raw):
            return
        line = recognise(raw.decode("utf-8", "replace"))
        if line is None:
            return
        self._events.append(
            KernelEvent(
                line=line,
                stamp_us=_number(reader, "_SOURCE_MONOTONIC_TIMESTAMP"),
                boot_id=_boot_id(reader),
                source=SOURCE,
                cursor=reader._get_cursor(),
                held_at_start=self._first_turn,
            )
        )
        os.eventfd_write(self._wake, 1)


def _number(reader: journal.Reader, name: str) -> int | None:
    try:
        return int(reader._get(name))
    except (KeyError, ValueError, OSError):
        return None


def _boot_id(reader: journal.Reader) -> str:
    """Return the entry's boot id as /proc writes it, with dashes."""
    try:
        return str(uuid.UUID(reader._get("_BOOT_ID").decode("ascii")))
    except (KeyError, ValueError, OSError):
        return ""
