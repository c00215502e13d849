"""What the recorder's thread does for each record: persist the limit, write the row, log, then close the intent.

A failed step is retried until it works, and holds up only what depends on it: a history that refuses a row delays
neither drop-in nor log message.
"""

import math
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from conntrackd_guard.core import explain
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.log_fields import event_of, fields_of, level_of
from conntrackd_guard.core.model import Hold, Raise, Record, State, TriggerKind
from conntrackd_guard.core.records import needs_operator, wrote_limit
from conntrackd_guard.core.state import fold
from conntrackd_guard.history.database import HistoryDamaged, Position
from conntrackd_guard.history.documents import notify_document
from conntrackd_guard.history.rows import first_row
from conntrackd_guard.host.conntrack.namespaces import ReadOwners
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import MAX_QUEUED, NotifySpool
from conntrackd_guard.host.other_writers import STARTED_SECONDS, Cause, attribute_change
from conntrackd_guard.host.outbox import Outbox
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.requested_dropin import WAIT_SECONDS
from conntrackd_guard.host.runtime_dir import RuntimeDir, acting_guard
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn
from conntrackd_guard.recording.dropin_sync import DropInSync
from conntrackd_guard.recording.history_writer import HistoryWriter
from conntrackd_guard.recording.items import Item, Past
from conntrackd_guard.recording.metrics_exporter import Exporter, Outlets
from conntrackd_guard.recording.samples import Sampling, TableSampler
from conntrackd_guard.recording.series_collector import SeriesCollector

FLUSH_SECONDS = 10.0
"""Repeats are counted in memory for up to this long before they are written."""
STEADY_SECONDS = 300.0
"""Nothing is deleted for its age until the wall clock has kept pace for this long: hosts boot with a wrong one."""
_JUMP_SECONDS = 60.0
"""Clocks are corrected by less than this all the time, and nothing looks old for it."""
SERIES_SECONDS = 60.0
"""The time series is written at this interval."""
STATUS_SECONDS = 2.0
"""The daemon publishes its status at this interval."""
PRUNE_SECONDS = 6 * 3600.0
_LOOK_SECONDS = 0.05
_RETRY_SECONDS = 30.0
"""A drop-in that could not be written is retried at this interval."""
_BY_OTHERS = frozenset({
    HoldReason.LIMIT_LOWERED, HoldReason.LIMIT_RAISED, HoldReason.BUCKETS_CHANGED, HoldReason.SET_ELSEWHERE,
})  # fmt: skip
"""Holds that report what another program set."""


@dataclass(slots=True)
class _Progress:
    """How far the work on one record got."""

    record: Record
    sentence: str
    is_stored: bool
    is_logged: bool


