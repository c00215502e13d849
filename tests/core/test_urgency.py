"""Which holds a person must hear of."""

from __future__ import annotations

import pytest
from testbed.records import RAISE, a_record

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, OutcomeKind, Override, OverrideKind, Record
from conntrackd_guard.core.records import needs_operator

TOLD = [
    "at_ceiling",
    "chains",
    "conflict",
    "flood",
    "int_max",
    "over_budget",
    "over_budget_at_start",
    "reserve",
    "reserve_broken",
]


def test_every_reason_is_sorted() -> None:
    """Bounds that end raising, a stand-off and a broken reserve are told; what time or a raise cures is not."""
    assert sorted(why.code for why in HoldReason if needs_operator(a_record("1", Hold(reason=why)))) == TOLD


@pytest.mark.parametrize(
    "record",
    [
        a_record("1", RAISE, OutcomeKind.APPLIED),
        a_record("1", RAISE, OutcomeKind.REJECTED),
        a_record("1", Override(kind=OverrideKind.PAUSE)),
        a_record("1", Hold(reason=HoldReason.AT_CEILING), OutcomeKind.UNKNOWN),
    ],
)
def test_no_other_decision_is_told(record: Record) -> None:
    """Raises and orders wake nobody, nor does a hold that stands for a write that nobody can explain."""
    assert not needs_operator(record)
