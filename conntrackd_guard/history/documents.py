"""JSON for programs: one versioned document each. Fields may be added; none changes its meaning.

ASCII, so that no terminal can be fooled.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from conntrackd_guard.core.codec import VERSION, document, encode
from conntrackd_guard.history.rows import COLUMNS, Row

__all__ = ["decision_document", "document", "history", "notify_document"]

_LEFT_OUT: Final = frozenset({"key", "at_seconds", "boottime_seconds", "last_seconds", "fingerprint"})
_RENAMED: Final = {"from_limit": "from", "to_limit": "to"}
_NAMES: Final = {name: _RENAMED.get(name, name) for name in (*COLUMNS, "arithmetic") if name not in _LEFT_OUT}


def decision_document(row: Row) -> dict[str, Any]:
    """Return one decision as JSON shows it."""
    shown = {name: getattr(row, field) for field, name in _NAMES.items()}
    return shown | {"verification": encode(row.verification)}


def notify_document(row: Row) -> str:
    """Return one decision as a document for the `notify` command; an id of 0 (not in history yet) becomes null."""
    return document({"decision": decision_document(row) | {"id": row.id or None}})


def history(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the pieces of one document, a decision a line, so that a long history needs no memory."""
    yield f'{{"version":{VERSION},"decisions":['
    for number, row in enumerate(rows):
        yield ("," if number else "") + "\n" + json.dumps(decision_document(row))
    yield "\n]}\n"
