"""`guard history` for people."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from conntrackd_guard.cli.render import labels
from conntrackd_guard.cli.render.console import local, print_indented, print_line
from conntrackd_guard.core import explain
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.verification import Drops, Verification
from conntrackd_guard.history.rows import Row

_STYLES = {"raise": "bold green", "hold": "yellow", "override": "bold cyan"}
_BAD_OUTCOMES = frozenset({"rejected", "not_applied", "unknown"})


def print_history(console: Console, rows: Iterable[Row]) -> None:
    """Print decisions as they come, two lines each, a heading first."""
    printed = False
    for row in rows:
        if not printed:
            heading = f"{'ID':>5}  {'TIME':19}  {'WHAT':8}  {'LIMIT':18}  WHY"
            print_line(console, Text(heading, style="bold"))
            printed = True
        print_line(console, head(row))
        print_indented(console, Text(printable(row.sentence), style="dim" if row.verdict == "hold" else ""))
        if row.verification is not None:
            print_indented(console, result_text(row.verification))


def head(row: Row) -> Text:
    """Return the first line of a decision."""
    text = Text(f"{row.id:>5}  {local(row.at_seconds)}  ")
    text.append(f"{row.verdict:8}", _STYLES.get(row.verdict, ""))
    text.append(f"  {labels.step(row):18}  ")
    if row.outcome in _BAD_OUTCOMES:
        text.append(f"{labels.trigger(row)}, ").append(labels.outcome(row), "bold red")
    else:
        text.append(labels.why(row))
    if row.repeats > 1:
        text.append(f"  ×{row.repeats:,} until {local(row.last_seconds)}", "cyan")
    return text


def result_text(verification: Verification) -> Text:
    """Return the verification of a raise, in red if packets were still dropped."""
    style = {Drops.CONTINUING: "bold red", Drops.UNKNOWN: ""}.get(verification.drops, "green")
    return Text(f"Result: {explain.verification(verification)}", style=style)
