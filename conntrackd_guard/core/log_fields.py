"""A record as one log line: its event, its level, and its fields with the whole sum."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, assert_never

from conntrackd_guard.core.codec import encode, verdict
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, OutcomeKind, Override, Raise, Record
from conntrackd_guard.core.records import reason

_ERRORS = frozenset({HoldReason.CONFLICT, HoldReason.RESERVE_BROKEN, HoldReason.OVER_BUDGET_AT_START})
_WARNINGS = frozenset(
    {
        HoldReason.OVER_BUDGET,
        HoldReason.RESERVE,
        HoldReason.AT_CEILING,
        HoldReason.FLOOD,
        HoldReason.CHAINS,
        HoldReason.INT_MAX,
        HoldReason.WRITE_REFUSED,
        HoldReason.LIMIT_LOWERED,
        HoldReason.SET_ELSEWHERE,
        HoldReason.UNTRUSTED_NAMESPACE,
        HoldReason.PAUSED,
        HoldReason.EXPECTATION_TABLE,
        HoldReason.NEIGHBOUR_TABLE,
    }
)


def event_of(record: Record) -> str:
    """Return the log event's name."""
    return f"guard.{verdict(record.decision)}"


def level_of(record: Record) -> str:
    """Return how loud the line is: `error` needs a person now, `warning` soon, `info` never."""
    match record.decision:
        case Raise():
            return "error" if record.outcome.kind is OutcomeKind.REJECTED else "warning"
        case Hold(reason=why):
            return "error" if why in _ERRORS else "warning" if why in _WARNINGS else "info"
        case Override():
            return "warning"
        case _:
            assert_never(record.decision)


def fields_of(record: Record) -> dict[str, Any]:
    """Return the canonical fields: what, from, to, why, and every term of the sum."""
    decision, observation = record.decision, record.observation
    told: dict[str, Any] = {
        "verdict": verdict(decision),
        "reason": reason(record),
        "from": observation.limit,
        "to": decision.target if isinstance(decision, Raise | Override) else None,
        "outcome": record.outcome.kind.value,
        "detail": record.outcome.detail,
        "mode": record.mode.value,
        "trigger": record.trigger.kind.value,
        "namespace": record.trigger.namespace,
        "kernel_message": record.trigger.message,
        "lines": record.trigger.message_count,
        "key": record.key,
    }
    if isinstance(decision, Raise | Hold):
        told["advice"] = " ".join(decision.advice)
        if decision.arithmetic is not None:
            told |= {f.name: encode(getattr(decision.arithmetic, f.name)) for f in fields(decision.arithmetic)}
    return {name: value for name, value in told.items() if value is not None and value != ""}
