"""Labels for people in place of the codes that history, JSON and metrics keep."""

from typing import Final

from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Corroboration, TriggerKind
from conntrackd_guard.history.rows import Row

_HOLDS: Final = {reason.code: reason.label for reason in HoldReason}
_TRIGGERS: Final = {kind.value: kind.label for kind in TriggerKind}
EVIDENCE: Final = {
    Corroboration.CONFIRMED: "counters agree",
    Corroboration.CONTRADICTED: "counters disagree",
    Corroboration.UNKNOWN: "could not be checked",
}
BOUNDS: Final = {
    Bound.TARGET: "nothing held it back",
    Bound.MAX_LIMIT: "held back by max_limit",
    Bound.FLOOD: "held back by on_flood",
    Bound.BUDGET: "held back by the memory budget",
    Bound.MIN_AVAILABLE: "held back by min_available",
    Bound.CHAINS: "held back by the length of hash chains",
    Bound.INT_MAX: "the kernel accepts no more",
}
_OUTCOMES: Final = {"none": "nothing written", "rehearsed": "dry run", "not_applied": "not applied"}
"""Where the code is no plain English."""


def step(row: Row) -> str:
    """Return the limit before and, if it is to change, after: `262,144 → 393,216`."""
    limit = "-" if row.from_limit is None else f"{row.from_limit:,}"
    return limit if row.to_limit is None else f"{limit} → {row.to_limit:,}"


def outcome(row: Row) -> str:
    """Return how the write ended."""
    return _OUTCOMES.get(row.outcome, row.outcome)


def trigger(row: Row) -> str:
    """Return what led to a decision."""
    return _TRIGGERS.get(row.trigger, row.trigger)


def why(row: Row) -> str:
    """Return the reason of a decision; a code that this version does not know is shown as it is."""
    match row.verdict:
        case "hold":
            return _HOLDS.get(row.reason, row.reason)
        case "raise" if row.reason == "restore":
            return "restored after boot"
        case "raise":
            unchecked = " (unchecked)" if row.reason.endswith(Corroboration.UNKNOWN) else ""
            return f"{trigger(row)}{unchecked}"
        case _:
            return row.reason
