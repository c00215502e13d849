"""What the recorder writes into history: a row for each record, a count for what is only said again, the position."""

from __future__ import annotations

import platform
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.model import Record
from conntrackd_guard.core.records import changes_state, identity, is_refused, merges
from conntrackd_guard.history import file
from conntrackd_guard.history.database import History, HistoryDamaged, Position

if TYPE_CHECKING:
    from conntrackd_guard.recording.recorder import Item

_KNOWN_KEPT = 500
LOG_AGAIN_SECONDS = 3600.0
"""A hold that lasts is logged once an hour."""
NEWS_SECONDS = 3600.0
"""Not decided again for as long, a hold that comes back is a row of its own, and logged."""


@dataclass(slots=True)
class _Known:
    """News that history has a row for."""

    row_id: int
    logged_seconds: float
    last_wall_seconds: float
    unwritten: int = 0


class HistoryWriter:
    """Opens the history at the first need. Methods raise HostError, HistoryDamaged where it is to be `set_aside`."""

    def __init__(self, path: Path, retention_seconds: float, max_rows: int, say: Callable[..., None]) -> None:
        self._path, self._say = path, say
        self._retention_seconds, self._max_rows = retention_seconds, max_rows
        self._history: History | None = None
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self.position: Position | None = None
        """How far all is taken in that was written so far; None where that is written too."""
        self.began_anew = False
        """A damaged history was set aside: what this boot did is not known."""

    def history(self) -> History:
        """Return the open history; a damaged one is set aside and said."""
        if self._history is None:
            self._history, note = History.open_or_set_aside(self._path, time.time())
            if note:
                self.began_anew = True
                self._say("guard.error", "error", note, subject="history")
        return self._history

    def set_aside(self, damage: HistoryDamaged) -> None:
        """Move a history aside that turned out damaged in use; the next need begins a new one."""
        self.close()
        self._known.clear()
        self.began_anew = True
        self._say("guard.error", "error", file.set_aside(self._path, time.time(), damage), subject="history")

    def close(self) -> None:
        """Close the history."""
        if self._history is not None:
            self._history.close()
        self._history = None

    def write(self, item: Item) -> None:
        """Write the row, or count a repeat of one; what was told within the hour is marked as logged."""
        record, now = item.record, item.record.observation.boottime_seconds
        known = self._same_news(record) if merges(record) else None
        if known is None:
            row_id = self._add(item, None)
            if changes_state(record):
                self._known.clear()  # an equal hold is news after this
            if merges(record):
                more = 0 if is_refused(record) else item.times - 1
                known = _Known(row_id, now, item.last_wall_seconds, more)
                self._remember(identity(record), known)
                self._count(known)  # the row's position covers all of them: a kill must not lose the count
            return
        if now - known.logged_seconds < LOG_AGAIN_SECONDS:
            item.logged = True
        else:
            known.logged_seconds = now
        if is_refused(record):  # the state is folded from it: written at once, with its evidence
            self._add(item, known.row_id)
        else:
            known.unwritten += item.times
            self.position = item.position or self.position
        known.last_wall_seconds = item.last_wall_seconds

    def row_id(self, record: Record) -> int:
        """Return the row of news that was just written, 0 without one."""
        known = self._known.get(identity(record))
        return 0 if known is None else known.row_id

    def flush(self) -> None:
        """Write the repeats counted in memory, then the position: it never runs ahead of what it covers."""
        for known in self._known.values():
            self._count(known)
        if self.position is not None:
            self.history().save_position(self.position)
            self.position = None

    def prune(self) -> None:
        """Delete what is older than it is to be kept, and the oldest of too many."""
        self.history().prune(time.time(), self._retention_seconds, self._max_rows)

    def _same_news(self, record: Record) -> _Known | None:
        """Return the row that says the same, None where there is none or it was last said long ago."""
        name, seen = identity(record), record.observation
        known = self._known.get(name)
        if known is None:
            found = self.history().find_identity(name, seen.boot_id)
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
        self.flush()
        return self.history().add(
            item.record,
            policy=item.policy,
            sentence=sentence(item.record),
            kernel_release=platform.release(),
            position=item.position,
            again=again,
        )

    def _count(self, known: _Known) -> None:
        if known.unwritten:
            self.history().merge(known.row_id, known.unwritten, known.last_wall_seconds)
            known.unwritten = 0
