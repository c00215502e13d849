"""What commands print with `--json`: one versioned document each. Fields may be added; none changes its meaning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from conntrackd_guard.history.rows import VERSION, Row, decision_document, document

__all__ = ["document", "history", "line"]


def history(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the pieces of one document, a decision a line, so that a long history needs no memory."""
    yield f'{{"version":{VERSION},"decisions":['
    for number, row in enumerate(rows):
        yield ("," if number else "") + "\n" + json.dumps(decision_document(row), ensure_ascii=True)
    yield "\n]}\n"


def line(content: dict[str, Any]) -> str:
    """Return `content` as one versioned line of a stream."""
    return json.dumps({"version": VERSION, **content}, ensure_ascii=True) + "\n"
