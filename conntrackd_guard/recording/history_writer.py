"""Write records to the history: a row for each, a count for repeats, and the journal position behind both."""

import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, Record, TriggerKind
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.records import (
    MOST_NAMED,
    UNTRUSTED,
    USERS,
    changes_state,
    concerned,
    fingerprint,
    is_dropping,
    is_refused,
    merges,
    needs_operator,
    subject,
)
from conntrackd_guard.history import file
from conntrackd_guard.history.database import History, HistoryDamaged, Position, Repeats
from conntrackd_guard.host.log import Log
from conntrackd_guard.recording.items import Item

_KNOWN_MAX = 500
_MORE = " and more"
LOG_AGAIN_SECONDS = 3600.0
"""A hold that lasts is logged once an hour."""
NEWS_SECONDS = 3600.0
"""A hold that comes back after this is a row of its own, and logged."""


@dataclass(slots=True)
class _Known:
    """A row that repeats are counted in."""

    row_id: int
    last_wall_seconds: float
    first: int | None
    """The namespace of its first record."""
    also: str = ""
    """Further ones, if it is about those of users: `also web (netns 4026532316), netns 4026532317 and more`."""
    unwritten: int = 0

    def name(self, namespaces: tuple[tuple[int, str], ...]) -> None:
        """Name further namespaces, up to MOST_NAMED with the first."""
        for number, name in namespaces:
            if number == self.first or f"netns {number}" in self.also or self.also.endswith(_MORE):
                continue
            if self.also.count("netns ") >= MOST_NAMED - 1:
                self.also += _MORE
            else:
                self.also = f"{self.also}, {name}" if self.also else f"also {name}"


class HistoryWriter:
    """Opens the history when first needed. Methods raise HostError, or HistoryDamaged where it has to be `set_aside`."""

    def __init__(self, path: Path, retention_seconds: float, max_rows: int, log: Log) -> None:
        self._path, self._log = path, log
        self._retention_seconds, self._max_rows = retention_seconds, max_rows
        self._history: History | None = None
        self._known: dict[str, _Known] = {}
        self._left: list[Repeats] = []
        """Unwritten repeats of rows that are no longer known."""
        self._logged: dict[str, float] = {}
        """When holds were last logged (CLOCK_BOOTTIME), by `_subject`."""
        self._position: Position | None = None
        """The position to write with the next `flush`, None where it is written."""
        self._is_ahead = False
        """Repeats are counted that a later position covers: it is written with them."""
        self._awaits_note = False
        """Some of them joined an item that waited: only a position in the queue of its own covers them, no item's."""
        self._written: Position | None = None
        """The last one written."""
        self.was_damaged = False
        """A damaged history was set aside, so what this boot did is not known."""

    def history(self) -> History:
        """Return the open history; a damaged one is set aside, one that is elsewhere is opened again, and that is logged."""
        if self._history is not None and (change := self._history.change()):
            self._leave(self._history, change)
        if self._history is None:
            self._history, note = History.open_or_set_aside(self._path, time.time())
            if note:
                self.was_damaged = True
                self._log.emit("guard.error", "error", note, subject="history")
        return self._history

    def _leave(self, history: History, change: str) -> None:
        """Close a history that somebody removed, renamed or replaced: what is at its place is opened when next needed."""
        self._history = None
        self._forget()
        history.leave()
        text = (
            f"The history {self._path} {change} while it was in use. Opened it again: new decisions are recorded there."
        )
        self._log.emit("guard.error", "error", text, subject="history")

    def set_aside(self, damage: HistoryDamaged) -> None:
        """Move a damaged history aside; a new one is created when next needed."""
        self.close()
        self._forget()
        self._logged.clear()
        self.was_damaged = True
        self._log.emit("guard.error", "error", file.set_aside(self._path, time.time(), damage), subject="history")

    def _forget(self) -> None:
        """Forget the rows of a history that is gone; the next one begins with the position."""
        self._known.clear()
        self._left.clear()
        self._is_ahead = self._awaits_note = False
        self._position = self._position or self._written

    def close(self) -> None:
        """Close the history."""
        if self._history is not None:
            self._history.close()
        self._history = None

    def write(self, item: Item) -> bool:
        """Write a row, or count a repeat; return False for a repeat of what was logged within the hour."""
        record = item.record
        if self._awaits_note:
            item = replace(item, position=None)
        self._awaits_note = self._awaits_note or item.joined > 0
        self.history()  # before a row is looked up in it
        known = self._known_row(record) if merges(record) else None
        if known is None:
            self._write_new(item)
            return not merges(record) or self._is_unlogged(record)
        if is_refused(record):  # the state is folded from it: written at once, with its evidence
            self._add(item, known.row_id)
        else:
            known.unwritten += item.times + item.joined
            known.name(item.namespaces)
            self._position = item.position or self._position
            self._is_ahead = item.position is None or item.joined > 0
        known.last_wall_seconds = item.last_wall_seconds
        return self._is_unlogged(record)

    def row_id(self, record: Record) -> int:
        """Return the id of the row with this record's fingerprint, 0 without one."""
        known = self._known.get(fingerprint(record))
        return known.row_id if known else 0

    def note_position(self, position: Position) -> None:
        """Write the position with the next `flush`: it covers all that was handed over before."""
        self._position, self._is_ahead, self._awaits_note = position, False, False

    def flush(self) -> None:
        """Write the repeats counted in memory and the position that covers them: after a kill, neither runs ahead.

        Where that position is still to come, wait for it.
        """
        if not self._is_ahead:
            self.flush_all()

    def flush_all(self) -> None:
        """Write the repeats counted in memory and the newest position."""
        if self._history is not None:
            self.history()  # another file may be at its place
        repeats = self._unwritten()
        if repeats or self._position is not None:
            self.history().count(repeats, self._position)
            self._note_written(self._position)

    def _unwritten(self) -> list[Repeats]:
        return self._left + [
            Repeats(known.row_id, known.unwritten, known.last_wall_seconds, known.also)
            for known in self._known.values()
            if known.unwritten
        ]

    def _set_apart(self) -> None:
        """Keep the unwritten repeats apart from the rows that are known, of which some are about to be forgotten."""
        self._left = self._unwritten()
        for known in self._known.values():
            known.unwritten = 0

    def _note_written(self, position: Position | None) -> None:
        """Note that all repeats and this position are written."""
        self._set_apart()
        self._left.clear()
        self._written, self._position, self._is_ahead = position or self._written, None, False

    def prune(self) -> None:
        """Delete rows past their retention, and the oldest beyond the maximum."""
        self.history().prune(time.time(), self._retention_seconds, self._max_rows)

    def shrink(self) -> None:
        """Keep an open history within HISTORY_MAX_BYTES."""
        if self._history is not None:
            self._history.shrink(tuning.HISTORY_MAX_BYTES)

    def _write_new(self, item: Item) -> None:
        row_id = self._add(item, None)
        if changes_state(item.record):  # an equal hold is news after this
            self._set_apart()
            self._known.clear()
            self._logged.clear()
        if merges(item.record):
            known = _Known(row_id, item.last_wall_seconds, item.record.trigger.namespace)
            known.unwritten = item.joined + (item.times if _is_counted_later(item) else 0)
            known.name(item.namespaces)
            self._is_ahead = self._is_ahead or known.unwritten > 0
            self._remember(fingerprint(item.record), known)

    def _known_row(self, record: Record) -> _Known | None:
        """Return the row with this fingerprint, None where there is none, or none within NEWS_SECONDS."""
        wanted, seen = fingerprint(record), record.observation
        known = self._known.get(wanted)
        if known is None:
            found = self.history().find_fingerprint(wanted, seen.boot_id)
            if found is None:
                return None
            known = _Known(*found)
        if seen.wall_seconds - known.last_wall_seconds > NEWS_SECONDS:
            return None
        if wanted not in self._known:  # an earlier run logged it
            self._logged.setdefault(_subject(record), seen.boottime_seconds)
        self._remember(wanted, known)
        return known

    def _is_unlogged(self, record: Record) -> bool:
        """Return whether nothing on this record's subject was logged within the hour; then it is logged now."""
        subject, now = _subject(record), record.observation.boottime_seconds
        if now - self._logged.get(subject, -LOG_AGAIN_SECONDS) < LOG_AGAIN_SECONDS:
            return False
        self._logged[subject] = now
        if len(self._logged) > _KNOWN_MAX:
            del self._logged[next(iter(self._logged))]
        return True

    def _remember(self, wanted: str, known: _Known) -> None:
        if self._known.get(wanted, known) is not known:  # a row of its own, after a while
            self._set_apart()
        self._known[wanted] = known
        if len(self._known) > _KNOWN_MAX:
            self._set_apart()
            del self._known[next(iter(self._known))]

    def _add(self, item: Item, again: int | None) -> int:
        """Write the row with its position, and with the repeats that this position covers too."""
        if item.position is None:
            self.flush()
        history = self.history()
        row_id = history.add(
            _slim(item.record, item.policy),
            policy=item.policy,
            sentence=item.sentence,
            kernel_release=platform.release(),
            position=item.position,
            again=again,
            times=0 if _is_counted_later(item) else _times(item),
            repeats=[] if item.position is None else self._unwritten(),
        )
        if item.position is not None:
            self._note_written(item.position)
        return row_id


