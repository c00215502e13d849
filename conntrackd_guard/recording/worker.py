"""What the recorder's thread does for each record: drop-in, history, log line, and the intent goes.

Every step is tried again until it works, without the others waiting for it where they need not: a
history that refuses does not keep the log line back.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.log_fields import event_of, fields_of, level_of
from conntrackd_guard.core.model import Raise, Record, TriggerKind
from conntrackd_guard.core.urgency import needs_operator
from conntrackd_guard.core.verification import Verification
from conntrackd_guard.history import documents
from conntrackd_guard.history.database import HistoryDamaged, Position
from conntrackd_guard.history.rows import first_row
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import MOST_WAITING, NotifySpool
from conntrackd_guard.host.other_writers import attribute_change
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.host.sysctl_dropin import DropIn
from conntrackd_guard.recording.dropin_sync import DropInSync
from conntrackd_guard.recording.history_writer import HistoryWriter
from conntrackd_guard.recording.metrics_exporter import Exporter, Outlets
from conntrackd_guard.recording.samples import Sampling, TableSampler
from conntrackd_guard.recording.series_collector import SeriesCollector

if TYPE_CHECKING:
    from conntrackd_guard.recording.recorder import Item

FLUSH_SECONDS = 10.0
"""Repeats are counted in memory this long before they go to the disk."""
STEADY_SECONDS = 300.0
"""Nothing is deleted for its age before the wall clock has kept pace for so long: hosts boot with a wrong one."""
_JUMP_SECONDS = 60.0
"""By less than this a clock is set all the time, and nothing looks old for it."""
SERIES_SECONDS = 60.0
"""The time series is written this often."""
PRUNE_SECONDS = 6 * 3600.0
_OWED_SECONDS = 30.0
"""A drop-in that could not be written is tried again this often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What earlier runs left."""

    records: list[Record] | None
    """Those of this boot that make the state; None where not all of them can be read."""
    position: Position | None
    """How far they took the kernel's lines in, None in a new history."""
    persisted: str | None
    """The key of the record that wrote the drop-in."""


