"""`guard status` for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from conntrackd_guard.actions.status import Status
from conntrackd_guard.cli.render.console import local, print_line
from conntrackd_guard.core.budget import fullest_first
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.model import Hold, Raise, Table
from conntrackd_guard.core.records import ACTIONABLE, table_name
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_bytes, format_duration

_BAR_CELLS = 20
_NARROW = 100
"""Columns below which bars are half as long, so that a table's name mostly fits beside its bar."""
_TABLES_SHOWN = 15
_NAME = 14


def print_status(console: Console, status: Status) -> None:
    """Print how things stand, the state of the service first, what could not be read last."""
    seen = status.observation
    lines = [("in short", *in_short(status)), ("guard", *guard_text(status)), *service_lines(status)]
    for name, text, style in [*lines, ("limit", limit_text(status), "bold")]:
        _line(console, name, Text(printable(text), style=style))
    tables = fullest_first(seen)
    cells = _BAR_CELLS // 2 if console.is_terminal and console.width < _NARROW else _BAR_CELLS
    for number, table in enumerate(tables[:_TABLES_SHOWN]):
        _line(console, "" if number else "tables", _table(table, seen.limit or 0, cells))
    rest = max(0, len(tables) - _TABLES_SHOWN)
    if not_shown := rest_text(rest, seen.idle_tables):
        _line(console, "", Text(not_shown))
    cost = status.cost
    memory = (
        f"{format_bytes(cost.now_bytes)} now, {format_bytes(cost.full_bytes)} if every table in use were full; "
        f"budget {format_bytes(cost.budget_bytes)}"
    )
    _line(console, "memory", Text(memory))
    _line(
        console,
        "headroom",
        Text(
            f"{format_bytes(cost.headroom_bytes)} for entries ({format_bytes(cost.available_bytes)} available, "
            f"{format_bytes(cost.min_available_bytes)} of it reserved)"
        ),
    )
    step, style = next_step_text(status.next_step)
    _line(console, "next step", Text(step, style=style))
    if status.last is not None:
        last = f"{local(status.last.last_seconds)}  #{status.last.id}  {printable(status.last.sentence)}"
        _line(console, "last decision", Text(last))
    else:
        _line(console, "last decision", Text("none recorded"))
    for text in status.unread:
        _line(console, "not read", Text(printable(text), style="yellow"))


def in_short(status: Status) -> tuple[str, str]:
    """Return in one line whether the guard does its work and how full it is, and the style of the graver one."""
    told = (_guard_in_short(status), _tables_in_short(status))
    style = next(style for style in ("bold red", "yellow", "green") if style in {found for _, found in told})
    return "; ".join(text for text, _ in told), style


def _guard_in_short(status: Status) -> tuple[str, str]:  # noqa: PLR0911 - one return a state
    live = status.live or {}
    if not status.running:
        if status.running is None:
            return "it can't be told whether a guard runs", "yellow"
        return f"NO GUARD{f' IN MODE {status.mode}' if status.other_runs else ''} RUNS", "bold red"
    if status.silent:
        return "the guard IS SILENT", "bold red"
    if status.degraded:
        why = {"stand-off": live.get("conflict"), "over budget": live.get("over_budget")}
        told = ", ".join(name for name, holds in why.items() if holds)
        return f"the guard NEEDS A PERSON: {told or 'trouble'}", "bold red"
    if status.observation.pause is not None:
        return "raising IS PAUSED", "yellow"
    if status.live is None:
        return "the guard is starting", "yellow"
    return "the guard watches" if status.mode is Mode.ACT else "the guard rehearses", "green"


def _tables_in_short(status: Status) -> tuple[str, str]:
    seen, step = status.observation, status.next_step
    if seen.limit is None:
        return "nothing is tracked", "green"
    table = max(seen.tables, key=lambda table: (table.dropped or 0, table.count), default=None)
    if table is None:
        return "no table could be read", "yellow"
    if not seen.limit:
        return f"no limit, and {table.count:,} entries in the fullest table", "green"
    share = table.count / seen.limit
    text = f"the fullest table is at {int(100 * share)} % of {seen.limit:,}"
    if table.dropped or share >= 1:
        text = f"the table of {table_name(table)} {'DROPS' if table.dropped else 'IS FULL'} at {seen.limit:,}"
    bound = isinstance(step, Hold) and step.reason in ACTIONABLE
    return f"{text}, and no raise is left" if bound else text, use_style(share, dropping=bool(table.dropped))


def rest_text(rest: int, idle: int) -> str:
    """Return how many tables are not shown, and why; nothing where all are."""
    told = [f"{rest:,} more"] * bool(rest) + [f"{idle:,} empty"] * bool(idle)
    return f"and {' and '.join(told)}" if told else ""


