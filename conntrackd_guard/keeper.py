"""What the recorder's thread does for each record: drop-in, history, log line, and the intent goes.

Every step is tried again until it works, without the others waiting for it where they need not: a
history that refuses does not keep the log line back.
"""

from __future__ import annotations

import platform
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conntrackd_guard import history_file
from conntrackd_guard.core import identity as news
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.model import Policy, Raise, Record
from conntrackd_guard.core.urgency import needs_person
from conntrackd_guard.history import History, HistoryDamaged, Position
from conntrackd_guard.history_rows import first_row
from conntrackd_guard.host.drop_in import DropIn
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notices import MOST_WAITING, Notices
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runfiles import RunFiles
from conntrackd_guard.persister import Persister
from conntrackd_guard.views import json_documents
from conntrackd_guard.views.record_log import event_of, fields_of, level_of
from conntrackd_guard.views.sentence import sentence

if TYPE_CHECKING:
    from conntrackd_guard.recorder import Item

_KNOWN_KEPT = 500
FLUSH_SECONDS = 10.0
"""Repeats are counted in memory this long before they go to the disk."""
LOG_AGAIN_SECONDS = 3600.0
"""A hold that lasts is logged once an hour."""
NEWS_SECONDS = 3600.0
"""Not decided again for as long, a hold that comes back is a row of its own, and logged."""
FIRST_PRUNE_SECONDS = 300.0
"""After a start, when the host's own start is over; a guard that is restarted often prunes all the same."""
PRUNE_SECONDS = 6 * 3600.0
_OWED_SECONDS = 30.0
"""A drop-in that could not be written is tried again this often."""


@dataclass(slots=True)
class _Known:
    """News that history has a row for."""

    row_id: int
    logged_seconds: float
    last_wall_seconds: float
    unwritten: int = 0


