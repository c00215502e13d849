"""The sources of kernel lines, joined: each line is taken once, and is live or past."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from conntrackd_guard.core.dedup import Deduplicator, MessageStatus
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.kernel_messages import KernelEvent
from conntrackd_guard.daemon.debug_log import DebugLog
from conntrackd_guard.history.database import Position
from conntrackd_guard.host.kernel_log.journal import JournalFollower
from conntrackd_guard.host.kernel_log.kmsg import RingBuffer
from conntrackd_guard.recording.items import Past

ALONE_POLL_SECONDS = 0.2
"""Without a ring buffer the journal is asked this often: its entries can be read 0.4 s before it says so."""
AT_START_SECONDS = 2.0
"""How long the start waits for the journal's end; a stalled disk must not keep a full table waiting."""


class LogSources:
    """Ring buffer (within milliseconds) and journal (durable cursor); either may be missing.

    Beside a ring buffer the journal is a second look: for what was logged while no guard ran, and what an overrun lost.
    """

    def __init__(
        self,
        ring: RingBuffer | None,
        journal: JournalFollower | None,
        past: Future[Past],
        boot_id: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._ring, self._journal, self._boot_id = ring, journal, boot_id
        self.debug: DebugLog | None = None
        """Set if the level of the log is debug."""
        self._notes = notes
        """Why a source is missing, for status."""
        self._caught_up: list[KernelEvent] = []
        newest = None
        if ring is not None:
            self._caught_up, newest = ring.catch_up()
        self._overruns = 0
        self._liveness = Deduplicator(boot_id=boot_id, newest_stamp_us=newest)
        self._past, self._recalled = past, False
        self._cursor: str | None = None
        self._recorded: Position | None = None
        if journal is not None and ring is None:
            journal.poll_seconds = ALONE_POLL_SECONDS
        elif journal is not None:
            journal.rest_between_looks()
        if past.done():
            self._recall()
            self._start_journal()
        else:  # the ring buffer alone until the disk answers
            threading.Thread(target=self._start_journal, name="journal start", daemon=True).start()

    def _start_journal(self) -> None:
        """Begin where an earlier run stood, as soon as that is known."""
        position = self._past.result().position
        if self._journal is not None:
            self._journal.start(None if position is None else position.cursor)
            self._journal.await_end(AT_START_SECONDS)

    def _recall(self) -> None:
        """Take in where an earlier run stood. What the ring buffer held at start is told apart by that, and waits for it."""
        self._recalled, self._recorded = True, self._past.result().position
        if self._recorded is not None:
            self._cursor = self._recorded.cursor
            self._liveness.recall(self._recorded.boot_id, self._recorded.stamp_us)

    def descriptors(self) -> list[int]:
        """Return what becomes readable when a source has something."""
        return [source.fileno() for source in (self._ring, self._journal) if source is not None]

    def take(self) -> list[tuple[KernelEvent, bool]]:
        """Return the lines not taken yet, each with whether it is live. A line that both sources heard comes once."""
        if not self._recalled and self._past.done():
            self._recall()
        heard: list[KernelEvent] = []
        if self._recalled:
            heard, self._caught_up = self._caught_up, []
        if self._ring is not None:
            heard = heard + self._read_ring(self._ring)
        if self._journal is not None:
            heard = heard + self._journal.take()
            self._cursor = self._journal.newest_cursor or self._cursor
        taken = []
        for event in heard:
            status = self._liveness.judge(event)
            if self.debug is not None:
                self.debug.message(event, status)
            match status:
                case MessageStatus.NEW:
                    taken.append((event, True))
                case MessageStatus.HISTORICAL:
                    taken.append((event, False))
                case MessageStatus.DUPLICATE:
                    pass
        return taken

    def _read_ring(self, ring: RingBuffer) -> list[KernelEvent]:
        """Read the ring buffer; what it lost, and all there is once it can't be read any more, comes from the journal."""
        try:
            events = ring.read()
        except HostError as error:
            ring.close()
            self._ring, self._notes = None, (*self._notes, str(error))
            if self._journal is not None:
                self._journal.poll_seconds = ALONE_POLL_SECONDS
                self._journal.look_closely(math.inf)
            return []
        if self._journal is not None and ring.overruns > self._overruns:
            self._overruns = ring.overruns
            self._journal.look_closely()
        return events

    def position(self) -> Position | None:
        """Return how far the kernel's lines were taken in; None until it is known where an earlier run stood."""
        if not self._recalled:
            return None
        if self._liveness.newest_taken_us is None and self._recorded is not None:
            return replace(self._recorded, cursor=self._cursor)  # an earlier boot's stamp still tells its lines apart
        return Position(cursor=self._cursor, boot_id=self._boot_id, stamp_us=self._liveness.newest_taken_us)

    def report(self) -> dict[str, Any]:
        """Return what status shows of the sources."""
        return {
            "ring_buffer": "absent" if self._ring is None else "following",
            "ring_buffer_overruns": 0 if self._ring is None else self._ring.overruns,
            "journal": "absent" if self._journal is None else self._journal.state,
            "notes": list(self._notes),
        }

    def close(self) -> None:
        """Stop following."""
        if self._journal is not None:
            self._journal.stop()
