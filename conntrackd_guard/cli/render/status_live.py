"""`guard status --watch`: the status, redrawn in place until Ctrl-C. Fits 80 columns."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import compress
from typing import Final, Literal, TypeVar

from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from conntrackd_guard.actions import status
from conntrackd_guard.actions.status import Status
from conntrackd_guard.cli.render import console as terminal
from conntrackd_guard.cli.render import status_text
from conntrackd_guard.cli.render.console import local
from conntrackd_guard.cli.render.decision_text import result_text
from conntrackd_guard.core import usage
from conntrackd_guard.core.budget import fullest_first
from conntrackd_guard.core.errors import AnswerIsNo, GuardError
from conntrackd_guard.core.limits import is_unlimited
from conntrackd_guard.core.model import Table
from conntrackd_guard.core.text import printable, short
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.history.database import History, Row
from conntrackd_guard.host import disk
from conntrackd_guard.host.conntrack.observer import LOOK_SECONDS
from conntrackd_guard.host.paths import Paths

_T = TypeVar("_T")

REFRESH_SECONDS = 2.0
"""The daemon publishes its status as often."""
SPARK_SECONDS = 300
_SPARK_CELLS = 10
_SPARKS = "▁▂▃▄▅▆▇█"
_BAR_CELLS = 8
_DECISIONS = 3
_TABLE_FRAME = 4
"""Lines about the tables that are no table: two empty ones, the heading, the number of those not shown."""
_TALL = 36
"""From this height on each decision has three lines instead of one."""
_WIDE = 76
"""Columns that all of _COLUMNS take."""
_COLUMNS: Final[tuple[tuple[str, int, Literal["left", "right"]], ...]] = (
    ("TABLE", 0, "left"),
    ("USE", _BAR_CELLS, "left"),
    ("", 5, "right"),
    ("ENTRIES", 11, "right"),
    ("5 MINUTES", _SPARK_CELLS, "left"),
    ("GROWTH/s", 8, "right"),
    ("DROPS/s", 7, "right"),
    ("FULL IN", 8, "right"),
)
"""Heading, width (0: what is left) and side."""
_FEW = frozenset({"TABLE", "", "ENTRIES", "DROPS/s"})
"""The columns of a narrow terminal."""
_MOST_LOOKS = 200
_MOST_TABLES = 64
"""More than any screen shows."""


class LiveView:
    """Every status so far: `add` each, then `rates` and `spark` return the change between them."""

    def __init__(self) -> None:
        self._before: dict[int, Table] = {}
        self._now: dict[int, Table] = {}
        self._at = self._elapsed = 0.0
        self._uses: dict[int, deque[tuple[float, float]]] = {}

    def add(self, found: Status) -> None:
        """Add one status."""
        seen = found.observation
        self._elapsed, self._at = seen.boottime_seconds - self._at, seen.boottime_seconds
        self._before, self._now = self._now, {table.namespace: table for table in seen.tables}
        for table in fullest_first(seen)[:_MOST_TABLES]:
            self.remember(table.namespace, seen.wall_seconds, use_of(table.count, seen.limit))
        for name in self._uses.keys() - self._now.keys():
            del self._uses[name]

    def remember(self, namespace: int, wall_seconds: float, use: float) -> None:
        """Add one point of the sparkline: at first from history, then from each status."""
        self._uses.setdefault(namespace, deque(maxlen=_MOST_LOOKS)).append((wall_seconds, use))

    def rates(self, table: Table) -> tuple[float, float] | None:
        """Return net growth and drops (evictions included) per second; None before the second status."""
        before = self._before.get(table.namespace)
        if before is None or self._elapsed <= 0:
            return None
        lost = usage.risen(before.drop, table.drop) + usage.risen(before.early_drop, table.early_drop)
        return (table.count - before.count) / self._elapsed, lost / self._elapsed

    def with_drops(self, found: Status) -> Status:
        """Return the status with all drops since the last picture: more than between its own two readings."""
        tables, near = [], usage.NEAR_USE * (found.observation.kernel_limit or math.inf)
        for table in found.observation.tables:
            before = self._before.get(table.namespace)
            dropped = 0 if before is None or table.count < near else usage.risen(before.drop, table.drop)
            tables.append(replace(table, dropped=max(dropped, table.dropped or 0)))
        return replace(found, observation=replace(found.observation, tables=tuple(tables)))

    def spark(self, namespace: int, now: float) -> str:
        """Return the use over 5 min: the highest of each cell's time, blank if there is no data."""
        width = SPARK_SECONDS / _SPARK_CELLS
        highest: dict[int, float] = {}
        for at, use in self._uses.get(namespace, ()):
            cell = _SPARK_CELLS - 1 - int((now - at) / width)
            highest[cell] = max(highest.get(cell, 0.0), use)
        return "".join(
            _SPARKS[min(len(_SPARKS) - 1, int(highest[cell] * len(_SPARKS)))] if cell in highest else " "
            for cell in range(_SPARK_CELLS)
        )


def use_of(count: int, limit: int | None) -> float:
    """Return how full a table is, from 0 to 1; 0 without a limit."""
    return count / limit if limit and not is_unlimited(limit) else 0.0


