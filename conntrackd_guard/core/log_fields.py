"""A record as one log message: its event, its level, and its fields with the whole arithmetic."""

from dataclasses import fields
from typing import Any, assert_never

from conntrackd_guard.core.codec import encode, verdict
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, MessageKind, OutcomeKind, Override, Raise, Record
from conntrackd_guard.core.records import ACTIONABLE, reason

_ERRORS = frozenset({HoldReason.CONFLICT, HoldReason.RESERVE_BROKEN, HoldReason.OVER_BUDGET_AT_START})
_WARNINGS = ACTIONABLE | {
    HoldReason.WRITE_REFUSED, HoldReason.LIMIT_LOWERED, HoldReason.BUCKETS_CHANGED, HoldReason.SET_ELSEWHERE,
    HoldReason.UNTRUSTED_NAMESPACE, HoldReason.UNREACHABLE_NAMESPACE, HoldReason.PAUSED, HoldReason.EXPECTATION_TABLE,
    HoldReason.NEIGHBOUR_TABLE,
}  # fmt: skip
_DEBUG = frozenset({
    HoldReason.COOLDOWN, HoldReason.RESOLVED, HoldReason.SUPERSEDED, HoldReason.CHANGED_UNDER_US,
    HoldReason.SUPPRESSED, HoldReason.DRY_RUN_SUFFICIENT, HoldReason.STABLE,
})  # fmt: skip
"""Steps of an incident that the next raise, or a verification, ends: in history, and not in the log by default."""


def event_of(record: Record) -> str:
    """Return the log event's name."""
    return f"guard.{verdict(record.decision)}"


def level_of(record: Record) -> str:
    """Return how urgent a record is: an operator has to act on an `error` now, on a `warning` soon, else never."""
    match record.decision:
        case Raise():
            return "error" if record.outcome.kind is OutcomeKind.REJECTED else "warning"
        case Hold(reason=HoldReason.HISTORICAL) if record.trigger.message_kind is MessageKind.SUPPRESSED:
            return "debug"  # nobody's table: the line about full ones is enough
        case Hold(reason=why):
            levels = (("error", _ERRORS), ("warning", _WARNINGS), ("debug", _DEBUG))
            return next((level for level, reasons in levels if why in reasons), "info")
        case Override():
            return "warning"
        case _:
            assert_never(record.decision)


def fields_of(record: Record) -> dict[str, Any]:
    """Return the canonical fields: verdict, reason, limits, trigger, and every term of the arithmetic."""
    decision, observation = record.decision, record.observation
    found: dict[str, Any] = {
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
        found["advice"] = " ".join(decision.advice)
        if decision.arithmetic is not None:
            found |= {f.name: encode(getattr(decision.arithmetic, f.name)) for f in fields(decision.arithmetic)}
    return {name: value for name, value in found.items() if value is not None and value != ""}
