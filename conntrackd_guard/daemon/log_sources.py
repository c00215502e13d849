"""Join the sources of kernel messages: each message is taken once, and is new or historical."""

import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

from conntrackd_guard.core.dedup import Deduplicator, MessageStatus
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.kernel_messages import KernelEvent
from conntrackd_guard.core.model import MessageKind
from conntrackd_guard.daemon.debug_log import DebugLog
from conntrackd_guard.history.database import Position
from conntrackd_guard.host.kernel_log.journal import JournalBacklog, JournalFollower
from conntrackd_guard.host.kernel_log.kmsg import RingBuffer
from conntrackd_guard.recording.items import Past
from conntrackd_guard.recording.recorder import Recorder

AT_START_SECONDS = 2.0
"""How long the start waits for the journal's end; a stalled disk must not keep a full table waiting."""
_AFTER_OVERRUN_SECONDS = (2.0, 30.0)
"""The journal is read this often, for this long, after an overrun: journald may be behind, too."""


class LogSources:
    """Ring buffer (within milliseconds) and journal (durable cursor); either may be missing.

    Without a ring buffer the journal is followed. Beside one it is read on the recorder's thread, at start, after an
    overrun and once a minute, for messages that were logged while no guard ran and for those that the overrun lost.
    """

    def __init__(  # noqa: PLR0913 - wiring
        self,
        ring: RingBuffer | None,
        recorder: Recorder,
        past: Future[Past],
        boot_id: str,
        notes: tuple[str, ...] = (),
        *,
        journal_root: Path | None = None,
    ) -> None:
        self._ring, self._recorder, self._past, self._boot_id = ring, recorder, past, boot_id
        self._journal_root = journal_root
        self.debug: DebugLog | None = None
        """Set if the level of the log is debug."""
        self._notes = notes
        """Why a source is missing, for status."""
        self._answered: list[KernelEvent] = []
        """Messages of the ring buffer that are remembered once they are decided."""
        self._caught_up, newest = ring.catch_up() if ring is not None else ([], None)
        self.past_wall_seconds: dict[MessageKind, float] = {}
        """Wall time of the newest message of each kind from before the start, as far as the journal has it."""
        self._undated: set[int | None] = set()
        """Stamps of the ring buffer's messages from before the start: the journal's copies have the time."""
        self._overruns = 0
        self._dedup = Deduplicator(boot_id=boot_id, newest_stamp_us=newest)
        self._recalled = False
        self._recorded: Position | None = None
        self._reading: Future[float] | None = None
        self._read_at = self._read_often_until = 0.0
        self._journal: JournalBacklog = JournalFollower(journal_root) if ring is None else JournalBacklog(journal_root)
        self._recall()
        if self._recalled:
            self._journal.await_end(AT_START_SECONDS)

    def descriptors(self) -> list[int]:
        """Return what becomes readable when a source has something."""
        return [self._journal.fileno()] if self._ring is None else [self._ring.fileno(), self._journal.fileno()]

    def take(self) -> list[tuple[KernelEvent, bool]]:
        """Return messages not taken yet, each with whether it is new. One that both sources have comes once.

        The journal's come only in a call for which the ring buffer has none: an overflow is answered first. So the
        journal never runs ahead, and each message that is read in the ring buffer is new.
        """
        self._remember_answered()
        self._recall()
        events = [] if self._ring is None else self._read_ring(self._ring)
        if self._ring is not None and events:
            self._answered = events
            return list(zip(events, repeat(object=True), strict=False))
        if self._ring is not None and not self._ring.is_drained:
            return []
        if self._recalled:
            events, self._caught_up = self._caught_up + events, []
        events = events or self._journal.take()
        judged = [(event, self._judge(event)) for event in events]
        for event, status in judged:
            self._date(event, status)
        return [
            (event, status is MessageStatus.NEW) for event, status in judged if status is not MessageStatus.DUPLICATE
        ]

    def is_behind(self) -> bool:
        """Return whether `take` has messages from before the start to give, for which no descriptor becomes readable."""
        return bool(self._caught_up) and self._past.done()

    def position(self) -> Position | None:
        """Return how far messages were taken.

        None until the position of an earlier run is known, and the messages that the ring buffer held at start are taken.
        """
        self._remember_answered()
        self._recall()
        if not self._recalled or self._caught_up:
            return None
        if self._ring is not None:
            self._read_journal()
        else:
            self._journal.keep_running()
        cursor = self._journal.newest_cursor
        if self._dedup.newest_taken_us is None and self._recorded is not None:
            return replace(self._recorded, cursor=cursor)  # an earlier boot's stamp still marks its messages
        return Position(cursor=cursor, boot_id=self._boot_id, stamp_us=self._dedup.newest_taken_us)

    def report(self) -> dict[str, Any]:
        """Return what status shows of the sources."""
        return {
            "ring_buffer": "absent" if self._ring is None else "following",
            "ring_buffer_overruns": 0 if self._ring is None else self._ring.overruns,
            "journal": self._journal.state,
            "notes": list(self._notes),
        }

    def close(self) -> None:
        """Stop following."""
        self._journal.stop()

    def _remember_answered(self) -> None:
        """Remember the ring buffer's messages, so that the journal's copies are duplicates."""
        answered, self._answered = self._answered, []
        for event in answered:
            self._judge(event)

    def _judge(self, event: KernelEvent) -> MessageStatus:
        status = self._dedup.judge(event)
        if self.debug is not None:
            self.debug.message(event, status)
        return status

    def _date(self, event: KernelEvent, status: MessageStatus) -> None:
        """Note when the newest message from before the start came: its own time, or that of the journal's copy."""
        is_past = status is MessageStatus.HISTORICAL or (
            status is MessageStatus.DUPLICATE and event.boot_id == self._boot_id and event.stamp_us in self._undated
        )
        if is_past and event.wall_seconds is None:
            self._undated.add(event.stamp_us)
        elif is_past and event.wall_seconds is not None:
            kind = event.message.kind
            self.past_wall_seconds[kind] = max(event.wall_seconds, self.past_wall_seconds.get(kind, 0.0))

    def _recall(self) -> None:
        """Learn where an earlier run stood, once the history can be read, and begin to read the journal there.

        The messages that the ring buffer held at start wait for it: an earlier run took some of them. An error, which the
        recorder logs, counts as no position.
        """
        if self._recalled or not self._past.done():
            return
        self._recalled = True
        with suppress(Exception):
            self._recorded = self._past.result().position
        if self._recorded is not None:
            self._dedup.recall(self._recorded.boot_id, self._recorded.stamp_us)
        self._journal.begin(None if self._recorded is None else self._recorded.cursor)
        if self._ring is not None:
            self._read_journal()

    def _read_journal(self, *, at_once: bool = False) -> None:
        """Have the recorder's thread read the journal if that is due and it isn't reading yet.

        A reading that failed, which the recorder logs, is done again after the usual pause.
        """
        now = time.monotonic()
        if self._reading is not None:
            if not self._reading.done():
                return
            reading, self._reading = self._reading, None
            pause = self._journal.pause_seconds
            with suppress(Exception):
                pause = reading.result()
            every, _ = _AFTER_OVERRUN_SECONDS
            self._read_at = now + (min(pause, every) if now < self._read_often_until else pause)
        if at_once or now >= self._read_at:
            journal = self._journal  # a follower that replaces it meanwhile has its own thread
            self._reading = self._recorder.call(lambda _: journal.read_once())

    def _read_ring(self, ring: RingBuffer) -> list[KernelEvent]:
        """Read the ring buffer. The journal has what it lost, and all messages once it can't be read any more.

        Raises OSError where no follower can be made for want of a descriptor: the next call tries again.
        """
        try:
            events = ring.read()
        except HostError as error:
            follower = JournalFollower(self._journal_root)
            events = self._journal.take()
            if self._recalled:
                follower.begin(self._journal.newest_cursor)
            self._journal, self._ring, self._notes = follower, None, (*self._notes, str(error))
            ring.close()
            return events
        if ring.overruns > self._overruns:
            self._overruns = ring.overruns
            _, seconds = _AFTER_OVERRUN_SECONDS
            self._read_often_until = time.monotonic() + seconds
            if self._recalled:
                self._read_journal(at_once=True)
        return events