def watch(console: Console, paths: Paths) -> None:
    """Redraw until interrupted. Raises AnswerIsNo for a terminal that can't."""
    if not console.is_terminal or console.is_dumb_terminal:
        text = "`guard status --watch` needs a terminal that can redraw; `guard status --json` is for programs."
        raise AnswerIsNo(text)
    live, now = LiveView(), time.time()
    for point in _read(
        paths, lambda history: history.points(now - SPARK_SECONDS, now, 5)
    ):  # sparklines begin with them
        live.remember(point.namespace, point.at, use_of(point.count, point.limit))
    while True:
        found = status.gather(paths)
        live.add(found)
        last = _read(paths, lambda history: history.rows(last=_DECISIONS))
        with console.capture() as drawn:
            console.print(view(found, live, last, console))
        terminal.redraw(console, drawn.get())
        time.sleep(REFRESH_SECONDS - LOOK_SECONDS)


def _read(paths: Paths, ask: Callable[[History], Iterable[_T]]) -> list[_T]:
    """Return what the history answers; nothing if it can't be read: `Status.unread` has the error."""

    def read() -> list[_T]:
        with History(paths.history, mode="reader") as history:
            return list(ask(history))

    with suppress(GuardError):
        return disk.answer(read, "read", paths.history, disk.AT_ITS_END)
    return []


def view(found: Status, live: LiveView, last: list[Row], console: Console) -> RenderableType:
    """Return one picture that fits the console: problems first, then as many tables as there is room for."""
    seen, most = found.observation, 3 if console.height >= _TALL else 1
    text, style = status_text.summary(live.with_drops(found))
    above = _wrapped(console, f"{local(seen.wall_seconds)}  {text}", 2, style)
    lines = [
        ("daemon", *status_text.daemon_text(found)),
        *filter(lambda line: line[2], status_text.daemon_lines(found)),
    ]
    lines.append(("limit", status_text.limit_text(found), ""))
    above += _named(console, lines, 1)
    below = [*_named(console, status_text.outlook_lines(found), 2), Text(), *_decisions(console, last, most)]
    below += _named(console, [("note", text, "yellow") for text in found.unread[:2]], most)
    below += _wrapped(console, "Ctrl-C ends. Growth is net: added minus removed. FULL IN assumes it goes on.", 1, "dim")
    room = console.height - 1 - len(above) - len(below) - _TABLE_FRAME
    return Group(*above, Text(), _tables(found, live, max(1, room), console.width), Text(), *below)


def _decisions(console: Console, last: list[Row], most: int) -> list[Text]:
    """Return the last decisions and their verification, the newest first, `most` lines each."""
    lines: list[Text] = []
    for row in last:
        lines += _wrapped(console, f"#{row.id} {local(row.last_seconds)}  {row.sentence}", most)
        if row.verification is not None:
            result = result_text(row.verification)
            lines += _wrapped(console, f"   {result.plain}", most, str(result.style))
    return lines or [Text("No decision is recorded.")]


def _tables(found: Status, live: LiveView, most: int, width: int) -> RenderableType:
    """Return a row for each of the fullest tables; a narrow terminal gets fewer columns."""
    seen, limit = found.observation, found.observation.limit or 0
    shown = [width >= _WIDE or name in _FEW for name, _, _ in _COLUMNS]
    grid = Grid.grid(padding=(0, 1, 0, 0), expand=True)
    for _, size, justify in compress(_COLUMNS, shown):
        if size:
            grid.add_column(width=size, justify=justify, no_wrap=True)
        else:
            grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis", min_width=10)
    grid.add_row(*(Text(name, style="bold") for name, _, _ in compress(_COLUMNS, shown)))
    tables = fullest_first(seen)
    for table in tables[:most]:
        grid.add_row(*compress(_row(table, limit, live, seen.wall_seconds), shown))
    rest = status_text.hidden_text(max(0, len(tables) - most), seen.idle_tables)
    return Group(grid, Text(rest, style="dim")) if rest else grid


def _row(table: Table, limit: int, live: LiveView, now: float) -> list[Text]:
    use = use_of(table.count, limit)
    growth, lost = live.rates(table) or (None, None)
    wanted = growth
    if growth is not None and lost is not None and table.count >= usage.NEAR_USE * limit:
        wanted = growth + lost  # refused; below, they are lost races and failed allocations
    left = usage.seconds_to_full(table.count, limit, wanted) if wanted and wanted > 0 and limit else None
    style = status_text.use_style(use, dropping=bool(lost))
    return [
        Text(short(table.label) or f"netns {table.namespace}"),
        status_text.bar(use, _BAR_CELLS, style),
        Text(f"{100 * use:.0f} %", style=style),
        Text(f"{table.count:,}"),
        Text(live.spark(table.namespace, now), style=style),
        Text("" if growth is None else f"{growth:+,.0f}"),
        Text("" if lost is None else f"{lost:,.0f}", style="bold red" if lost else ""),
        Text("" if left is None else format_duration(left, parts=1) if left >= 1 else "now"),
    ]


def _named(console: Console, lines: Iterable[tuple[str, str, str]], most: int) -> list[Text]:
    """Return lines of (name, text, style), each wrapped."""
    return [text for name, line, style in lines for text in _wrapped(console, f"{name:9}  {line}", most, style)]


def _wrapped(console: Console, text: str, most: int, style: str = "") -> list[Text]:
    """Wrap a text from outside into `most` lines at most; an ellipsis shows that it was cut."""
    lines = terminal.wrapped(console, Text(printable(text), style=style), console.width)
    if len(lines) > most:
        lines = lines[:most]
        lines[-1].truncate(console.width - 1)
        lines[-1].append("…")
    return lines
