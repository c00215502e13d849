"""What commands print with `--json`: one versioned document each. Fields may be added; none changes its meaning.

Only the command line imports this module: a decision's detail brings the analysis of tables, 0.6 MB that a daemon does
without.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from conntrackd_guard.core.codec import decode, encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Record
from conntrackd_guard.core.traffic.analysis import TableAnalysis
from conntrackd_guard.history.database import History
from conntrackd_guard.history.rows import VERSION, Row, decision_document, document

__all__ = ["DecisionDetail", "analysis", "detail", "document", "history", "line", "show"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionDetail:
    """One decision with all its evidence: enough to decide it again."""

    row: Row
    record: Record
    policy: Policy
    analysis: TableAnalysis | None = None
    """Of the table it is about, just after it."""


def detail(history: History, row_id: int) -> DecisionDetail | None:
    """Return the decision with that id and all its evidence, None where there is none. Raises HostError."""
    row = history.row(row_id)
    if row is None:
        return None
    analysis = None
    with suppress(ValueError):  # damaged, or written by a newer guard
        sample = history.sample(row_id)
        analysis = None if sample is None else decode(TableAnalysis, json.loads(sample))
    return DecisionDetail(row=row, record=history.record(row), policy=history.policy(row), analysis=analysis)


def history(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the pieces of one document, a decision a line, so that a long history needs no memory."""
    yield f'{{"version":{VERSION},"decisions":['
    for number, row in enumerate(rows):
        yield ("," if number else "") + "\n" + json.dumps(decision_document(row), ensure_ascii=True)
    yield "\n]}\n"


def show(found: DecisionDetail) -> str:
    """Return one decision with all its evidence as a document."""
    record = found.record
    arithmetic = getattr(record.decision, "arithmetic", None)
    full = {
        **decision_document(found.row),
        "arithmetic": encode(arithmetic),
        "advice": list(getattr(record.decision, "advice", ())),
        "trigger_evidence": encode(record.trigger),
        "observation": encode(record.observation),
        "state": encode(record.state),
        "policy": encode(found.policy),
        "sample": None if found.analysis is None else analysis(found.analysis),
    }
    return document({"decision": full})


def analysis(found: TableAnalysis) -> dict[str, Any]:
    """Return a table's analysis; shares (0 to 1) stand beside counts, each within the sample's `margin`."""
    content: dict[str, Any] = encode(found)
    sample = content["sample"]
    for ranking in sample.values():
        if isinstance(ranking, dict):
            for group in ranking["top"]:
                group["share"] = round(found.sample.share(group["entries"]), 4)
    sample["margin"] = round(found.sample.margin, 4)
    content["owner"]["text"] = found.owner.text
    return content


def line(content: dict[str, Any]) -> str:
    """Return `content` as one versioned line of a stream."""
    return json.dumps({"version": VERSION, **content}, ensure_ascii=True) + "\n"