class Keeper:
    """Used by the recorder's thread only, but for `trouble` and `lost_lines` (status) and `notices` (set at reload)."""

    def __init__(  # noqa: PLR0913 - wiring
        self,
        *,
        paths: Paths,
        drop_in: DropIn,
        log: Log,
        run_files: RunFiles,
        retention_seconds: float,
        max_rows: int,
    ) -> None:
        self._paths, self._log, self._run_files = paths, log, run_files
        self.retention_seconds, self.max_rows = retention_seconds, max_rows
        self.position: Position | None = None
        """How far all is taken in that was kept so far; None where that is written."""
        self.notices: Notices | None = None
        """Where what a person must hear of is left for the `notify` command; None where there is none."""
        self._history: History | None = None
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._persister = Persister(drop_in, self.say)
        self._written: set[str] = set()
        """Raises whose row is written and whose intent is open."""
        self._settled_seconds = self._flushed_seconds = 0.0
        self._prune_seconds = time.monotonic() + FIRST_PRUNE_SECONDS
        self._trouble: dict[str, str] = {}
        self.began_anew = False
        """A damaged history was set aside: what this boot did is not known."""

    def past(self, boot_id: str) -> tuple[list[Record], Position | None]:
        """Return this boot's records that make the state, and how far the kernel's lines were taken in."""
        try:
            history = self._open()
            return list(history.records(boot_id)), history.position()
        except HistoryDamaged as error:  # a page that opening did not touch
            self._set_aside(error)
            return [], self._open().position()

    def keep(self, item: Item) -> bool:
        """Do what is still to do for one record; return whether all is done."""
        self._persist(item)
        if not item.stored:
            item.stored = self.attempt("history", self._store, item)
        self._tell(item)
        if item.stored and isinstance(item.record.decision, Raise):
            self._written.add(item.record.key)
            self._close_intents()
        return item.stored

    def announce(self, item: Item) -> None:
        """Do what doesn't need the history: it refuses a record before this one."""
        self._persist(item)
        self._tell(item)

    def let_go(self, limit: int | None) -> None:
        """See that the drop-in does not lower the limit in force at the next boot."""
        if not self._persister.owes:
            self.attempt("drop-in", self._persister.let_go, limit)

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
            self._set_aside(damage)
            return False
        except GuardError as error:
            self.worry(subject, error)
            return False
        self._trouble.pop(subject, None)
        return done

    def worry(self, subject: str, error: Exception) -> None:
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

    def tidy(self) -> None:
        """Do what is due now and then: count repeats, save the position, retry the drop-in, prune."""
        now = time.monotonic()
        self._log.flush()
        if self._persister.owes and now - self._settled_seconds >= _OWED_SECONDS:
            self._settle()
        if now - self._flushed_seconds >= FLUSH_SECONDS:
            self._flushed_seconds = now
            self.attempt("repeats", self._flush)
        if now >= self._prune_seconds:
            self._prune_seconds = now + PRUNE_SECONDS
            self.attempt("prune", self._prune)

    def finish(self) -> bool:
        """Write what is held back and close; return whether all of it was written."""
        self._settle()
        flushed = self.attempt("repeats", self._flush)
        if self._history is not None:
            self._history.close()
        self._log.flush()
        return flushed

    def _prune(self) -> None:
        self._open().prune(time.time(), self.retention_seconds, self.max_rows)

    def _open(self) -> History:
        """Return the open history; a damaged one is set aside and said."""
        if self._history is None:
            self._history, note = History.open_or_set_aside(self._paths.history, time.time())
            if note:
                self.began_anew = True
                self._log.emit("guard.error", "error", note, subject="history")
        return self._history

    def _set_aside(self, damage: HistoryDamaged) -> None:
        """Move a history aside that turned out damaged in use; the next need begins a new one."""
        if self._history is not None:
            self._history.close()
        self._history, self._known = None, OrderedDict()
        self.began_anew = True
        try:
            note = history_file.set_aside(self._paths.history, time.time(), damage)
        except GuardError as error:
            self.worry("history", error)
        else:
            self._log.emit("guard.error", "error", note, subject="history")

    def _persist(self, item: Item) -> None:
        """Have the drop-in follow a record; what fails is owed, and does not keep the row back."""
        if not item.persisted:
            item.persisted = True
            if self._persister.follow(item.record):
                self._settle()

    def _settle(self) -> None:
        self._settled_seconds = time.monotonic()
        self.attempt("drop-in", self._persister.settle)
        self._close_intents()

    def _close_intents(self) -> None:
        """Forget the intents whose row is written and whose drop-in is not owed: a start takes up what is left."""
        for key in self._written - {self._persister.owes}:
            self._run_files.drop_intent(key)
            self._written.discard(key)

    def _store(self, item: Item) -> None:
        """Write the row, or count a repeat of one."""
        record, now = item.record, item.record.observation.boottime_seconds
        known = self._same_news(record) if news.merges(record) else None
        if known is None:
            row_id = self._add(item, None)
            if news.changes_state(record):
                self._known.clear()  # an equal hold is news after this
            if news.merges(record):
                more = 0 if news.is_refused(record) else item.times - 1
                self._remember(news.identity(record), _Known(row_id, now, item.last_wall_seconds, more))
            return
        if now - known.logged_seconds < LOG_AGAIN_SECONDS:
            item.logged = True
        else:
            known.logged_seconds = now
        if news.is_refused(record):  # the state is folded from it: written at once, with its evidence
            self._add(item, known.row_id)
        else:
            known.unwritten += item.times
            self.position = item.position or self.position
        known.last_wall_seconds = item.last_wall_seconds

    def _same_news(self, record: Record) -> _Known | None:
        """Return the row that says the same, None where there is none or it was last said long ago."""
        name, seen = news.identity(record), record.observation
        known = self._known.get(name)
        if known is None:
            found = self._open().find_identity(name, seen.boot_id)
            if found is None:
                return None
            known = _Known(found[0], seen.boottime_seconds, found[1])  # its line is in the log
        if seen.wall_seconds - known.last_wall_seconds > NEWS_SECONDS:
            return None
        self._remember(name, known)
        return known

    def _remember(self, name: str, known: _Known) -> None:
        self._known[name] = known
        if len(self._known) > _KNOWN_KEPT:
            oldest = next(iter(self._known))
            self._count(self._known[oldest])
            del self._known[oldest]

    def _add(self, item: Item, again: int | None) -> int:
        """Write the row with its position, which covers what was counted in memory before."""
        self._flush()
        return self._open().add(
            item.record,
            policy=item.policy,
            sentence=sentence(item.record),
            kernel_release=platform.release(),
            position=item.position,
            again=again,
        )

    def _count(self, known: _Known) -> None:
        """Write the repeats counted in memory."""
        if known.unwritten:
            self._open().merge(known.row_id, known.unwritten, known.last_wall_seconds)
            known.unwritten = 0

    def _flush(self) -> None:
        """Write the repeats counted in memory, then the position: it never runs ahead of what it covers."""
        for known in self._known.values():
            self._count(known)
        if self.position is not None:
            self._open().save_position(self.position)
            self.position = None

    def _tell(self, item: Item) -> None:
        if item.logged:
            return
        item.logged = True
        record = item.record
        self._log.emit(event_of(record), level_of(record), sentence(record), **fields_of(record))
        if needs_person(record):
            self._notify(record, item.policy)

    def _notify(self, record: Record, policy: Policy) -> None:
        """Leave a decision for the `notify` command: as often as it is logged."""
        notices = self.notices
        if notices is None:
            return
        known = self._known.get(news.identity(record))
        row = first_row(
            record,
            known.row_id if known else 0,
            policy=policy,
            sentence=sentence(record),
            kernel_release=platform.release(),
        )
        try:
            dropped = notices.put(record.key, json_documents.notice(row))
        except GuardError as error:
            self._log.emit("guard.error", "error", str(error), subject="notify", key=record.key)
            return
        for key in dropped:
            text = f"More than {MOST_WAITING} decisions wait for the notify command; nobody is told of the oldest."
            self._log.emit("guard.error", "error", text, subject="notify", key=key)
