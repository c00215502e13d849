"""Collect points for the time series: the main loop adds its readings, the recorder's thread takes the points.

Nothing is read for it, but for one reading a minute while no table is near its limit. A reading has some of the tables;
the others count as they were last read. While the disk stalls, the oldest points are dropped.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from conntrackd_guard.core.model import Table
from conntrackd_guard.core.usage import risen
from conntrackd_guard.history.series import MOST_TABLES, OTHERS, Point

IDLE_SECONDS = 60
"""Without other readings, one is made for the series at this interval."""
MOST_POINTS = 4_000
"""Three minutes of MOST_TABLES and the others each second, about 0.25 KB a point."""
_LONGEST_LABEL = 60
_TABLES_COMPARED = 1_000
"""Tables compared each second to find the fullest; with more, all are compared every few seconds."""


@dataclass(slots=True)
class _Known:
    """A table as it was last read, and its figures of the current second."""

    label: str
    count: int
    drop: int | None
    early_drop: int | None
    peak: int
    dropped: int = 0
    evicted: int = 0


class SeriesCollector:
    """`is_due` and `note` are for the main loop, `take` for the recorder's thread."""

    def __init__(self) -> None:
        self._closed: deque[Point] = deque(maxlen=MOST_POINTS)
        self._known: dict[int, _Known] = {}
        self._read: dict[int, _Known] = {}
        """Those read in the current second: the others' figures are as they were."""
        self._fullest: dict[int, _Known] = {}
        """Of the last second."""
        self._entries = self._seconds = 0
        """Of all known tables; and for how many further seconds only those read can become one of the fullest."""
        self._present: frozenset[int] = frozenset()
        self._second = self._limit = 0
        self._read_seconds = 0.0

    def is_due(self, wall_seconds: float) -> bool:
        """Return whether the last reading is IDLE_SECONDS old."""
        return not 0 <= wall_seconds - self._read_seconds < IDLE_SECONDS

    def note(self, tables: Sequence[Table], present: frozenset[int], limit: int, wall_seconds: float) -> None:
        """Add a reading of `tables`, some of the namespaces `present`: each second's peaks, and the rise of counters."""
        if tables or self.is_due(wall_seconds):
            self._read_seconds = wall_seconds
        if not tables:
            return
        if int(wall_seconds) != self._second:
            self._close_second()
            self._second = int(wall_seconds)
        self._limit = limit
        if present is not self._present:
            self._known = {name: known for name, known in self._known.items() if name in present}
            self._present, self._seconds = present, 0
            self._entries = sum(known.count for known in self._known.values())
            self._read = {name: known for name, known in self._read.items() if name in self._known}
        for table in tables:
            label, known = table.label[:_LONGEST_LABEL], self._known.get(table.namespace)
            if known is None:
                known = _Known(label, table.count, table.drop, table.early_drop, peak=table.count)
                self._known[table.namespace] = known
                self._entries += known.count
            self._read[table.namespace] = known
            if not label.startswith("process "):  # the process that leads to it changes, the table does not
                known.label = label
            self._entries += table.count - known.count
            known.count, known.peak = table.count, max(known.peak, table.count)
            known.dropped += risen(known.drop, table.drop)
            known.evicted += risen(known.early_drop, table.early_drop)
            known.drop, known.early_drop = table.drop, table.early_drop

    def take(self) -> list[Point]:
        """Return the points since the last call, without the current second."""
        return [self._closed.popleft() for _ in range(len(self._closed))]

    def _close_second(self) -> None:
        """Add points for the fullest tables, and one for the sum of the others."""
        among = self._known
        if self._seconds > 0:
            self._seconds, among = self._seconds - 1, self._fullest | self._read
        else:
            self._seconds = len(self._known) // _TABLES_COMPARED
        self._fullest = fullest = dict(heapq.nlargest(MOST_TABLES, among.items(), key=lambda item: item[1].peak))
        others, dropped, evicted = self._entries, 0, 0
        for known in self._read.values():
            others += known.peak - known.count
            dropped, evicted = dropped + known.dropped, evicted + known.evicted
        for name, known in fullest.items():
            figures = (known.peak, known.dropped, known.evicted)
            self._closed.append(Point(self._second, name, known.label, self._limit, *figures))
            others, dropped, evicted = others - known.peak, dropped - known.dropped, evicted - known.evicted
        if len(self._known) > len(fullest):
            self._closed.append(Point(self._second, 0, OTHERS, self._limit, others, dropped, evicted))
        for known in self._read.values():
            known.peak, known.dropped, known.evicted = known.count, 0, 0
        self._read = {}
