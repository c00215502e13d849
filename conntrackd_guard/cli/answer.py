"""What a command returns to `cli.main`, which prints it."""

import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.text import printable_lines


class Answer(NamedTuple):
    """A result for programs and for people; each form is produced only when it is printed."""

    value: object
    """Text to print as it stands, or the argument of `view`."""
    view: str = ""
    """`module.function` in `cli/render`, called as `function(console, value)`."""
    json: Callable[[], Iterable[str]] = tuple
    """Returns the pieces of the JSON output."""
    paged: bool = False
    code: Exit = Exit.DONE


def note(text: str) -> None:
    """Print a message beside the result, on stderr. It may hold names and words of others."""
    sys.stderr.write(f"guard: {printable_lines(text)}\n")
