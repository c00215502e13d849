"""Fingerprints, merging, and which holds an operator has to act on."""

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
    TriggerKind,
)
from conntrackd_guard.core.records import changes_state, fingerprint, merges, needs_operator

PAST = a_record("past", Hold(reason=HoldReason.HISTORICAL))
WEB = PAST.observation.tables[0]
USERS = replace(WEB, user_owned=True)
REFUSED = replace(a_record("r", RAISE), outcome=Outcome(kind=OutcomeKind.REJECTED, errno=30, detail="read-only"))


def triggered(record: Record, **more: Any) -> Record:
    """Return the record with another trigger."""
    return replace(record, trigger=replace(record.trigger, **more))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (PAST, a_record("p", PAST.decision, tables=(replace(WEB, label="x", count=7),)), True),
        (PAST, a_record("p", PAST.decision, limit=4096), False),
        (
            triggered(PAST, message_kind=MessageKind.TABLE_FULL),
            triggered(PAST, message_kind=MessageKind.NEIGHBOUR_FULL),
            False,
        ),
        (PAST, triggered(PAST, namespace=7), False),
        (PAST, triggered(PAST, namespace=None), False),
        (PAST, a_record("p", PAST.decision, tables=(USERS,)), False),
        (a_record("u", PAST.decision, tables=(USERS,)), a_record("gone", PAST.decision, tables=()), True),
        (a_record("u", RAISE, tables=(USERS,)), triggered(a_record("r", RAISE, tables=(USERS,)), namespace=7), False),
        (REFUSED, replace(REFUSED, outcome=replace(REFUSED.outcome, detail="other words")), True),
        (REFUSED, triggered(REFUSED, kind=TriggerKind.FILLING_UP, namespace=7), True),
        (REFUSED, replace(REFUSED, outcome=replace(REFUSED.outcome, errno=13)), False),
        (REFUSED, a_record("a", RAISE, OutcomeKind.APPLIED), False),
    ],
)
def test_fingerprint(one: Record, other: Record, *, same: bool) -> None:
    """Figures and words are no part of it; the kind of message, the limit and a refusal's error are.

    Holds for users' namespaces, and for those that are gone, are the same.
    """
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
    """Each raise, override and conflict is a row of its own; repeats are counted."""
    assert (merges(record), changes_state(record)) == (merged, folded)


ACTIONABLE = [
    "at_ceiling",
    "buckets_lost",
    "chain_drops",
    "chains",
    "conflict",
    "flood",
    "impossible_count",
    "int_max",
    "long_chains",
    "memory_unknown",
    "over_budget",
    "over_budget_at_start",
    "reserve",
    "reserve_broken",
]


def test_which_holds_an_operator_has_to_act_on() -> None:
    """Those at a bound, a conflict, a broken counter and exceeded memory; time or a raise ends the others."""
    assert sorted(why.code for why in HoldReason if needs_operator(a_record("1", Hold(reason=why)))) == ACTIONABLE


@pytest.mark.parametrize(
    "record",
    [
        a_record("1", RAISE, OutcomeKind.APPLIED),
        a_record("1", RAISE, OutcomeKind.REJECTED),
        a_record("1", Override(kind=OverrideKind.PAUSE)),
        a_record("1", Hold(reason=HoldReason.AT_CEILING), OutcomeKind.UNKNOWN),
    ],
)
def test_an_operator_need_not_act_on_other_decisions(record: Record) -> None:
    """Such as raises, overrides, and a hold for a write with an unknown outcome."""
    assert not needs_operator(record)
