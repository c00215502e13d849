"""`guard doctor` for people."""

from collections import Counter

from rich.console import Console
from rich.text import Text

from conntrackd_guard.cli.render.console import print_beside, print_line
from conntrackd_guard.core.text import printable
from conntrackd_guard.doctor.checks import Examination
from conntrackd_guard.doctor.verdicts import Verdict

_STYLES = {Verdict.GOOD: "green", Verdict.NOTE: "yellow", Verdict.WRONG: "bold red", Verdict.UNKNOWN: "magenta"}
_VERDICT, _NAME = 7, 21
"""Columns of the two words before the evidence."""


def print_examination(console: Console, found: Examination) -> None:
    """Print every check, its next step below it, and how many there are of each verdict."""
    for check in found.checks:
        style = _STYLES[check.verdict]
        head = Text(f"{check.verdict.label:{_VERDICT}}  ", style=style)
        head.append(f"{check.label:{_NAME}}  ", "bold")
        print_beside(console, head, Text(printable(check.evidence)))
        if check.next_step:
            print_beside(console, Text(" " * head.cell_len), Text(f"→ {printable(check.next_step)}", style=style))
    counted = Counter(check.verdict for check in found.checks)
    total = ", ".join(f"{counted[verdict]} {verdict.label}" for verdict in Verdict if counted[verdict])
    print_line(console, Text(f"{total}.", style="bold"))
