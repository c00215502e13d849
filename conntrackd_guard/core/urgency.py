"""Which decisions a person must hear of: need met a bound that the guard can't move, or the guard stopped itself.

Pure. Everything else is cured by time, by a raise, or was ordered.
"""

from __future__ import annotations

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, OutcomeKind, Record

ACTIONABLE = frozenset(
    {
        HoldReason.OVER_BUDGET,
        HoldReason.OVER_BUDGET_AT_START,
        HoldReason.RESERVE,
        HoldReason.AT_CEILING,
        HoldReason.FLOOD,
        HoldReason.CHAINS,  # where raising ends by default on most hosts: larger than any other bound in practice
        HoldReason.INT_MAX,
        HoldReason.CONFLICT,
        HoldReason.RESERVE_BROKEN,
    }
)


def needs_operator(record: Record) -> bool:
    """Return whether the record is a hold that only a person can end."""
    decision = record.decision
    return isinstance(decision, Hold) and decision.reason in ACTIONABLE and record.outcome.kind is OutcomeKind.NONE