class Worker:
    """Used by the recorder's thread only, but for `errors` and `log.lost` (status), and what a reload sets."""

    def __init__(  # noqa: PLR0913 - wiring
        self,
        *,
        paths: Paths,
        drop_in: SysctlDropIn,
        log: Log,
        runtime_dir: RuntimeDir,
        retention_seconds: float,
        max_rows: int,
        read_owners: ReadOwners | None = None,
    ) -> None:
        self.log, self._runtime_dir, self._root, self._drop_in = log, runtime_dir, paths.root, drop_in
        self.notices: NotifySpool | None = None
        """Where decisions are left for the `notify` command; None without one. A reload sets it."""
        self.outbox: Outbox | None = None
        """Where a pod leaves decisions and its status for `guard events`; None without one."""
        self.outlets = Outlets()
        """Where metrics go. A reload sets it."""
        self._exporter = Exporter(paths, runtime_dir, self.attempt, read_owners)
        self.sampling = Sampling()
        """How decisions' tables are sampled. A reload sets it."""
        self.series_collector = SeriesCollector()
        """The main loop adds to it, this thread takes from it."""
        self.history_writer = HistoryWriter(paths.history, retention_seconds, max_rows, log)
        self._sampler = TableSampler(paths, self.history_writer, log, read_owners)
        self._dropin_sync = DropInSync(drop_in, log)
        self._progress: dict[str, _Progress] = {}
        """Of records that are not stored yet, by key."""
        self._stored_raises: set[str] = set()
        """Raises whose row is written and whose intent is open."""
        self._persist_seconds = self._flush_seconds = self._prune_seconds = self._status_seconds = 0.0
        self._series_seconds = time.monotonic() + SERIES_SECONDS
        self._wall_offset = self._steady_since = 0.0
        self.restarts: deque[Record] = deque()
        """Lowerings of the limit by a kube-proxy that had just started. The main loop takes them."""
        self.errors: dict[str, str] = {}
        """The current errors, by subject."""

    def past(self, boot_id: str, boottime: Callable[[], float]) -> Past:
        """Return what earlier runs left; no state without a boot id. Raises HostError where the history can't be opened.

        `boottime` returns CLOCK_BOOTTIME.
        """
        folders = (self._runtime_dir.intents, self._runtime_dir.overrides)
        is_open, stored = {key for folder in folders for key, _ in folder.all()}, set[str]()
        found: list[tuple[State, int]] = []

        def noted(records: Iterator[Record]) -> Iterator[Record]:
            for record in records:
                if record.key in is_open:
                    stored.add(record.key)
                yield record

        whole = self.attempt(
            "history", lambda: found.append(fold(noted(self.history_writer.history().records(boot_id)), boottime()))
        )
        position, damage = self.history_writer.history().position(), self.history_writer.history().damage
        if damage:
            self.log.emit("guard.error", "error", f"{self.history_writer.history().path}: {damage}", subject="history")
        kept = None
        with suppress(GuardError):  # recovery goes by the limit alone then
            kept = self._drop_in.persisted()
        persisted = kept.decision if kept is not None else None
        if not whole or not boot_id or self.history_writer.was_damaged:
            return Past(state=None, position=position, persisted=persisted)
        [(state, ahead)] = found
        return Past(state=state, ahead=ahead, stored=frozenset(stored), position=position, persisted=persisted)

    def note_position(self, position: Position) -> None:
        """Write the position with the next flush: all that it covers was handled."""
        self.history_writer.note_position(position)

    def process(self, item: Item) -> bool:
        """Do what is left to do for a record; return False where it has to be retried."""
        item, progress = self._persisted(item)
        stored_now = not progress.is_stored and self.attempt("history", self._store, item, progress)
        if progress.is_stored:  # before anything else: an unforeseen error leaves nothing open
            del self._progress[item.record.key]
            if isinstance(item.record.decision, Raise):
                self._stored_raises.add(item.record.key)
        self._log_record(item, progress)
        if stored_now:
            self.attempt("sample", self._sampler.analyze, item.record, self.sampling)
        return progress.is_stored

    def process_without_history(self, item: Item) -> None:
        """Persist and log a record that waits behind one that the history refuses."""
        self._log_record(*self._persisted(item))

    def attempt(self, subject: str, work: Callable[..., object], *arguments: object) -> bool:
        """Do `work`; return False where it returned False or the host refused it. Refused work may be retried.

        An error is logged once, and is current until the same work succeeds or fails in another way.
        """
        try:
            if work(*arguments) is False:
                return False
        except HistoryDamaged as damage:
            self.attempt("history", self.history_writer.set_aside, damage)
            return False
        except GuardError as error:
            self.report_failure(subject, error)
            return False
        self.errors.pop(subject, None)
        return True

    def report_failure(self, subject: str, error: Exception) -> None:
        """Log an error, once until the subject's work succeeds or fails in another way; not one that another subject has."""
        text = str(error) or type(error).__name__
        is_known = text in self.errors.values()
        self.errors[subject] = text
        if not is_known:
            self.log.emit("guard.error", "error", text, subject=subject)

    def run_periodic(self) -> None:
        """Do what is due: close intents, write repeats, position and time series, retry the drop-in, prune, export."""
        now = time.monotonic()
        self.log.flush()
        is_retry = "drop-in" in self.errors
        if self._dropin_sync.is_due and (not is_retry or now - self._persist_seconds >= _RETRY_SECONDS):
            self._flush_dropin()
        self.attempt("intents", self._close_intents)
        if now - self._flush_seconds >= FLUSH_SECONDS:
            self._flush_seconds = now
            self.attempt("repeats", self.history_writer.flush)
            self.attempt("size", self.history_writer.shrink)
        if now >= self._series_seconds:
            self._series_seconds = now + SERIES_SECONDS
            self.attempt("time series", self._write_series)
        if self._is_steady() and now >= self._prune_seconds:
            self._prune_seconds = now + PRUNE_SECONDS
            self.attempt("prune", self.history_writer.prune)
            self.attempt("samples", self._sampler.prune, self.sampling)
        if self.outbox is not None and now - self._status_seconds >= STATUS_SECONDS:
            self._status_seconds = now
            self.attempt("events", self.outbox.publish_status)
        self._exporter.turn(self.outlets)

    def finish(self) -> bool:
        """Write what is held in memory and close; return whether all rows are written."""
        self.finish_without_history()
        flushed = self.attempt("repeats", self.history_writer.flush_all)
        self.attempt("time series", self._write_series)
        self.history_writer.close()
        self.log.flush()
        return flushed

    def finish_without_history(self) -> None:
        """Write the drop-in and the log messages that are held in memory."""
        deadline = time.monotonic() + WAIT_SECONDS
        self._flush_dropin()
        while self._dropin_sync.is_due and "drop-in" not in self.errors and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)  # another process writes it
            self._flush_dropin()
        self.attempt("intents", self._close_intents)
        self.log.flush()

    def _persisted(self, item: Item) -> tuple[Item, _Progress]:
        """Complete an item's record, once, and have the drop-in follow it; a failure there does not hold up the row."""
        progress = self._progress.get(item.record.key)
        if progress is not None:
            return replace(item, record=progress.record, sentence=progress.sentence), progress
        record, limit = item.record, item.record.observation.kernel_limit
        if limit is not None and not record.outcome.detail and isinstance(record.decision, Hold):
            try:
                record = self._attributed(record, record.decision.reason, limit)
                self.errors.pop("cause", None)
            except Exception as error:  # noqa: BLE001 - a row without the cause is better than none
                self.report_failure("cause", error)
        item = replace(item, record=record, sentence=explain.sentence(record, item.policy))
        progress = _Progress(record, item.sentence, is_stored=item.is_stored, is_logged=item.is_stored)
        self._progress[record.key] = progress
        if self._dropin_sync.follow(item):
            self._flush_dropin()
        return item, progress

    def _attributed(self, record: Record, reason: HoldReason, limit: int) -> Record:
        """Return the record of another writer's change with who made it, as far as evidence shows."""
        trigger, seen = record.trigger, record.observation
        if reason not in _BY_OTHERS:
            return record
        acting = acting_guard(self._root, limit) if record.mode is Mode.DRY_RUN else ""
        cause = Cause(acting)
        if not acting:
            cause = attribute_change(  # looks at all processes
                self._root,
                limit,
                seen.boottime_seconds,
                was=trigger.was,
                buckets=seen.buckets if reason is HoldReason.BUCKETS_CHANGED else None,
                window_seconds=math.inf if trigger.kind is TriggerKind.START else STARTED_SECONDS,
            )
        record = replace(record, outcome=replace(record.outcome, detail=f"by {cause.text}"))
        if cause.is_restart and reason is HoldReason.LIMIT_LOWERED:
            record = replace(record, trigger=replace(trigger, restarted=True))
            self.restarts.append(record)
        return record

    def _store(self, item: Item, progress: _Progress) -> None:
        is_news = self.history_writer.write(item)
        progress.is_stored, progress.is_logged = True, progress.is_logged or not is_news
        self._exporter.count(item.record, item.times + item.joined)

    def _log_record(self, item: Item, progress: _Progress) -> None:
        """Log a record once, and leave it for the `notify` command and `guard events` if that is news to them."""
        if progress.is_logged:
            return
        progress.is_logged = True
        record = item.record
        self.log.emit(event_of(record), level_of(record), item.sentence, **fields_of(record))
        if self.notices is not None and needs_operator(record):
            for key in self._leave(item, self.notices, "notify"):
                text = f"Notify queue full ({MAX_QUEUED}). Dropped the oldest notification."
                self.log.emit("guard.error", "error", text, subject="notify", key=key)
        if self.outbox is not None and (needs_operator(record) or wrote_limit(record)):
            self._leave(item, self.outbox.decisions, "events")

    def _leave(self, item: Item, spool: NotifySpool, subject: str) -> list[str]:
        """Leave a decision for another process; return the keys of those that it displaced."""
        record = item.record
        row_id, release = self.history_writer.row_id(record), platform.release()
        row = first_row(record, row_id, policy=item.policy, sentence=item.sentence, kernel_release=release)
        try:
            return spool.put(record.key, notify_document(row))
        except GuardError as error:
            self.log.emit("guard.error", "error", str(error), subject=subject, key=record.key)
            return []

    def _flush_dropin(self) -> None:
        self._persist_seconds = time.monotonic()
        self.attempt("drop-in", self._dropin_sync.flush)

    def _close_intents(self) -> None:
        """Delete the intents whose row is written and whose limit is persisted; a start recovers the others."""
        for key in self._stored_raises - {self._dropin_sync.due_key}:
            self._runtime_dir.intents.drop(key)
            self._stored_raises.discard(key)

    def _write_series(self) -> None:
        """Write the points of the time series; those that the history refuses are dropped."""
        if points := self.series_collector.take():
            self.history_writer.history().add_points(points, thin=self._is_steady())

    def _is_steady(self) -> bool:
        """Return whether the wall clock can be trusted for the age of rows."""
        now = time.monotonic()
        offset = time.time() - now
        if abs(offset - self._wall_offset) > _JUMP_SECONDS:
            self._wall_offset, self._steady_since = offset, now
        return now - self._steady_since >= STEADY_SECONDS
