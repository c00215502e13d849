"""What makes two records the same news.

Pure. Figures are no part of it: a table that stands at a reached ceiling for a day is one piece of
news, however its count moves.
"""

from __future__ import annotations

from typing import assert_never

from conntrackd_guard.core.codec import verdict
from conntrackd_guard.core.model import Hold, Order, Raise, Record, TriggerKind


def reason(record: Record) -> str:
    """Return why, as one stable word or two.

    A hold: the code of its reason (`over_budget`). A raise: `restore` at start, else its trigger and what the
    tables said of it (`kernel_line confirmed`); what ended the step is `bound` in its arithmetic. An order: its
    kind (`revert`); what the operator wrote is part of the sentence.
    """
    match record.decision:
        case Hold(reason=why):
            return why.code
        case Raise() if record.trigger.kind is TriggerKind.START:
            return "restore"
        case Raise(corroboration=corroboration):
            return f"{record.trigger.kind} {corroboration}"
        case Order(kind=kind):
            return kind.value
        case other:
            assert_never(other)


def identity(record: Record) -> str:
    """Return namespace, trigger, verdict, reason and limit as one text: equal texts are merged."""
    parts = (record.trigger.namespace, record.trigger.kind, verdict(record.decision), reason(record))
    return "|".join(str(part) for part in (*parts, record.observation.limit))
