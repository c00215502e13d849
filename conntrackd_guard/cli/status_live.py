"""`guard status --watch`: how things stand, redrawn in place until Ctrl-C. Fits 80 columns."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from conntrackd_guard import status
from conntrackd_guard.cli import status_text
from conntrackd_guard.core import pressure
from conntrackd_guard.core.cost import fullest_first
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.model import Table
from conntrackd_guard.core.units import format_bytes, format_duration
from conntrackd_guard.history import History, Row
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.status import Status
from conntrackd_guard.views.printable import printable
from conntrackd_guard.views.text import afterwards_text, local

REFRESH_SECONDS = 2.0
"""As often as the loop tells of itself."""
SPARK_SECONDS = 300
_SPARK_CELLS = 10
_SPARKS = "▁▂▃▄▅▆▇█"
_BAR_CELLS = 8
_DECISIONS = 3
_OTHER_LINES = 19
"""Lines of the view that are no table."""
_MOST_LOOKS = 200
_MOST_TABLES = 64
"""More than any screen shows."""


class Sight:
    """What was seen up to now: `add` each status, then `rates` and `spark` tell of the time between."""

    def __init__(self) -> None:
        self._before: dict[int, Table] = {}
        self._now: dict[int, Table] = {}
        self._elapsed = 0.0
        self._at: float | None = None
        self._uses: dict[int, deque[tuple[float, float]]] = {}

    def add(self, found: Status) -> None:
        """Take one status more."""
        seen = found.observation
        self._elapsed = 0.0 if self._at is None else seen.boottime_seconds - self._at
        self._at = seen.boottime_seconds
        self._before, self._now = self._now, {table.namespace: table for table in seen.tables}
        for table in fullest_first(seen)[:_MOST_TABLES]:
            self.remember(table.namespace, seen.wall_seconds, table.count / (seen.limit or 1))
        for name in self._uses.keys() - self._now.keys():
            del self._uses[name]

    def remember(self, namespace: int, wall_seconds: float, use: float) -> None:
        """Take one point for the sparkline: from history at first, and then what is seen."""
        self._uses.setdefault(namespace, deque(maxlen=_MOST_LOOKS)).append((wall_seconds, use))

    def rates(self, table: Table) -> tuple[float, float] | None:
        """Return the net growth and the refused (dropped and evicted) a second; None before two looks."""
        before = self._before.get(table.namespace)
        if before is None or self._elapsed <= 0:
            return None
        lost = pressure.risen(before.drop, table.drop) + pressure.risen(before.early_drop, table.early_drop)
        return (table.count - before.count) / self._elapsed, lost / self._elapsed

    def spark(self, namespace: int, now: float) -> str:
        """Return the last minutes' use: the highest of each cell's time, blank where nothing was seen."""
        width = SPARK_SECONDS / _SPARK_CELLS
        highest: dict[int, float] = {}
        for at, use in self._uses.get(namespace, ()):
            cell = _SPARK_CELLS - 1 - int((now - at) / width)
            highest[cell] = max(highest.get(cell, 0.0), use)
        return "".join(_block(highest[cell]) if cell in highest else " " for cell in range(_SPARK_CELLS))


def _block(use: float) -> str:
    return _SPARKS[max(0, min(len(_SPARKS) - 1, int(use * len(_SPARKS))))]


def watch(console: Console, paths: Paths) -> None:
    """Redraw until interrupted."""
    sight = Sight()
    with Live(console=console, screen=True, auto_refresh=False) as live, suppress(KeyboardInterrupt):
        for point, age in _past(paths):
            sight.remember(point[0], age, point[1])
        while True:
            found = status.gather(paths)
            sight.add(found)
            live.update(view(found, sight, _last(paths), console.height), refresh=True)
            time.sleep(REFRESH_SECONDS - status.LOOK_SECONDS)


def _past(paths: Paths) -> list[tuple[tuple[int, float], float]]:
    """Return the last minutes from history as ((namespace, use), wall time); nothing where it can't be read."""
    now = time.time()
    with suppress(GuardError), History(paths.history, mode="reader") as history:
        points = history.points(now - SPARK_SECONDS, now, 5)
        return [((point.namespace, point.count / (point.limit or 1)), float(point.at)) for point in points]
    return []


def _last(paths: Paths) -> list[Row]:
    """Return the last decisions; none where they can't be read, which `Status.unread` tells."""
    with suppress(GuardError), History(paths.history, mode="reader") as history:
        return list(history.rows(last=_DECISIONS))
    return []