def _times(item: Item) -> int:
    """Return how many decisions a new row counts at once."""
    return item.times if merges(item.record) and not is_refused(item.record) else 1


def _is_counted_later(item: Item) -> bool:
    """Return whether a later position covers an item's message: until then its row counts none, or a kill counts it twice."""
    record = item.record
    is_message = record.trigger.kind is TriggerKind.KERNEL_MESSAGE
    return item.position is None and is_message and merges(record) and not is_refused(record)


def _slim(record: Record, policy: Policy) -> Record:
    """Return a hold for a user's table without the tables of other users, if it is decided alike without them."""
    seen, about = record.observation, concerned(record)
    others = [table for table in seen.tables if table.user_owned and table is not about]
    users = isinstance(record.decision, Hold) and (record.decision.reason in UNTRUSTED or subject(record) == USERS)
    if not users or not others:
        return record
    slim = replace(
        seen,
        tables=tuple(table for table in seen.tables if table is about or not table.user_owned),
        small_tables=seen.small_tables + len(others),
        small_entries=seen.small_entries + sum(table.count for table in others),
        small_user_owned_entries=seen.small_user_owned_entries + sum(table.count for table in others),
    )
    is_alike = decide(record.trigger, slim, record.state, policy) == record.decision
    return replace(record, observation=slim) if is_alike else record


def _subject(record: Record) -> str:
    """Return the subject of a log message: the fingerprint, but for a hold without its trigger.

    A hold that needs an operator is news again once packets are dropped.
    """
    decision, about, table = record.decision, subject(record), concerned(record)
    if not isinstance(decision, Hold) or decision.reason is HoldReason.HISTORICAL:
        return fingerprint(record)
    if about is None and table is not None:
        about = USERS if table.user_owned else table.namespace
    return f"{about}|{decision.reason.code}|{record.observation.limit}|{needs_operator(record) and is_dropping(record)}"
