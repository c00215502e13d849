"""What is the same news: a table of two records each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from testbed.records import RAISE, a_record

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Hold,
    MessageKind,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Record,
    Table,
    TriggerKind,
)
from conntrackd_guard.core.records import changes_state, fingerprint, merges

PAST = a_record("past", Hold(reason=HoldReason.HISTORICAL))
REFUSED = replace(a_record("r", RAISE), outcome=Outcome(kind=OutcomeKind.REJECTED, errno=30, detail="read-only"))


def triggered(record: Record, **more: Any) -> Record:
    """Return the record with another trigger."""
    return replace(record, trigger=replace(record.trigger, **more))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (PAST, a_record("p", PAST.decision, tables=(Table(namespace=1, label="x", count=7),)), True),
        (PAST, a_record("p", PAST.decision, limit=4096), False),
        (
            triggered(PAST, message_kind=MessageKind.TABLE_FULL),
            triggered(PAST, message_kind=MessageKind.NEIGHBOUR_FULL),
            False,
        ),
        (PAST, triggered(PAST, namespace=7), False),
        (REFUSED, replace(REFUSED, outcome=replace(REFUSED.outcome, detail="other words")), True),
        (REFUSED, triggered(REFUSED, kind=TriggerKind.FILLING_UP, namespace=7), True),
        (REFUSED, replace(REFUSED, outcome=replace(REFUSED.outcome, errno=13)), False),
        (REFUSED, a_record("a", RAISE, OutcomeKind.APPLIED), False),
    ],
)
def test_identity(one: Record, other: Record, *, same: bool) -> None:
    """Figures and words are no part of it; the kind of line, the limit and a refusal's error are."""
    assert (fingerprint(one) == fingerprint(other)) is same


@pytest.mark.parametrize(
    ("record", "merged", "folded"),
    [
        (PAST, True, False),
        (REFUSED, True, True),
        (a_record("a", RAISE, OutcomeKind.APPLIED), False, True),
        (a_record("w", Hold(reason=HoldReason.LIMIT_LOWERED), trigger=TriggerKind.OTHER_WRITER), False, True),
        (a_record("o", Override(kind=OverrideKind.RESUME)), False, True),
    ],
)
def test_what_merges(record: Record, *, merged: bool, folded: bool) -> None:
    """Each raise, each order and each fight is a row of its own; what is only said again is counted."""
    assert (merges(record), changes_state(record)) == (merged, folded)