class Worker:
    """Used by the recorder's thread only, but for `trouble` and `lost_lines` (status), and what a reload sets."""

    def __init__(  # noqa: PLR0913 - wiring
        self,
        *,
        paths: Paths,
        drop_in: DropIn,
        log: Log,
        runtime_dir: RuntimeDir,
        retention_seconds: float,
        max_rows: int,
    ) -> None:
        self._log, self._run_files, self._root = log, runtime_dir, paths.root
        self.notices: NotifySpool | None = None
        """Where what a person must hear of is left for the `notify` command; None where there is none. A reload sets it."""
        self.outlets = Outlets()
        """Where metrics go. A reload sets it."""
        self._exporter = Exporter(paths, runtime_dir, self.attempt)
        self.sampling = Sampling()
        """How samples are taken for decisions. A reload sets it."""
        self.series_collector = SeriesCollector()
        """The loop notes to it, this thread takes from it."""
        self._scribe = HistoryWriter(paths.history, retention_seconds, max_rows, self.say)
        self._portrayer = TableSampler(paths, self._scribe, self.say)
        self._persister = DropInSync(drop_in, self.say)
        self._written: set[str] = set()
        """Raises whose row is written and whose intent is open."""
        self._settled_seconds = self._flushed_seconds = 0.0
        self._series_seconds = time.monotonic() + SERIES_SECONDS
        self._prune_seconds = 0.0
        self._wall_began = self._steady_since = 0.0
        self._trouble: dict[str, str] = {}

    def past(self, boot_id: str) -> Past:
        """Return what earlier runs left. Raises HostError where the history can't be opened."""
        records: list[Record] = []
        whole = self.attempt("history", lambda: records.extend(self._scribe.history().records(boot_id)))
        position = self._scribe.history().position()
        persisted = None
        with suppress(GuardError):  # the limit alone must tell then
            persisted = self._persister.written_by()
        known = whole and not self._scribe.began_anew
        return Past(records=records if known else None, position=position, persisted=persisted)

    def note(self, position: Position) -> None:
        """Have the position written with the next flush: all that it covers was kept."""
        self._scribe.position = position

    def keep(self, item: Item) -> bool:
        """Do what is still to do for one record; return whether all is done."""
        self._persist(item)
        was_stored = item.stored
        if not was_stored:
            self._name_culprit(item)
            item.stored = self.attempt("history", self._scribe.write, item)
            if item.stored:
                self._exporter.count(item.record, item.times)
        self._tell(item)
        if item.stored and not was_stored:
            self.attempt("sample", self._portrayer.analyze, item.record, self.sampling)
        if item.stored and isinstance(item.record.decision, Raise):
            self._written.add(item.record.key)
        return item.stored

    def verification(self, found: Verification) -> bool:
        """Keep what came of a raise."""
        self._scribe.history().add_verification(found)
        return True

    def keep_points(self) -> None:
        """Write what was gathered of the time series; what the history refuses is given up."""
        if points := self.series_collector.take():
            self._scribe.history().add_points(points, thin=self._is_steady())

    def process_without_history(self, item: Item) -> None:
        """Do what doesn't need the history: it refuses a record before this one."""
        self._persist(item)
        self._tell(item)

    def say(self, event: str, level: str, message: str, **fields: Any) -> None:
        """Log a line that is no decision."""
        self._log.emit(event, level, message, **fields)

    def attempt(self, subject: str, work: Callable[..., bool | None], *arguments: object) -> bool:
        """Do `work`; return False where the host refused it, or where it says so. Refused work may be tried again.

        What does not work is said once, and is trouble until the same work is done or fails in another way.
        """
        try:
            done = work(*arguments) is not False
        except HistoryDamaged as damage:
            self.attempt("history", self._scribe.set_aside, damage)
            return False
        except GuardError as error:
            self.report_failure(subject, error)
            return False
        self._trouble.pop(subject, None)
        return done

    def report_failure(self, subject: str, error: Exception) -> None:
        """Say what doesn't work, once until it works again or changes."""
        text = str(error) or type(error).__name__
        if self._trouble.get(subject) != text:
            self._trouble[subject] = text
            self._log.emit("guard.error", "error", text, subject=subject)

    def trouble(self) -> list[str]:
        """Return what doesn't work at the moment."""
        return list(self._trouble.values())

    def lost_lines(self) -> int:
        """Return how many log lines could not be delivered."""
        return self._log.lost

    def run_periodic(self) -> None:
        """Do what is due now and then: close intents, count repeats, save the position, retry the drop-in, prune, export."""
        now = time.monotonic()
        self._log.flush()
        if self._persister.is_due and now - self._settled_seconds >= _OWED_SECONDS:
            self._settle()
        self.attempt("intents", self._close_intents)
        if now - self._flushed_seconds >= FLUSH_SECONDS:
            self._flushed_seconds = now
            self.attempt("repeats", self._scribe.flush)
        if now >= self._series_seconds:
            self._series_seconds = now + SERIES_SECONDS
            self.attempt("time series", self.keep_points)
        if self._is_steady() and now >= self._prune_seconds:
            self._prune_seconds = now + PRUNE_SECONDS
            self.attempt("prune", self._scribe.prune)
            self.attempt("samples", self._portrayer.prune, self.sampling)
        self._exporter.turn(self.outlets)

    def finish(self) -> bool:
        """Write what is held back and close; return whether all rows are written."""
        self._settle()
        self.attempt("intents", self._close_intents)
        flushed = self.attempt("repeats", self._scribe.flush)
        self.attempt("time series", self.keep_points)
        self._scribe.close()
        self._log.flush()
        return flushed

    def _is_steady(self) -> bool:
        """Return whether the wall clock can be trusted to tell how old something is."""
        now = time.monotonic()
        began = time.time() - now
        if abs(began - self._wall_began) > _JUMP_SECONDS:
            self._wall_began, self._steady_since = began, now
        return now - self._steady_since >= STEADY_SECONDS

    def _name_culprit(self, item: Item) -> None:
        """Say who changed the limit, as far as this host shows it: a look at all processes, so never in the loop."""
        record, limit = item.record, item.record.observation.limit
        if record.trigger.kind is TriggerKind.OTHER_WRITER and limit is not None and not record.outcome.detail:
            told = attribute_change(self._root, limit, record.observation.boottime_seconds)
            item.record = replace(record, outcome=replace(record.outcome, detail=f"by {told}"))

    def _persist(self, item: Item) -> None:
        """Have the drop-in follow a record; what fails is owed, and does not keep the row back."""
        if not item.persisted:
            item.persisted = True
            if self._persister.follow(item.record):
                self._settle()

    def _settle(self) -> None:
        self._settled_seconds = time.monotonic()
        self.attempt("drop-in", self._persister.settle)

    def _close_intents(self) -> None:
        """Forget the intents whose row is written and whose drop-in is not owed: a start takes up what is left."""
        for key in self._written - {self._persister.owes}:
            self._run_files.drop_intent(key)
            self._written.discard(key)

    def _tell(self, item: Item) -> None:
        if item.logged:
            return
        item.logged = True
        record = item.record
        self._log.emit(event_of(record), level_of(record), sentence(record), **fields_of(record))
        if needs_operator(record):
            self._notify(record, item.policy)

    def _notify(self, record: Record, policy: Policy) -> None:
        """Leave a decision for the `notify` command: as often as it is logged."""
        notices = self.notices
        if notices is None:
            return
        row = first_row(
            record,
            self._scribe.row_id(record),
            policy=policy,
            sentence=sentence(record),
            kernel_release=platform.release(),
        )
        try:
            dropped = notices.put(record.key, documents.notice(row))
        except GuardError as error:
            self._log.emit("guard.error", "error", str(error), subject="notify", key=record.key)
            return
        for key in dropped:
            text = f"More than {MOST_WAITING} decisions wait for the notify command; nobody is told of the oldest."
            self._log.emit("guard.error", "error", text, subject="notify", key=key)
