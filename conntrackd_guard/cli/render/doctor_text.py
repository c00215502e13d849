"""`guard doctor` for people."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from conntrackd_guard.cli.render.console import print_line
from conntrackd_guard.core.text import printable
from conntrackd_guard.doctor.checks import Examination
from conntrackd_guard.doctor.verdicts import Check, Verdict

_STYLES = {
    Verdict.GOOD: "green",
    Verdict.NOTE: "yellow",
    Verdict.WRONG: "bold red",
    Verdict.UNKNOWN: "magenta",
}
_VERDICT, _NAME = 7, 21
"""Columns of the two words before the evidence."""


def print_examination(console: Console, found: Examination) -> None:
    """Print every check, its next step below it, and how many there are of each verdict."""
    for check in found.checks:
        _print_check(console, check)
    counted = Counter(check.verdict for check in found.checks)
    total = Text(
        ", ".join(f"{counted[verdict]} {verdict.label}" for verdict in Verdict if counted[verdict]) + ".", style="bold"
    )
    print_line(console, total)


def _print_check(console: Console, check: Check) -> None:
    """Print a check: on a terminal its text wraps beside its name, in a pipe each text is one line."""
    style = _STYLES[check.verdict]
    verdict, name = f"{check.verdict.label:{_VERDICT}}", f"{check.label:{_NAME}}"
    evidence, step = printable(check.evidence), f"→ {printable(check.next_step)}"
    if not console.is_terminal:
        print_line(console, Text(f"{verdict}  {name}  {evidence}"))
        if check.next_step:
            print_line(console, Text(" " * (_VERDICT + _NAME + 4) + step))
        return
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=_VERDICT)
    grid.add_column(width=_NAME)
    grid.add_column(overflow="fold")
    grid.add_row(Text(verdict, style=style), Text(name, style="bold"), Text(evidence))
    if check.next_step:
        grid.add_row("", "", Text(step, style=style))
    console.print(grid)
