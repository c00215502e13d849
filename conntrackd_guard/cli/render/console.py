"""Printing for people: through a pager on a terminal, plain in a pipe.

`cli.main` imports it late: rich costs 42 ms and 7 MB.
"""

import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NoReturn

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from conntrackd_guard.cli.render.lines import COMMAND, UNDO, Line, Section, head
from conntrackd_guard.core.units import utc

_INDENT = 7
_VERDICT_STYLES = {"✗": "red", "✓": "green"}
_DATE = re.compile(r"(?<=[0-9]{4}-[0-9]{2}-[0-9]{2}) (?=[0-9]{2}:[0-9]{2})")
_GLUE = "\ue000"
"""Stands for the blank within a date while a text is wrapped."""
_NARROWEST = 20
"""Columns that a text beside its head needs to be readable."""


class Screen(Console):
    """A console whose reader may leave early: `cli.main` handles that, as it is no failure."""

    def on_broken_pipe(self) -> NoReturn:
        """Let the error through: rich from 13.8 on would end the process with 1."""
        raise BrokenPipeError


@contextmanager
def screen(*, paged: bool) -> Iterator[Console]:
    """Give the console for stdout; `paged`: on a terminal it goes through $PAGER, by default less."""
    if not paged or not sys.stdout.isatty():
        yield Screen(highlight=False)
        return
    import shlex  # noqa: PLC0415 - 15 ms that output without a pager does without
    import shutil  # noqa: PLC0415
    import subprocess  # noqa: PLC0415

    pager = shlex.split(os.environ.get("PAGER", "less"))
    if not pager or shutil.which(pager[0]) is None:
        yield Screen(highlight=False)
        return
    environment = {"LESS": "FRX", "LESSCHARSET": "utf-8", "LESSSECURE": "1", **os.environ}  # secure: no shell by sudo
    with subprocess.Popen(pager, stdin=subprocess.PIPE, env=environment) as process:
        pipe = process.stdin or sys.stdout.buffer  # never None, because of PIPE
        with io.TextIOWrapper(pipe, encoding="utf-8", line_buffering=True) as stream:
            yield Screen(file=stream, force_terminal=True, width=shutil.get_terminal_size().columns, highlight=False)


def redraw(console: Console, text: str) -> None:
    """Put `text` in the place of what the terminal shows, from its top, without a flicker; what does not fit is cut."""
    rows = text.strip("\n").split("\n")[: console.height - 1]
    console.file.write("\x1b[H" + "".join(f"{row}\x1b[K\n" for row in rows) + "\x1b[J")
    console.file.flush()


def section(console: Console, title: str, lines: Iterable[Line]) -> None:
    """Print a heading and its lines with their names in one column."""
    print_line(console, Text())
    print_line(console, Text(title, style="bold"))
    for name, text in lines:
        beside = Text(head(name), style="cyan")
        if name in {COMMAND, UNDO}:
            print_line(console, beside + Text(text, style="bold"))
        else:
            print_beside(console, beside, Text(text, style=_VERDICT_STYLES.get(text[:1], "")))


def print_sections(console: Console, sections: Iterable[Section]) -> None:
    """Print headings with their lines."""
    for title, lines in sections:
        section(console, title, lines)


def print_line(console: Console, text: Text) -> None:
    """Print a line that is never cut or padded; in a pipe without rich, which takes 0.3 ms for each."""
    if console.is_terminal:
        console.print(text, soft_wrap=True)
    else:
        console.file.write(text.plain + "\n")


def local(wall_seconds: float) -> str:
    """Return wall time in the reader's zone: `2026-11-23 11:07:27`; what no calendar reaches as `utc` does."""
    try:
        return datetime.fromtimestamp(wall_seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return utc(wall_seconds)


def print_beside(console: Console, head: Text, text: Text) -> None:
    """Print a text beside its head (below it on a narrow terminal), where it wraps; in a pipe both are one line."""
    if not console.is_terminal:
        print_line(console, head + text)
        return
    if console.width < head.cell_len + _NARROWEST:
        if head.plain.strip():
            print_line(console, head)
        console.print(Padding(text, (0, 0, 0, _INDENT)))
        return
    grid = Grid.grid(padding=0)
    grid.add_column(width=head.cell_len)
    grid.add_column(overflow="fold")
    grid.add_row(head, Text("\n").join(wrapped(console, text, console.width - head.cell_len)))
    console.print(grid)


def print_indented(console: Console, text: Text) -> None:
    """Print prose: wrapped with a hanging indent on a terminal, one line in a pipe."""
    if console.is_terminal:
        lines = wrapped(console, text, console.width - _INDENT)
        console.print(Padding(Text("\n").join(lines), (0, 0, 0, _INDENT)))
    else:
        print_line(console, Text(" " * _INDENT) + text)


def print_head(console: Console, text: Text, more: Text) -> None:
    """Print two parts of a line; on a terminal that is too narrow for both, the second one below the first."""
    if more.plain and console.is_terminal and console.width < text.cell_len + 2 + more.cell_len:
        print_line(console, text)
        print_indented(console, more)
    else:
        print_line(console, Text("  ").join(part for part in (text, more) if part.plain))


def wrapped(console: Console, text: Text, width: int) -> list[Text]:
    """Return the lines of a text in `width` columns; a date stays in one."""
    glued = text.copy()
    glued.plain = _DATE.sub(_GLUE, text.plain)
    lines = list(glued.wrap(console, width))
    for line in lines:
        line.plain = line.plain.replace(_GLUE, " ")
    return lines
