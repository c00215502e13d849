"""What commands print with `--json`: one versioned document each. A field may be added, none changes its meaning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from conntrackd_guard.core.codec import encode
from conntrackd_guard.history.rows import DecisionDetail, Row

if TYPE_CHECKING:
    from conntrackd_guard.core.traffic.analysis import TableAnalysis

VERSION = 1


def decision(row: Row) -> dict[str, Any]:
    """Return one decision.

    `reason`: a hold's code; a raise's trigger and corroboration; an order's kind. `repeats`: the kernel lines that came
    to this, and the decisions without a new line.
    """
    return {
        "id": row.id,
        "at": row.at,
        "trigger": row.trigger,
        "verdict": row.verdict,
        "reason": row.reason,
        "from": row.from_limit,
        "to": row.to_limit,
        "outcome": row.outcome,
        "limit_after": row.limit_after,
        "errno": row.errno,
        "detail": row.detail,
        "mode": row.mode,
        "namespace": row.namespace,
        "message": row.message,
        "repeats": row.repeats,
        "last_at": row.last_at,
        "sentence": row.sentence,
        "arithmetic": row.arithmetic,
        "verification": encode(row.verification),
        "boot_id": row.boot_id,
        "uid": row.uid,
        "login_uid": row.login_uid,
        "policy_hash": row.policy_hash,
        "guard_version": row.guard_version,
        "kernel_release": row.kernel_release,
    }


def notice(row: Row) -> str:
    """Return one decision as a document for the `notify` command; an id of 0 (no history has it yet) becomes null."""
    return document({"decision": decision(row) | {"id": row.id or None}})


def history(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the pieces of one document, a decision a line, so that a long history needs no memory."""
    yield f'{{"version":{VERSION},"decisions":['
    for number, row in enumerate(rows):
        yield ("," if number else "") + "\n" + json.dumps(decision(row), ensure_ascii=True)
    yield "\n]}\n"


def show(told: DecisionDetail) -> str:
    """Return one decision with all its evidence as a document."""
    record = told.record
    arithmetic = getattr(record.decision, "arithmetic", None)
    full = {
        **decision(told.row),
        "arithmetic": encode(arithmetic),
        "advice": list(getattr(record.decision, "advice", ())),
        "trigger_evidence": encode(record.trigger),
        "observation": encode(record.observation),
        "state": encode(record.state),
        "policy": encode(told.policy),
        "sample": None if told.portrait is None else portrait(told.portrait),
    }
    return document({"decision": full})


def portrait(taken: TableAnalysis) -> dict[str, Any]:
    """Return a table's portrait; shares (0 to 1) stand beside counts, each within the sample's `margin`."""
    content: dict[str, Any] = encode(taken)
    sample = content["sample"]
    for ranking in sample.values():
        if isinstance(ranking, dict):
            for group in ranking["top"]:
                group["share"] = round(taken.sample.share(group["entries"]), 4)
    sample["margin"] = round(taken.sample.margin, 4)
    content["owner"]["text"] = taken.owner.text
    return content


def line(content: dict[str, Any]) -> str:
    """Return `content` as one line of a stream, versioned too."""
    return json.dumps({"version": VERSION, **content}, ensure_ascii=True) + "\n"


def document(content: dict[str, Any]) -> str:
    """Return `content` as one versioned document for people to read too. ASCII: no terminal can be fooled by it."""
    return json.dumps({"version": VERSION, **content}, indent=2, ensure_ascii=True) + "\n"