def view(found: Status, sight: Sight, last: list[Row], height: int) -> RenderableType:
    """Return one picture of `height` lines at most."""
    seen = found.observation
    head = Text(no_wrap=True, overflow="ellipsis")
    text, style = status_text.guard_text(found)
    head.append(f"{local(seen.wall_seconds)}  ", "bold").append(printable(text), style)
    lines: list[RenderableType] = [head, _cut(f"limit {status_text.limit_text(found)}", "bold"), Text()]
    lines += [_tables(found, sight, max(1, height - _OTHER_LINES)), Text()]
    cost = found.cost
    memory = f"{format_bytes(cost.now_bytes)} now, {format_bytes(cost.full_bytes)} if all in use were full"
    lines.append(_cut(f"memory     {memory}; budget {format_bytes(cost.budget_bytes)}"))
    available = f"{format_bytes(cost.headroom_bytes)} for entries; {format_bytes(cost.available_bytes)} available"
    lines.append(_cut(f"headroom   {available}, {format_bytes(cost.reserve_bytes)} of it reserved"))
    step, style = status_text.next_step_text(found.next_step)
    lines += [_cut(f"next step  {step}", style), Text()]
    lines += _decisions(last)
    lines += [_cut(f"not read   {printable(text)}", "yellow") for text in found.unread[:2]]
    return Group(*lines, _cut("Ctrl-C ends; growth is net: entries that came less those that went", "dim"))


def _decisions(last: list[Row]) -> list[RenderableType]:
    """Return two lines a decision, the newest first."""
    lines: list[RenderableType] = []
    for row in last:
        lines.append(_cut(f"#{row.id} {local(row.last_seconds)}  {printable(row.sentence)}"))
        if row.follow_up is not None:
            told = Text("   ", no_wrap=True, overflow="ellipsis") + afterwards_text(row.follow_up)
            lines.append(told)
    return lines or [_cut("no decision is recorded")]


def _tables(found: Status, sight: Sight, most: int) -> RenderableType:
    """Return a row for each of the fullest tables."""
    seen, limit = found.observation, found.observation.limit or 0
    grid = Grid.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis", min_width=10)
    for width, justify in ((_BAR_CELLS, "left"), (5, "right"), (11, "right"), (_SPARK_CELLS, "left")):
        grid.add_column(width=width, justify=justify, no_wrap=True)  # type: ignore[arg-type] # two of its literals
    for width in (8, 7, 8):
        grid.add_column(width=width, justify="right", no_wrap=True)
    heads = ("TABLE", "USE", "", "ENTRIES", "5 MINUTES", "GROWTH/s", "DROPS/s", "FULL IN")
    grid.add_row(*(Text(head, style="bold") for head in heads))
    tables = fullest_first(seen)
    for table in tables[:most]:
        grid.add_row(*_row(table, limit, sight, seen.wall_seconds))
    rest = max(0, len(tables) - most)
    more = f"and {rest} tables more; " if rest else ""
    return Group(grid, _cut(f"{more}{seen.idle_tables} tracking namespaces hold nothing", "dim"))


def _row(table: Table, limit: int, sight: Sight, now: float) -> list[Text]:
    use = table.count / limit if limit else 0.0
    rates = sight.rates(table)
    growth, lost = rates if rates is not None else (None, None)
    wanted = None if growth is None or lost is None else growth + lost
    left = pressure.seconds_to_full(table.count, limit, wanted) if wanted and wanted > 0 and limit else None
    style = status_text.use_style(use, dropping=bool(lost))
    filled = min(_BAR_CELLS, round(use * _BAR_CELLS))
    bar = Text("█" * filled, style=style) + Text("░" * (_BAR_CELLS - filled), style="dim")
    return [
        Text(printable(table.label) or f"netns {table.namespace}"),
        bar,
        Text(f"{100 * use:.0f} %", style=style),
        Text(f"{table.count:,}"),
        Text(sight.spark(table.namespace, now), style=style),
        Text("" if growth is None else f"{growth:+,.0f}"),
        Text("" if lost is None else f"{lost:,.0f}", style="bold red" if lost else ""),
        Text("" if left is None else format_duration(left, parts=1) if left >= 1 else "now"),
    ]


def _cut(text: str, style: str = "") -> Text:
    """Return a line that never wraps."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
