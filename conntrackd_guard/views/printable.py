"""Text from outside, made harmless to look at."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return `text` on one line with control characters, terminal escapes and bidi overrides as visible escapes.

    Kernel lines, names of namespaces and processes, and reasons of orders come from people who may
    not be friends: `\x1b[2J` would clear the reader's screen, U+202E would show a sum backwards.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
