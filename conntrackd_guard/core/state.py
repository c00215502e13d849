"""The guard's memory. Pure: `advance` folded over this boot's records is the whole state."""

import math
from collections.abc import Iterable
from dataclasses import replace

from conntrackd_guard.core import tuning
from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.limits import is_lower
from conntrackd_guard.core.model import (
    Corroboration,
    Hold,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Raise,
    Record,
    Refusal,
    State,
    TriggerKind,
)

FIRST_REFUSAL_SECONDS = 1.0
LONGEST_REFUSAL_SECONDS = 300.0
_RAISED = frozenset({OutcomeKind.APPLIED, OutcomeKind.REHEARSED, OutcomeKind.UNKNOWN})
"""Outcomes that count as a raise: an unknown one may have been."""
_RAISES_KEPT = 1000


def conflicts(state: State, now_seconds: float) -> int:
    """Return the number of conflicts within the window. `now_seconds` is CLOCK_BOOTTIME."""
    return sum(at > now_seconds - tuning.CONFLICT_WINDOW_SECONDS for at in state.conflict_seconds)


def fold(records: Iterable[Record], now_seconds: float) -> tuple[State, int]:
    """Return the state after a boot's records, oldest first, and how many of them are dated ahead of now (CLOCK_BOOTTIME).

    Those count as made now: after a return to a snapshot, in a time namespace or in a damaged row, a raise to come would
    hold all others until then.
    """
    state, ahead = State(), 0
    for record in records:
        state = advance(state, record, now_seconds)
        ahead += record.observation.boottime_seconds > now_seconds
    return state, ahead


def advance(state: State, record: Record, latest_seconds: float = math.inf) -> State:  # noqa: PLR0911 - one return a case
    """Return the state after `record`, made at `latest_seconds` (CLOCK_BOOTTIME) at the latest.

    A record that changes nothing returns the state itself.
    """
    now, outcome = min(record.observation.boottime_seconds, latest_seconds), record.outcome
    match record.decision:
        case Raise(corroboration=truth) if outcome.kind in _RAISED:
            return replace(
                state,
                last_raise_seconds=now,
                raise_seconds=(*state.raise_seconds, now)[-_RAISES_KEPT:],
                set_limit=outcome.limit_after,
                replaced_limit=None,
                others_limit=None,
                rest_limit=rest_after(record, state.rest_limit),
                refusal=None,
                unknown_seconds=now if truth is Corroboration.UNKNOWN else state.unknown_seconds,
                reverted=state.reverted and record.trigger.kind is TriggerKind.START,  # which puts back what was there
            )
        case Raise() if outcome.kind is OutcomeKind.REJECTED:
            return replace(state, refusal=_refused(state.refusal, outcome, record.observation.limit or 0, now))
        case Hold(reason=HoldReason.LIMIT_LOWERED | HoldReason.LIMIT_RAISED):
            after = _replaced(state, record, now, counts=not record.trigger.restarted)
            others = record.observation.limit if after.set_limit is None else None
            return replace(after, others_limit=others, rest_limit=after.rest_limit if others is None else None)
        case Hold(reason=HoldReason.RELOADED):
            return replace(state, set_limit=None, replaced_limit=None, others_limit=None, rest_limit=None)
        case Override(kind=OverrideKind.REVERT) if outcome.kind is OutcomeKind.APPLIED:
            found = replace(state, set_limit=None, replaced_limit=None, others_limit=None, rest_limit=None)
            return replace(found, refusal=None, reverted=True)
        case Override(kind=OverrideKind.RESUME):
            return replace(state, conflict_seconds=(), refusal=None, reverted=False)
        case _:
            return state


def excused(state: State, record: Record) -> State:
    """Return the state without the conflict that a lowering counted as until evidence showed that it is a restart."""
    before = replace(record, trigger=replace(record.trigger, restarted=False))
    counted = {*advance(record.state, before).conflict_seconds} - {*advance(record.state, record).conflict_seconds}
    return replace(state, conflict_seconds=tuple(at for at in state.conflict_seconds if at not in counted))


def lost(now: float) -> State:
    """Return the state for a lost history: the cooldown starts now, and half of the rate limit is used up."""
    return State(last_raise_seconds=now, raise_seconds=(now,) * -(-tuning.MAX_RAISES // 2))


def rest_after(record: Record, rest_limit: int | None) -> int | None:
    """Return the persisted limit that a raise leaves to be restored, as it is higher; None if the raise is what counts.

    Either a start restored a part, as memory was short at that moment; or `rest_limit` was due before, and it still is.
    """
    decision, persisted, after = record.decision, record.trigger.persisted, record.outcome.limit_after
    if persisted is not None:
        is_short = isinstance(decision, Raise) and decision.arithmetic.bound is Bound.MIN_AVAILABLE
        rest_limit = persisted.limit if is_short else None
    return rest_limit if after is None or after < (rest_limit or 0) else None


def rehearsed_limit(state: State, in_force: int | None) -> int | None:
    """Return the limit that a dry run has reached; None if the one in force is as high, or unlimited."""
    return state.set_limit if in_force and (state.set_limit or 0) > in_force else None


def _replaced(state: State, record: Record, now: float, *, counts: bool) -> State:
    """Return the state after another program's change: a lowering below the guard's own value, or `min_limit`, is a conflict.

    Unless it doesn't count, or that value is back, or a higher one there, within STANDING_SECONDS: it was passing.
    """
    limit, was = record.observation.limit or 0, record.trigger.was
    ours, since, conflicts = state.set_limit, now, state.conflict_seconds
    if ours is None:
        ours, since = state.replaced_limit, state.replaced_seconds
        if ours is None or now - since > tuning.STANDING_SECONDS:
            if counts and record.trigger.below_minimum and was is not None and is_lower(limit, was):
                conflicts = (*conflicts, now)[-tuning.MOST_CONFLICTS :]
            return replace(state, replaced_limit=None, conflict_seconds=conflicts)
        if conflicts[-1:] == (since,):
            conflicts = conflicts[:-1]
    if limit == ours:
        return replace(state, set_limit=ours, replaced_limit=None, conflict_seconds=conflicts)
    if counts and is_lower(limit, ours):
        conflicts = (*conflicts, since)[-tuning.MOST_CONFLICTS :]
    return replace(state, set_limit=None, replaced_limit=ours, replaced_seconds=since, conflict_seconds=conflicts)


def _refused(before: Refusal | None, outcome: Outcome, limit: int, now: float) -> Refusal:
    """Back off from 1 s to 5 min; another limit or another error starts again."""
    same = before is not None and before.limit == limit and before.errno == (outcome.errno or 0)
    count = before.count + 1 if before is not None and same else 1
    wait = min(FIRST_REFUSAL_SECONDS * 2 ** min(count - 1, 16), LONGEST_REFUSAL_SECONDS)
    return Refusal(errno=outcome.errno or 0, limit=limit, count=count, until_seconds=now + wait)
