"""Named lines in sections, the form of most answers; without rich, which costs 50 ms that a pipe does without."""

from collections.abc import Iterable
from typing import Final

Line = tuple[str, str]
"""A name and a text."""
Section = tuple[str, list[Line]]
"""A heading and its lines."""
COMMAND: Final = "run"
UNDO: Final = "undo"
"""The name of a line that is there to be pasted: it is never wrapped."""
NAME_WIDTH: Final = 15


def head(name: str) -> str:
    """Return a line up to its text."""
    return f"  {name:{NAME_WIDTH}}  "


def plain(sections: Iterable[Section]) -> str:
    """Return sections as they are printed in a pipe."""
    rows = [row for title, lines in sections for row in ("", title, *(head(name) + text for name, text in lines))]
    return "".join(f"{row}\n" for row in rows)
