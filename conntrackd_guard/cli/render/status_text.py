"""`guard status` for people."""

from typing import Any

from rich.console import Console
from rich.text import Text

from conntrackd_guard.actions.status import Status
from conntrackd_guard.cli.render.console import local, print_beside
from conntrackd_guard.core import chains
from conntrackd_guard.core.budget import fullest_first
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.health import Level
from conntrackd_guard.core.limits import format_limit, is_unlimited
from conntrackd_guard.core.model import Hold, Observation, Raise, Table
from conntrackd_guard.core.records import ACTIONABLE, table_name
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_bytes, format_rate
from conntrackd_guard.daemon.status_line import sources_text

_BAR_CELLS = 20
_NARROW = 100
"""Columns below which bars are half as long, so that a table's name mostly fits beside its bar."""
_TABLES_SHOWN = 15
_NAME = 15
_HEADS = {Level.DEGRADED: "DEGRADED", Level.ACTION_REQUIRED: "ACTION NEEDED", Level.DOWN: "DOWN"}
_STYLES = {Level.DEGRADED: "yellow", Level.ACTION_REQUIRED: "bold red", Level.DOWN: "bold red"}


def print_status(console: Console, status: Status) -> None:
    """Print the status: the summary first, then the daemon, the tables and memory; last what could not be read."""
    seen = status.observation
    above = [("summary", *summary(status)), ("daemon", *daemon_text(status)), *daemon_lines(status)]
    lines = [(name, Text(printable(text), style)) for name, text, style in above]
    lines.append(("limit", Text(limit_text(status), "bold")))
    tables = fullest_first(seen)
    cells = _BAR_CELLS // 2 if console.is_terminal and console.width < _NARROW else _BAR_CELLS
    for number, table in enumerate(tables[:_TABLES_SHOWN]):
        lines.append(("" if number else "tables", _table(table, seen.limit or 0, cells)))
    if hidden := hidden_text(max(0, len(tables) - _TABLES_SHOWN), seen.idle_tables):
        lines.append(("", Text(hidden)))
    lines += [(name, Text(text, style)) for name, text, style in outlook_lines(status)]
    last = "none recorded"
    if status.last is not None:
        last = f"{local(status.last.last_seconds)}  #{status.last.id}  {printable(status.last.sentence)}"
    lines.append(("last decision", Text(last)))
    lines += [("note", Text(printable(text), "yellow")) for text in status.unread]
    for name, text in lines:
        print_beside(console, Text(f"{name:>{_NAME}}{':' if name else ' '} ", "cyan"), text)


def summary(status: Status) -> tuple[str, str]:
    """Return in one line whether the daemon works and how full the tables are, and the style of the graver part."""
    parts = (_daemon_summary(status), _tables_summary(status))
    style = next(style for style in ("bold red", "yellow", "green") if style in {found for _, found in parts})
    return "; ".join(text for text, _ in parts), style


def _daemon_summary(status: Status) -> tuple[str, str]:
    """Return the guard's health in words: its gravest reason, and how many there are."""
    found = status.health
    if not found.reasons:
        return "healthy" if status.mode is Mode.ACT else "healthy (dry run)", "green"
    more = f" (and {len(found.reasons) - 1} more below)" if len(found.reasons) > 1 else ""
    return f"{_HEADS[found.level]}: {found.reasons[0].text}{more}", _STYLES[found.level]


def _tables_summary(status: Status) -> tuple[str, str]:
    seen, step = status.observation, status.next_step
    if seen.limit is None:
        return "nothing is tracked", "green"
    table = max(seen.tables, key=lambda table: (table.dropped or 0, table.count), default=None)
    if table is None:
        return "no table could be read", "yellow"
    if is_unlimited(seen.limit):
        return f"no limit; the fullest table has {table.count:,} entries", "green"
    share = table.count / seen.limit
    text = f"fullest table at {int(100 * share)} % of {seen.limit:,}"
    if table.dropped or share >= 1:
        text = f"{'PACKETS DROPPED' if table.dropped else 'TABLE FULL'}: {table_name(table)} at {table.count:,} of {seen.limit:,}"
    if isinstance(step, Hold) and step.reason in ACTIONABLE:
        text = f"{text}, and it can't be raised further ({step.reason.label})"
    return text, use_style(share, dropping=bool(table.dropped))


def hidden_text(more: int, idle: int) -> str:
    """Return how many tables are not shown, and why; nothing if all are."""
    parts = [f"{more:,} more"] * bool(more) + [f"{idle:,} empty"] * bool(idle)
    return f"and {' and '.join(parts)}" if parts else ""


def daemon_lines(status: Status) -> list[tuple[str, str, str]]:
    """Return further lines about the daemon as (name, text, style); a line without a style reports nothing wrong."""
    sources: dict[str, Any] = (status.live or {}).get("sources") or {}
    lines = [("messages", sources_text(sources), "")] if status.running and sources else []
    lines += [("", str(note), "yellow") for note in sources.get("notes") or [] if status.running]
    for reason in status.health.reasons:
        lines.append((reason.level.replace("_", " "), reason.sentence, _STYLES[reason.level]))
    return lines


