"""What the guard remembers: `advance` as a table of records and the state they leave."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from testbed.hosts import LIMIT, NOW
from testbed.records import RAISE, a_record

from conntrackd_guard.core import tuning
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Corroboration,
    Decision,
    Hold,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Record,
    Refusal,
    State,
)
from conntrackd_guard.core.state import advance, fold, lost, rehearsed_limit

BUSY = State(
    last_raise_seconds=1.0,
    raise_seconds=(1.0,),
    set_limit=LIMIT,
    conflict_seconds=(2.0,),
    refusal=Refusal(errno=30, limit=LIMIT, count=3, until_seconds=NOW + 4),
)
REPLACED: dict[str, Any] = {"set_limit": None, "replaced_limit": LIMIT, "replaced_seconds": NOW}


def record(decision: Decision, outcome: OutcomeKind = OutcomeKind.NONE, **more: int | None) -> Record:
    """Return a record at NOW and LIMIT."""
    limit, after, errno = (more.get(name) for name in ("limit", "after", "errno"))
    plain = a_record("k", decision, boottime_seconds=NOW, limit=limit or LIMIT)
    return replace(plain, outcome=Outcome(kind=outcome, limit_after=after, errno=errno))


def hold(reason: HoldReason, limit: int = LIMIT) -> Record:
    """Return the record of a hold."""
    return record(Hold(reason=reason), limit=limit)


UNCONFIRMED = replace(RAISE, corroboration=Corroboration.UNKNOWN)
RAISED = replace(BUSY, last_raise_seconds=NOW, raise_seconds=(1.0, NOW), set_limit=393_216, refusal=None)


@pytest.mark.parametrize(
    ("record", "after"),
    [
        (record(RAISE, OutcomeKind.APPLIED, after=393_216), RAISED),
        (record(RAISE, OutcomeKind.REHEARSED, after=393_216), RAISED),
        # nobody knows what a kill left: it paces, and no limit is taken for ours
        (record(RAISE, OutcomeKind.UNKNOWN), replace(RAISED, set_limit=None)),
        (record(RAISE, OutcomeKind.NOT_APPLIED), BUSY),
        (record(UNCONFIRMED, OutcomeKind.APPLIED, after=393_216), replace(RAISED, unknown_seconds=NOW)),
        (record(UNCONFIRMED, OutcomeKind.NOT_APPLIED), BUSY),
        (hold(HoldReason.COOLDOWN), BUSY),
        (hold(HoldReason.CHANGED_UNDER_US), BUSY),
        (hold(HoldReason.LIMIT_RAISED, 2 * LIMIT), replace(BUSY, **REPLACED, others_limit=2 * LIMIT)),
        (
            hold(HoldReason.LIMIT_LOWERED, LIMIT - 1),
            replace(BUSY, **REPLACED, others_limit=LIMIT - 1, conflict_seconds=(2.0, NOW)),
        ),
        # lowered to what the guard set: that is in force again
        (hold(HoldReason.LIMIT_LOWERED, LIMIT), BUSY),
        (hold(HoldReason.RELOADED, LIMIT - 1), replace(BUSY, set_limit=None)),
        (hold(HoldReason.BUCKETS_CHANGED), BUSY),
        (
            record(Override(kind=OverrideKind.REVERT), OutcomeKind.APPLIED),
            replace(BUSY, set_limit=None, refusal=None, reverted=True),
        ),
        (record(Override(kind=OverrideKind.REVERT), OutcomeKind.REJECTED), BUSY),
        (record(Override(kind=OverrideKind.PAUSE)), BUSY),
        (record(Override(kind=OverrideKind.RESUME)), replace(BUSY, conflict_seconds=(), refusal=None)),
    ],
)
def test_advance(record: Record, after: State) -> None:
    """The state after each kind of record."""
    assert advance(BUSY, record) == after


@pytest.mark.parametrize("ahead", [1.0, 1e9, math.inf])
def test_a_record_dated_ahead_of_now_counts_as_made_now(ahead: float) -> None:
    """Else no raise could follow until then. One in time is left as it is."""
    later = a_record("k", RAISE, outcome=OutcomeKind.APPLIED, boottime_seconds=NOW + ahead)
    in_time = record(RAISE, OutcomeKind.APPLIED)
    assert advance(State(), later, NOW).last_raise_seconds == NOW
    assert advance(State(), in_time, NOW + 5).last_raise_seconds == NOW
    state, count = fold([in_time, later, later], NOW + 0.5)
    assert (state.raise_seconds, count) == ((NOW, NOW + 0.5, NOW + 0.5), 2)


def test_a_lowering_of_what_the_guard_never_set_is_no_conflict() -> None:
    """Only a value of the guard's own can be fought over."""
    assert advance(State(), hold(HoldReason.LIMIT_LOWERED, 1)) == State(others_limit=1)


