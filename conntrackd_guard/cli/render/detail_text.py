"""`guard show` for people."""

from rich.console import Console
from rich.text import Text

from conntrackd_guard.cli.render.analysis_text import breakdown, head_lines
from conntrackd_guard.cli.render.arithmetic_text import calculations
from conntrackd_guard.cli.render.console import local, print_head, print_indented, section
from conntrackd_guard.cli.render.decision_text import head, outcome, repeats
from conntrackd_guard.cli.render.lines import Line
from conntrackd_guard.core import explain
from conntrackd_guard.core.budget import fullest_first
from conntrackd_guard.core.limits import format_limit
from conntrackd_guard.core.model import Corroboration, Hold, Override, Raise, Record
from conntrackd_guard.core.records import concerned, table_name
from conntrackd_guard.core.text import printable
from conntrackd_guard.history.details import DecisionDetail
from conntrackd_guard.history.rows import Row

_TABLES_SHOWN = 20
_EVIDENCE = {
    Corroboration.CONFIRMED: "counters agree",
    Corroboration.CONTRADICTED: "counters disagree",
    Corroboration.UNKNOWN: "could not be checked",
}


def print_detail(console: Console, detail: DecisionDetail) -> None:
    """Print one decision: inputs, memory calculation, who filled the table, decision, result."""
    row, record = detail.row, detail.record
    print_head(console, head(row), repeats(row))
    print_indented(console, Text(printable(row.text)))
    section(console, "Inputs", _inputs(record))
    for title, lines in calculations(record, detail.policy):
        section(console, title, lines)
    if detail.analysis is not None:
        about = [("at", local(detail.analysis.wall_seconds)), *head_lines(detail.analysis, ended=detail.process_ended)]
        for title, lines in [("What filled it", about), *breakdown(detail.analysis.sample)]:
            section(console, title, lines)
    section(console, "Decision", _decision(record))
    section(console, "Result", _result(row))
    guard = f"{row.guard_version}, mode {row.mode}, policy {row.policy_hash} (in full with --json)"
    kernel = f"{printable(row.kernel_release)}, boot {printable(row.boot_id)}"
    section(console, "By", [("guard", printable(guard)), ("kernel", kernel)])


def _inputs(record: Record) -> list[Line]:
    """Return what the decision was based on."""
    observation, trigger = record.observation, record.trigger
    lines = [("trigger", trigger.kind.label + ("" if trigger.live else " (historical)"))]
    if trigger.message:
        count = f"  ×{trigger.message_count}" if trigger.message_count > 1 else ""
        lines.append(("message", printable(trigger.message) + count))
    limit = "no conntrack" if observation.limit is None else format_limit(observation.limit)
    real = "none" if observation.kernel_limit is None else format_limit(observation.kernel_limit)
    forced = "" if observation.kernel_limit == observation.limit else f" (in force: {real})"
    lines.append(("limit", limit + forced))
    tables, about = fullest_first(observation), concerned(record)
    for table in tables[:_TABLES_SHOWN]:
        dropped = f", {table.dropped:,} dropped" if table.dropped else ""
        mark = "  ← this one" if table is about and len(tables) > 1 else ""
        lines.append(("table", f"{table_name(table)}: {table.count:,}{dropped}{mark}"))
    more = len(tables) - _TABLES_SHOWN
    if more > 0:
        lines.append(("", f"and {more:,} more tables (all in --json)"))
    if observation.small_tables:
        small = f"{observation.small_tables:,} tables with {observation.small_entries:,} entries together"
        lines.append(("small tables", small))
    if observation.idle_tables:
        lines.append(("idle", f"{observation.idle_tables:,} tracking namespaces without entries"))
    lines += [("not read", printable(text)) for text in observation.unread]
    return lines


def _decision(record: Record) -> list[Line]:
    """Return the verdict, its reason and its advice."""
    match decision := record.decision:
        case Raise():
            lines = [("raise", f"to {decision.target:,}; evidence: {_EVIDENCE[decision.corroboration]}")]
            if decision.buckets_target:
                lines.append(("buckets", f"to {decision.buckets_target:,}"))
        case Hold():
            lines = [("hold", f"{decision.reason.label}: {decision.reason.sentence}")]
        case Override():
            who = "" if decision.uid is None else f" by {explain.operator(decision)}"
            why = f": {decision.reason}" if decision.reason else ""
            return [("override", printable(f"{decision.kind}{who}{why}"))]
    return lines + [("advice", advice) for advice in decision.advice]


def _result(row: Row) -> list[Line]:
    """Return the outcome of the write, and what was seen after it."""
    after = "" if row.limit_after is None else f"; the limit then read {format_limit(row.limit_after)}"
    number = "" if row.errno is None else f" (errno {row.errno})"
    lines = [("outcome", f"{outcome(row)}{number}{after}")]
    if row.detail:
        lines.append(("detail", printable(row.detail)))
    if row.verification is not None:
        lines.append(("verification", explain.verification(row.verification)))
    if row.repeats > 1:
        lines.append(("repeats", f"seen {row.repeats:,} times, the last at {local(row.last_seconds)}"))
    return lines