def daemon_text(status: Status) -> tuple[str, str]:
    """Return whether the daemon runs, and the style of that."""
    if status.running is None:
        return "unknown whether it runs", "yellow"
    if not status.running:
        acting = status.mode is Mode.ACT
        if not status.other_runs:
            return "not running", "bold red"
        other, flag = (Mode.DRY_RUN, "--dry-run") if acting else (Mode.ACT, "--no-dry-run")
        return f"not running; one in mode {other} runs: `guard status {flag}` shows it", "bold red"
    if status.live is None:
        return f"starting (pid {status.holder})", "yellow"
    since = status.live.get("since")
    since_text = f" since {local(since)}" if isinstance(since, int | float) else ""
    return f"running{since_text} (pid {status.holder}, mode {status.live.get('mode')})", "green"


def limit_text(status: Status) -> str:
    """Return the limit in words."""
    seen = status.observation
    if seen.limit is None:
        return "none: this kernel tracks no connections yet"
    buckets = "unknown" if seen.buckets is None else f"{seen.buckets:,}"
    real = (
        "" if seen.kernel_limit == seen.limit else f" in this dry run ({format_limit(seen.kernel_limit or 0)} in force)"
    )
    limit = format_limit(seen.limit) if is_unlimited(seen.limit) else f"{seen.limit:,} entries per namespace"
    is_below = status.min_limit is not None and 0 < seen.limit < status.min_limit
    below = f", below `min_limit` ({status.min_limit:,})" if is_below else ""
    return f"{limit}{real}{below}, {buckets} hash buckets"


def use_style(share: float, *, dropping: bool) -> str:
    """Return the colour of a table's use."""
    return "bold red" if share >= 0.95 or dropping else "yellow" if share >= 0.8 else "green"  # noqa: PLR2004


def bar(share: float, cells: int, style: str) -> Text:
    """Return a bar filled to `share`."""
    filled = min(cells, round(share * cells))
    return Text("█" * filled, style=style) + Text("░" * (cells - filled), style="dim")


def _table(table: Table, limit: int, cells: int) -> Text:
    """Return one table as a bar, its share, count, drops and name."""
    share = table.count / limit if limit else 0.0
    style = use_style(share, dropping=bool(table.dropped))
    text = bar(share, cells, style)
    drops = "drops unknown" if table.drop is None else f"{table.drop:,} dropped so far"
    text.append(f" {100 * share:5.1f} %  {table.count:>9,}  {drops}")
    if table.dropped:
        text.append(f", {table.dropped:,} of them just now", "bold red")
    text.append(f"  {table_name(table)}")
    if table.demand_per_second and table.demand_per_second >= 1:
        text.append(f"  {format_rate(table.demand_per_second, table.demand_seconds)}", "yellow")
    return text


def _losses(seen: Observation) -> list[tuple[str, str, str]]:
    """Return the packets and entries lost since boot although no table was full, and the average chain."""

    def total(name: str) -> int:
        return sum(getattr(table, name) or 0 for table in seen.tables)

    if all(table.insert_failed is None for table in seen.tables):
        return []
    parts = [f"{total('insert_failed'):,} inserts failed", f"{total('clash_resolved'):,} races resolved without a loss"]
    style, chain = "", chains.average(chains.alive(seen), seen.buckets)
    if seen.chain_limit is not False:
        average = "unknown" if chain is None else f"{chain:.1f}"
        parts.insert(0, f"{total('chain_too_long'):,} packets for long hash chains (average {average})")
        style = "bold red" if chain is not None and chain >= chains.CHAIN_HOLD else ""
        if lost := total("lost_to_chains"):
            parts[0], style = f"{parts[0]}, {lost:,} of them just now", "bold red"
    return [("losses", f"since boot {'; '.join(parts)}", style)]


def outlook_lines(status: Status) -> list[tuple[str, str, str]]:
    """Return what the tables cost, and what the daemon would do if the fullest filled up now, as (name, text, style)."""
    cost, decision = status.cost, status.next_step
    now, full, budget = map(_bytes, (cost.now_bytes, cost.full_bytes, cost.budget_bytes))
    free, available, reserved = map(_bytes, (cost.headroom_bytes, cost.available_bytes, cost.min_available_bytes))
    zfs = status.observation.memory_zfs_bytes
    cache = f", {format_bytes(zfs)} of it ZFS' cache" if zfs else ""
    advice = "".join(f" {text}" for text in decision.advice)
    if isinstance(decision, Raise):
        worst = format_bytes(decision.arithmetic.cost_bytes)
        step = f"raise to {decision.target:,} when the fullest table fills up (the tables may then take {worst})"
        step, style = f"{step}.{advice}" if advice else step, "green"
    else:
        step, style = f"none. {decision.reason.sentence}{advice}", "bold red"
    return [
        *_losses(status.observation),
        ("memory", f"{now} now, {full} if every table in use were full; budget {budget}", ""),
        ("headroom", f"{free} for entries ({available} available{cache}, {reserved} of it reserved)", ""),
        ("next step", step, style),
    ]


def _bytes(count: int | None) -> str:
    return "unknown" if count is None else format_bytes(count)
