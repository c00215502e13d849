"""`guard doctor`: a checklist of this host, for people and for programs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from conntrackd_guard import __version__
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.host.paths import Paths

if TYPE_CHECKING:
    from rich.console import Console

    from conntrackd_guard.doctor.checks import Examination
    from conntrackd_guard.doctor.verdicts import Check

_STYLES = {"good": "green", "note": "yellow", "wrong": "bold red", "unknown": "magenta"}
_VERDICT, _NAME = 7, 13
"""Columns of the two words before the evidence."""


def add_parser(commands: Any) -> None:
    """Add `guard doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="check this host: what is wrong, how that shows, what to do",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: sudo guard doctor    (changes nothing; exit code 3: something is wrong)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace, paths: Paths) -> Exit:
    from conntrackd_guard.cli.render import console as terminal  # noqa: PLC0415
    from conntrackd_guard.doctor.checks import examine  # noqa: PLC0415 - settings, history and journal: not for a help text
    from conntrackd_guard.history import rows  # noqa: PLC0415

    found = examine(paths)
    if args.json:
        sys.stdout.write(rows.document(document(found)))
    else:
        with terminal.screen(paged=False) as console:
            print_examination(console, found)
    return Exit.NO if found.wrong else Exit.DONE


def document(found: Examination) -> dict[str, Any]:
    """Return everything for JSON."""
    from conntrackd_guard.core.codec import encode  # noqa: PLC0415
    from conntrackd_guard.core.units import rfc3339  # noqa: PLC0415

    return {
        "at": rfc3339(found.at_seconds),
        "guard_version": __version__,
        "mode": found.mode.value,
        "wrong": found.wrong,
        "checks": [encode(check) for check in found.checks],
    }


def print_examination(console: Console, found: Examination) -> None:
    """Print every check, its next step below it, and how many there are of each verdict."""
    for check in found.checks:
        _print_check(console, check)
    from rich.text import Text  # noqa: PLC0415

    from conntrackd_guard.cli.render.decision_text import print_line  # noqa: PLC0415

    counted = Counter(check.verdict.value for check in found.checks)
    total = Text(", ".join(f"{counted[word]} {word}" for word in _STYLES if counted[word]) + ".", style="bold")
    print_line(console, total)


def _print_check(console: Console, check: Check) -> None:
    """Print a check: on a terminal its text wraps beside its name, in a pipe each text is one line."""
    from rich.table import Table as Grid  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from conntrackd_guard.cli.render.decision_text import print_line  # noqa: PLC0415
    from conntrackd_guard.core.text import printable  # noqa: PLC0415

    style = _STYLES[check.verdict.value]
    verdict, name = f"{check.verdict.value:{_VERDICT}}", f"{check.name.replace('_', ' '):{_NAME}}"
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
