"""What makes two records the same news.

Pure. Figures are no part of it: a table that stands at a reached ceiling for a day is one piece of
news, however its count moves.
"""

from __future__ import annotations

from typing import assert_never

from conntrackd_guard.core.codec import verdict
from conntrackd_guard.core.model import Hold, OutcomeKind, Override, Raise, Record, TriggerKind


def reason(record: Record) -> str:
    """Return why, as one stable word or two.

    A hold: the code of its reason (`over_budget`). A raise: `restore` at start, else its trigger and what the
    tables said of it (`kernel_message confirmed`); what ended the step is `bound` in its arithmetic. An order: its
    kind (`revert`); what the operator wrote is part of the sentence.
    """
    match record.decision:
        case Hold(reason=why):
            return why.code
        case Raise() if record.trigger.kind is TriggerKind.START:
            return "restore"
        case Raise(corroboration=corroboration):
            return f"{record.trigger.kind} {corroboration}"
        case Override(kind=kind):
            return kind.value
        case other:
            assert_never(other)


def changes_state(record: Record) -> bool:
    """Return whether `core.state.advance` can care: raises (refused ones too), orders, other writers."""
    return not isinstance(record.decision, Hold) or record.trigger.kind is TriggerKind.OTHER_WRITER


def is_refused(record: Record) -> bool:
    """Return whether a raise was tried and the kernel did not take it."""
    return isinstance(record.decision, Raise) and record.outcome.kind is OutcomeKind.REJECTED


def merges(record: Record) -> bool:
    """Return whether equal records are one piece of news: plain holds and refused writes."""
    return is_refused(record) or not changes_state(record)


def identity(record: Record) -> str:
    """Return who, what made the guard look, verdict, reason and limit as one text: equal texts are the same news.

    A refused write is about limit and error alone, whichever table it was tried for.
    """
    limit, trigger = record.observation.limit, record.trigger
    parts: tuple[object, ...] = ("refused", record.outcome.errno, limit)
    if not is_refused(record):
        parts = (trigger.namespace, trigger.kind, trigger.message_kind, verdict(record.decision), reason(record), limit)
    return "|".join(map(str, parts))