@pytest.mark.parametrize(
    "after",
    [
        record(RAISE, OutcomeKind.APPLIED, after=393_216),
        hold(HoldReason.RELOADED, 5),
        record(Override(kind=OverrideKind.REVERT), OutcomeKind.APPLIED),
    ],
)
def test_another_programs_limit_stands_until_something_replaces_it(after: Record) -> None:
    """Further changes of others keep it up to date."""
    state = advance(advance(BUSY, hold(HoldReason.LIMIT_LOWERED, 5)), hold(HoldReason.LIMIT_LOWERED, 4))
    assert (state.others_limit, advance(state, after).others_limit) == (4, None)


def test_one_lowering_is_one_conflict() -> None:
    """After a fight the guard owns no limit, until it raises again."""
    state = advance(advance(BUSY, hold(HoldReason.LIMIT_LOWERED, 5)), hold(HoldReason.LIMIT_LOWERED, 4))
    assert state.conflict_seconds == (2.0, NOW)


def test_a_refused_write_backs_off_from_one_second_to_five_minutes() -> None:
    """1, 2, 4 … 256, then 300 s, for as long as errno and limit stay the same."""
    state, waits = State(), []
    for _ in range(12):
        state = advance(state, record(RAISE, OutcomeKind.REJECTED, errno=30))
        assert state.refusal is not None
        waits.append(state.refusal.until_seconds - NOW)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert state.raise_seconds == ()  # a refused write is no raise


@pytest.mark.parametrize(("errno", "limit"), [(13, LIMIT), (30, LIMIT + 1)])
def test_another_refusal_starts_again(errno: int, limit: int) -> None:
    """Another error or another limit is another matter."""
    state = advance(BUSY, record(RAISE, OutcomeKind.REJECTED, errno=errno, limit=limit))
    assert state.refusal == Refusal(errno=errno, limit=limit, count=1, until_seconds=NOW + 1)


@pytest.mark.parametrize(("raises", "spent"), [(20, 10), (3, 2), (0, 0)])
def test_a_lost_history_uses_half_of_the_rate_limit(raises: int, spent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cooldown runs from now, and half of the raises count as made."""
    monkeypatch.setattr(tuning, "MAX_RAISES", raises)
    assert lost(NOW) == State(last_raise_seconds=NOW, raise_seconds=(NOW,) * spent)


def test_the_state_stays_small() -> None:
    """However long the boot, what is remembered is bounded."""
    state = State(raise_seconds=(0.0,) * 1000, conflict_seconds=(0.0,) * tuning.MOST_CONFLICTS, set_limit=LIMIT)
    state = advance(state, hold(HoldReason.LIMIT_LOWERED, 1))
    state = advance(state, record(RAISE, OutcomeKind.APPLIED, after=2))
    assert (len(state.raise_seconds), len(state.conflict_seconds)) == (1000, tuning.MOST_CONFLICTS)
    assert (state.raise_seconds[-1], state.conflict_seconds[-1]) == (NOW, NOW)


@pytest.mark.parametrize(
    ("reached", "in_force", "counts"),
    [
        (98_304, 65_536, 98_304),
        (98_304, 98_304, None),
        (98_304, 131_072, None),
        (98_304, 0, None),
        (98_304, None, None),
    ],
)
def test_a_rehearsed_limit_counts_above_the_one_in_force(
    reached: int, in_force: int | None, counts: int | None
) -> None:
    """A dry run goes on from what it reached, unless the host has more by now, or no limit at all."""
    assert rehearsed_limit(State(set_limit=reached), in_force) == counts
    assert rehearsed_limit(State(), in_force) is None
