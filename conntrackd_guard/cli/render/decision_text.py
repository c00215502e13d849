"""`guard history` for people."""

from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.text import Text

from conntrackd_guard.cli.render.console import local, print_head, print_indented, print_line
from conntrackd_guard.core import explain, tuning
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.limits import format_limit
from conntrackd_guard.core.model import Corroboration, TriggerKind
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.core.verification import Drops, Verification
from conntrackd_guard.history.rows import Row

_STYLES = {"raise": "bold green", "hold": "yellow", "override": "bold cyan"}
_HOLDS = {reason.code: reason.label for reason in HoldReason}
_TRIGGERS = {kind.value: kind.label for kind in TriggerKind}
_OUTCOMES = {"none": "nothing written", "rehearsed": "dry run", "not_applied": "not applied"}
"""Where the code is no plain English."""
_OF_TABLES = frozenset({TriggerKind.KERNEL_MESSAGE, TriggerKind.FILLING_UP})
_MOST_GROUPED = 500
"""Rows held in memory, so that a long history needs none."""
_BAD_OUTCOMES = frozenset({"rejected", "not_applied", "unknown"})


def print_history(console: Console, rows: Iterable[Row]) -> None:
    """Print decisions as they come, two lines each, a heading first; an incident has a heading of its own."""
    printed, apart = False, False
    for group in incidents(rows):
        title = incident_text(group)
        if not printed:
            heading = f"{'ID':>5}  {'TIME':19}  {'WHAT':8}  {'LIMIT':18}  WHY"
            print_line(console, Text(heading, style="bold"))
        elif title or apart:
            print_line(console, Text())
        printed, apart = True, bool(title)
        if title:
            print_head(console, *(Text(part, style="bold") for part in title))
        for row in group:
            print_head(console, head(row), repeats(row))
            print_indented(console, Text(printable(row.text), style="dim" if row.verdict == "hold" else ""))
            if row.verification is not None:
                print_indented(console, result_text(row.verification))


def incidents(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield rows, the newest first, in groups: those of one boot that follow each other within INCIDENT_SECONDS."""
    group: list[Row] = []
    for row in rows:
        if group:
            after = group[-1]
            joins = row.boot_id == after.boot_id and after.at_seconds - row.last_seconds <= tuning.INCIDENT_SECONDS
            if not joins or len(group) >= _MOST_GROUPED:
                yield group
                group = []
        group.append(row)
    if group:
        yield group


def incident_text(group: list[Row]) -> tuple[str, str] | None:
    """Return when an incident was and what came of it; None for decisions that are none, or only one."""
    about_tables = [row for row in group if row.trigger in _OF_TABLES and row.reason != HoldReason.HISTORICAL.code]
    if len(group) == 1 or not about_tables:
        return None
    begins, ends = about_tables[-1].at_seconds, max(row.last_seconds for row in about_tables)
    raised = [row for row in about_tables if row.verdict == "raise" and row.outcome in {"applied", "rehearsed"}]
    counted = Counter(row.verdict for row in about_tables)
    parts = []
    if raised:
        would = " in the dry run" if raised[0].outcome == "rehearsed" else ""
        change = f"{raised[-1].from_limit or 0:,} → {raised[0].limit_after or 0:,}{would}"
        parts.append(f"{len(raised)} raise{'s' * (len(raised) > 1)} ({change})")
    if refused := counted["raise"] - len(raised):
        parts.append(f"{refused} not carried out")
    if counted["hold"]:
        parts.append(f"{counted['hold']} hold{'s' * (counted['hold'] > 1)}")
    return f"Incident of {local(begins)}, {format_duration(ends - begins)}", ", ".join(parts)


def head(row: Row) -> Text:
    """Return the first line of a decision, without its `repeats`."""
    text = Text(f"{row.id:>5}  {local(row.at_seconds)}  ")
    text.append(f"{printable(row.verdict):8}", _STYLES.get(row.verdict, ""))
    text.append(f"  {step(row):18}  ")
    if row.outcome in _BAD_OUTCOMES:
        text.append(f"{trigger(row)}, ").append(outcome(row), "bold red")
    else:
        text.append(why(row))
    return text


def repeats(row: Row) -> Text:
    """Return how often a decision came, and until when; nothing for one that came once."""
    return Text(f"×{row.repeats:,} until {local(row.last_seconds)}" if row.repeats > 1 else "", "cyan")


def result_text(verification: Verification) -> Text:
    """Return the verification of a raise, in red if packets were still dropped."""
    style = {Drops.CONTINUING: "bold red", Drops.UNKNOWN: ""}.get(verification.drops, "green")
    return Text(f"Result: {explain.verification(verification)}", style=style)


def step(row: Row) -> str:
    """Return the limit before and, if it is to change, after: `262,144 → 393,216`."""
    limit = "-" if row.from_limit is None else format_limit(row.from_limit)
    return limit if row.to_limit is None else f"{limit} → {format_limit(row.to_limit)}"


def outcome(row: Row) -> str:
    """Return how the write ended."""
    return _OUTCOMES.get(row.outcome, printable(row.outcome))


def trigger(row: Row) -> str:
    """Return what led to a decision."""
    return _TRIGGERS.get(row.trigger, printable(row.trigger))


def why(row: Row) -> str:
    """Return the reason of a decision; a code that this version does not know is shown as it is."""
    match row.verdict:
        case "hold":
            return _HOLDS.get(row.reason, printable(row.reason))
        case "raise" if row.reason == "restore":
            return "restored after boot"
        case "raise":
            unchecked = " (unchecked)" if row.reason.endswith(Corroboration.UNKNOWN) else ""
            return f"{trigger(row)}{unchecked}"
        case _:
            return printable(row.reason)
