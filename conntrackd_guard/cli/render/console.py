"""Where text for people goes: through a pager on a terminal, plain in a pipe.

Import late: rich costs 42 ms and 7 MB.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console


class Screen(Console):
    """A console whose reader may leave early: that is no failure of ours, so `cli.main` is told."""

    def on_broken_pipe(self) -> NoReturn:
        """Let the error through: rich from 13.8 on would end the process with 1."""
        raise BrokenPipeError


@contextmanager
def screen(*, paged: bool) -> Iterator[Console]:
    """Give the console for stdout; `paged`: on a terminal it goes through $PAGER, by default less."""
    pager = shlex.split(os.environ.get("PAGER", "less"))
    if not paged or not sys.stdout.isatty() or not pager or shutil.which(pager[0]) is None:
        yield Screen(highlight=False)
        return
    environment = {"LESS": "FRX", "LESSCHARSET": "utf-8", "LESSSECURE": "1", **os.environ}  # secure: no shell by sudo
    with subprocess.Popen(pager, stdin=subprocess.PIPE, env=environment) as process:
        pipe = process.stdin or sys.stdout.buffer  # never None: a pipe was asked for
        with io.TextIOWrapper(pipe, encoding="utf-8", line_buffering=True) as stream:
            yield Screen(file=stream, force_terminal=True, width=shutil.get_terminal_size().columns, highlight=False)


def redraw(console: Console, text: str) -> None:
    """Put `text` in the place of what the terminal shows, from its top, without a flicker; what does not fit is cut."""
    rows = text.strip("\n").split("\n")[: console.height - 1]
    console.file.write("\x1b[H" + "".join(f"{row}\x1b[K\n" for row in rows) + "\x1b[J")
    console.file.flush()