def service_lines(status: Status) -> list[tuple[str, str, str]]:
    """Return what there is to say about the guard beside that it runs: (name, text, style); what is well has no style."""
    live = status.live or {}
    lines: list[tuple[str, str, str]] = []
    if status.running and live:
        sources: dict[str, Any] = live.get("sources") or {}
        told = f"ring buffer {sources.get('ring_buffer', 'unknown')}, journal {sources.get('journal', 'unknown')}"
        lines.append(("events from", told, ""))
        lines += [("", str(note), "yellow") for note in sources.get("notes") or []]
        lines += [("trouble", str(text), "bold red") for text in (live.get("recorder") or {}).get("trouble") or []]
    if live.get("conflict"):
        lines.append(("stand-off", "another writer keeps lowering the limit; `guard resume` ends it", "bold red"))
    if live.get("over_budget"):
        text = "the limit kept from the last boot is more than this host can bear; `guard revert --all` undoes it"
        lines.append(("over budget", text, "bold red"))
    pause = status.observation.pause
    if pause is not None:
        lines.append(("paused", f"by {pause.by}{f': {pause.reason}' if pause.reason else ''}", "bold yellow"))
    return lines


def guard_text(status: Status) -> tuple[str, str]:
    """Return whether the guard runs and does its work, and the style of that."""
    if status.running is None:
        return "it can't be told whether it runs", "yellow"
    if not status.running:
        acting = status.mode is Mode.ACT
        text = "not running: nothing is raised" if acting else "not running: nothing is rehearsed"
        if status.other_runs:
            other, flag = (Mode.DRY_RUN, "--dry-run") if acting else (Mode.ACT, "--no-dry-run")
            return f"{text}; one in mode {other} runs: `guard status {flag}` shows it", "bold red"
        start = "systemctl start conntrackd-guard" if acting else "sudo guard run --dry-run"
        return f"{text}; {start}", "bold red"
    if status.live is None:
        return f"starting, pid {status.holder}: it has said nothing yet", "yellow"
    since = status.live.get("since")
    since_text = f" since {local(since)}" if isinstance(since, int | float) else ""
    text = f"running{since_text}, pid {status.holder}, mode {status.live.get('mode')}"
    if status.silent:
        silent = format_duration(status.silent_seconds)
        return f"{text}, silent for {silent}: it hangs or was stopped; systemctl restart conntrackd-guard", "bold red"
    return text, "green"


def limit_text(status: Status) -> str:
    """Return the limit in words."""
    seen = status.observation
    if seen.limit is None:
        return "none: this kernel tracks no connections yet"
    buckets = "unknown" if seen.buckets is None else f"{seen.buckets:,}"
    real = "" if seen.kernel_limit == seen.limit else f" rehearsed ({seen.kernel_limit or 0:,} in force)"
    return f"{'unlimited (0)' if seen.limit == 0 else f'{seen.limit:,}'}{real} entries a namespace, {buckets} buckets"


def use_style(share: float, *, dropping: bool) -> str:
    """Return the colour of a table's use."""
    return "bold red" if share >= 0.95 or dropping else "yellow" if share >= 0.8 else "green"  # noqa: PLR2004


def _table(table: Table, limit: int, cells: int) -> Text:
    """Return one table as a bar, its share, count, drops and name."""
    share = table.count / limit if limit else 0.0
    style = use_style(share, dropping=bool(table.dropped))
    filled = min(cells, round(share * cells))
    text = Text("█" * filled, style=style) + Text("░" * (cells - filled), style="dim")
    drops = "drops unknown" if table.drop is None else f"{table.drop:,} dropped so far"
    text.append(f" {100 * share:5.1f} %  {table.count:>9,}  {drops}")
    if table.dropped:
        text.append(f", {table.dropped:,} of them just now", "bold red")
    text.append(f"  {table_name(table)}")
    if table.demand_per_second and table.demand_per_second >= 1:
        text.append(f"  +{table.demand_per_second:,.0f}/s", "yellow")
    return text


def next_step_text(decision: Raise | Hold) -> tuple[str, str]:
    """Return what would happen if the fullest table filled up now, and its style."""
    advice = "".join(f" {text}" for text in decision.advice)
    if isinstance(decision, Raise):
        cost = format_bytes(decision.arithmetic.cost_bytes)
        step = f"a raise to {decision.target:,} if the fullest table filled up now, worst case {cost}"
        return f"{step}{'.' if advice else ''}{advice}", "green"
    return f"none, if the fullest table filled up now: {decision.reason.sentence}{advice}", "bold red"


def _line(console: Console, name: str, text: Text) -> None:
    """Print a named line; on a terminal its text wraps beside its name."""
    whole = Text(f"{name:>{_NAME}}: " if name else " " * (_NAME + 2), style="cyan") + text
    if not console.is_terminal:
        print_line(console, whole)
        return
    grid = Grid.grid(padding=0)
    grid.add_column(width=_NAME + 2)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"{name:>{_NAME}}: " if name else "", style="cyan"), text)
    console.print(grid)
