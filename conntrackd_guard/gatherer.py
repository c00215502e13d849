"""Gathers points for the time series: the loop notes what its looks show, the recorder's thread takes them.

Nothing is read for it, but for one look a minute while no table is near its limit. Where the disk
stalls, the oldest points are given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from conntrackd_guard.core.model import Table
from conntrackd_guard.core.pressure import risen
from conntrackd_guard.core.series import Point

IDLE_SECONDS = 60
"""While nothing else asks for a look, there is one for a point this often."""
MOST_POINTS = 4_000
"""Those of four minutes with 16 tables a second, about 0.25 KB each."""
_MOST_KNOWN = 1_000
"""Drop counters remembered; beyond, all are forgotten, and one rise of each is not told."""
_LONGEST_LABEL = 60


class Gatherer:
    """`is_due` and `note` are for the loop, `take` for the recorder's thread."""

    def __init__(self) -> None:
        self._closed: deque[Point] = deque(maxlen=MOST_POINTS)
        self._open: dict[int, Point] = {}
        """Those of the second that is not over yet."""
        self._second = 0
        self._looked_seconds = 0.0
        self._counters: dict[int, tuple[int | None, int | None]] = {}

    def is_due(self, wall_seconds: float) -> bool:
        """Return whether there was no look for so long that one is to be made for the series."""
        return not 0 <= wall_seconds - self._looked_seconds < IDLE_SECONDS

    def note(self, tables: Sequence[Table], limit: int, wall_seconds: float) -> None:
        """Note a look: of each table and second the most entries, and all that its counters rose by."""
        if tables or self.is_due(wall_seconds):
            self._looked_seconds = wall_seconds
        if not tables:
            return
        second = int(wall_seconds)
        if second != self._second:
            self._closed.extend(self._open.values())
            self._open = {}
            self._second = second
        if len(self._counters) > _MOST_KNOWN:
            self._counters = {}
        for table in tables:
            drop, early_drop = self._counters.get(table.namespace, (None, None))
            self._counters[table.namespace] = (table.drop, table.early_drop)
            before = self._open.get(table.namespace)
            self._open[table.namespace] = Point(
                at=second,
                namespace=table.namespace,
                label=table.label[:_LONGEST_LABEL] if before is None else before.label,
                limit=limit,
                count=table.count if before is None else max(table.count, before.count),
                dropped=risen(drop, table.drop) + (0 if before is None else before.dropped),
                evicted=risen(early_drop, table.early_drop) + (0 if before is None else before.evicted),
            )

    def take(self) -> list[Point]:
        """Return the points gathered since, but for those of the second that is not over."""
        taken = []
        while self._closed:
            taken.append(self._closed.popleft())
        return taken
