"""Markdown in small parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import TextWrapper

_WRAP = TextWrapper(width=118, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def definition(term: str, *paragraphs: str) -> str:
    """Return an entry of a definition list, its text as Markdown."""
    first, *rest = [_WRAP.wrap(text) for text in paragraphs if text]
    lines = [term, f": {first[0]}", *(f"  {line}" for line in first[1:])]
    for paragraph in rest:
        lines += ["", *(f"  {line}" for line in paragraph)]
    return "\n".join(lines)


def fenced(text: str, kind: str = "text") -> str:
    """Return `text` as a code block."""
    return f"```{kind}\n{text.strip(chr(10))}\n```"
