"""Text from outside, made harmless to look at."""

from __future__ import annotations

from typing import Final

LONGEST_NAME: Final = 64
"""As long as the id of a container."""


def printable(text: str) -> str:
    r"""Return `text` on one line with control characters, terminal escapes and bidi overrides as visible escapes.

    Kernel lines, names of namespaces and processes, and reasons of orders come from people who may
    not be friends: `\x1b[2J` would clear the reader's screen, U+202E would show a sum backwards.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def short(text: str) -> str:
    """Return `text` as above, at most LONGEST_NAME characters: the name of a namespace may be a path of 4 KB."""
    shown = printable(text)
    return shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…"
