"""The law: `decide` sees one observation, one state and one policy, and nothing else.

No clock, no file, no log. The same inputs give the same decision, so any row of a history can be
decided again from what the row holds. It never asks for a lower limit, never for one over the
ceiling, the budget, the reserve or INT_MAX, and never for two raises inside `cooldown`.

The questions are asked in this order, and the first one that ends the matter gives the reason:
is there a limit to raise; is it ours to answer; is it true; may we; is it too soon; is it a flood; what fits.
"""

from __future__ import annotations

import math

from conntrackd_guard.core import budget, tuning
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.corroboration import concerned_tables, corroborate
from conntrackd_guard.core.flood import flooded, may_step_plainly, raised_for
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Arithmetic,
    Bound,
    Corroboration,
    Hold,
    MessageKind,
    Observation,
    PersistedLimit,
    Raise,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.usage import TICK_SECONDS, is_stable, presses

RECHECK_SECONDS = 5.0
"""A hold that conditions may end is decided again this often: as often as the kernel repeats its line."""
RUNWAY_FACTOR = 4
"""The demand term takes the limit to four times itself at most: a rate seen for a second is no forecast."""
SMALLEST_PART = 0.05
"""A step that fits only partly is taken down to this share of the limit; below it, it isn't worth a write."""

_DEFAULT_FACTORS = (1, 4, 8)
"""The kernel's default limit is so many times the buckets: since 5.15, before, and with an explicit `hashsize=`."""
_RESUME = "`guard resume` ends a pause; /etc/conntrackd-guard/pause is ended by removing it."

_SIBLINGS = {
    MessageKind.EXPECTATION_FULL: (
        HoldReason.EXPECTATION_TABLE,
        "Look at `conntrack -L expect`; the limit is net.netfilter.nf_conntrack_expect_max.",
    ),
    MessageKind.NEIGHBOUR_FULL: (
        HoldReason.NEIGHBOUR_TABLE,
        "Look at `ip neigh`; the limits are net.ipv4.neigh.default.gc_thresh3 and its IPv6 twin.",
    ),
    MessageKind.SUPPRESSED: (
        HoldReason.SUPPRESSED,
        "Lines were lost to net.core.message_cost; what they said shows in the drop counters.",
    ),
}
_BOUND_HOLDS = {
    Bound.MAX_LIMIT: (HoldReason.AT_CEILING, "Raise `max_limit` in the settings if the host can bear more."),
    Bound.FLOOD: (HoldReason.FLOOD, "`guard top` has commands against it; `on_flood: raise` would raise all the same."),
    Bound.BUDGET: (
        HoldReason.OVER_BUDGET,
        "Raise `budget`, add memory, or shorten timeouts (`guard show` has the sum).",
    ),
    Bound.MIN_AVAILABLE: (HoldReason.RESERVE, "Free memory on this host, or lower `min_available`."),
    Bound.INT_MAX: (HoldReason.INT_MAX, "Find out why so many flows are kept: no limit can help."),
}


def decide(trigger: Trigger, observation: Observation, state: State, policy: Policy) -> Raise | Hold:
    """Return what to do about `trigger`. Total: every input has an answer, and a Hold says why."""
    hold = _not_ours(trigger, observation, policy)
    if hold is not None:
        return hold
    if trigger.persisted is not None:
        return _at_start(trigger.persisted, observation, policy)
    truth, hold = _truth(trigger, observation, state, policy)
    if hold is not None:
        return hold
    needy = _needy(trigger, observation, policy)
    hold = _forbidden(needy, truth, observation, state, policy) or _too_soon(trigger, needy, observation, state, policy)
    if hold is not None:
        return hold
    now = observation.boottime_seconds
    # Of a table that can't be judged, what fills the others tells nothing.
    is_flooded = False if truth is Corroboration.UNKNOWN else flooded(needy, policy)
    if is_flooded is None and not may_step_plainly(state, now):  # a sample comes with the end of this turn
        return Hold(reason=HoldReason.UNSAMPLED, retry_seconds=now + TICK_SECONDS, corroboration=truth)
    arithmetic = _sum(needy, truth, observation, policy, is_flooded=is_flooded)
    return _what_fits(arithmetic, truth, observation, sampled=is_flooded is not None)


def _not_ours(  # noqa: PLR0911 - one return an answer
    trigger: Trigger, observation: Observation, policy: Policy
) -> Hold | None:
    """Is there a limit to raise, and is this trigger a reason to?"""
    if not trigger.live:
        return Hold(reason=HoldReason.HISTORICAL)
    if trigger.message_kind in _SIBLINGS:
        reason, advice = _SIBLINGS[trigger.message_kind]
        return Hold(reason=reason, advice=(advice,))
    if observation.limit is None:
        return Hold(reason=HoldReason.NO_CONNTRACK)
    if observation.limit == 0:
        return Hold(reason=HoldReason.UNLIMITED, retry_seconds=observation.boottime_seconds + RECHECK_SECONDS)
    if trigger.kind is TriggerKind.OTHER_WRITER:
        lowered = trigger.was is None or observation.limit < trigger.was
        return Hold(reason=HoldReason.LIMIT_LOWERED if lowered else HoldReason.LIMIT_RAISED)
    if trigger.kind is TriggerKind.MEMORY:
        broken = budget.is_broken(observation, policy)
        return Hold(reason=HoldReason.RESERVE_BROKEN if broken else HoldReason.RESOLVED, arithmetic=broken)
    switched_on = {
        TriggerKind.KERNEL_MESSAGE: policy.kernel_message,
        TriggerKind.FILLING_UP: policy.raise_early,
        TriggerKind.START: trigger.persisted is not None,
    }
    return None if switched_on.get(trigger.kind) else Hold(reason=HoldReason.TRIGGER_OFF)


def _at_start(kept: PersistedLimit, observation: Observation, policy: Policy) -> Raise | Hold:
    """Is the kept limit in force, and may it be put back? Only over a kernel default: another value is somebody's."""
    limit = observation.limit or 0
    initial = tuple(table for table in observation.tables if table.initial)
    charged = budget.charges(observation, initial, policy, unknown=not initial)
    if limit >= kept.limit:
        arithmetic = budget.work_out(
            observation, charged, limit, 0.0, policy, counted=(Bound.BUDGET, Bound.MIN_AVAILABLE)
        )
        if arithmetic.bound is not Bound.TARGET:
            step = "It is never lowered unasked: `guard revert --all` goes back to the limit before the first raise."
            return Hold(reason=HoldReason.OVER_BUDGET_AT_START, arithmetic=arithmetic, advice=(step,))
        return Hold(reason=HoldReason.ALREADY_IN_FORCE)
    buckets = observation.buckets or 0
    if limit not in {factor * buckets for factor in _DEFAULT_FACTORS}:
        step = "`guard doctor` names what sets it at boot. The next need raises it from there."
        return Hold(reason=HoldReason.SET_ELSEWHERE, advice=(step,))
    if observation.pause is not None:
        return Hold(reason=HoldReason.PAUSED, advice=(_RESUME,))
    return _what_fits(
        budget.work_out(observation, charged, kept.limit, 0.0, policy), Corroboration.CONFIRMED, observation
    )


def _truth(  # noqa: PLR0911 - one return an answer
    trigger: Trigger, observation: Observation, state: State, policy: Policy
) -> tuple[Corroboration, Hold | None]:
    """Do the tables bear it out?"""
    now = observation.boottime_seconds
    limit = observation.limit or 0
    if trigger.kind is TriggerKind.FILLING_UP:
        needy = _needy(trigger, observation, policy)
        if not needy:
            return Corroboration.CONTRADICTED, Hold(reason=HoldReason.RESOLVED)
        if all(is_stable(table.count, limit, table.demand_per_second) for table in needy):
            return Corroboration.CONFIRMED, Hold(reason=HoldReason.STABLE, retry_seconds=now + RECHECK_SECONDS)
        return Corroboration.CONFIRMED, None
    truth = corroborate(trigger, observation)
    if truth is Corroboration.CONFIRMED:
        if observation.kernel_limit != observation.limit and not _pressing(trigger, observation, policy):
            return truth, Hold(reason=HoldReason.DRY_RUN_SUFFICIENT, corroboration=truth)
        return truth, None
    # A table that was judged has shown that the raise made room; one that can't be judged may be full again.
    covered = tuning.cooldown_seconds(policy, full=truth is not Corroboration.CONTRADICTED)
    if state.last_raise_seconds is not None and (trigger.message_seconds or now) < state.last_raise_seconds + covered:
        return truth, Hold(reason=HoldReason.SUPERSEDED, corroboration=truth)
    if truth is Corroboration.CONTRADICTED:
        return truth, Hold(reason=HoldReason.CONTRADICTED, corroboration=truth)
    stepped = state.unknown_seconds is not None and now < state.unknown_seconds + tuning.MAX_RAISES_WINDOW_SECONDS
    if stepped:
        return truth, Hold(reason=HoldReason.UNCONFIRMED, retry_seconds=now + RECHECK_SECONDS, corroboration=truth)
    return truth, None


def _needy(trigger: Trigger, observation: Observation, policy: Policy) -> tuple[Table, ...]:
    """Return the tables to raise for: those the line is about, over the threshold, or about to be full."""
    about, pressing = concerned_tables(trigger, observation), _pressing(trigger, observation, policy)
    return tuple(table for table in observation.tables if table in about or table in pressing)


def _pressing(trigger: Trigger, observation: Observation, policy: Policy) -> tuple[Table, ...]:
    """Return the tables over the threshold, or about to be full.

    The table of a pressure episode stays one until it is RELEASE below the threshold, and no longer.
    """
    limit = observation.limit or 0
    episode = trigger.namespace if trigger.kind is TriggerKind.FILLING_UP else None
    return tuple(
        t
        for t in observation.tables
        if presses(t.count, limit, t.demand_per_second, policy, already=t.namespace == episode)
    )


def _forbidden(
    needy: tuple[Table, ...], truth: Corroboration, observation: Observation, state: State, policy: Policy
) -> Hold | None:
    """May we? The operator outranks policy; a fight and an untrusted namespace end the matter."""
    now = observation.boottime_seconds
    if needy and not policy.trust_user_namespaces and all(table.user_owned for table in needy):
        return Hold(
            reason=HoldReason.UNTRUSTED_NAMESPACE,
            retry_seconds=now + RECHECK_SECONDS,
            corroboration=truth,
            advice=("Set `trust_user_namespaces: true` if the containers of this host are trusted.",),
        )
    if observation.pause is not None:
        return Hold(
            reason=HoldReason.PAUSED,
            retry_seconds=now + RECHECK_SECONDS,
            corroboration=truth,
            advice=(_RESUME,),
        )
    fights = [at for at in state.conflict_seconds if at > now - tuning.CONFLICT_WINDOW_SECONDS]
    if policy.conflict_limit and len(fights) >= policy.conflict_limit:
        return Hold(
            reason=HoldReason.CONFLICT,
            retry_seconds=now + RECHECK_SECONDS,
            corroboration=truth,
            advice=("Find who lowers net.netfilter.nf_conntrack_max and change it there; then `guard resume`.",),
        )
    return None


def _too_soon(
    trigger: Trigger, needy: tuple[Table, ...], observation: Observation, state: State, policy: Policy
) -> Hold | None:
    """Pace: a refused write backs off, a raise is given time, and pressure has an allowance."""
    now = observation.boottime_seconds
    refusal = state.refusal
    if refusal is not None and refusal.limit == observation.limit and now < refusal.until_seconds:
        return Hold(reason=HoldReason.WRITE_REFUSED, retry_seconds=refusal.until_seconds)
    dropping = any(t.count >= (observation.limit or 0) or t.dropped for t in needy)
    if state.last_raise_seconds is not None:
        settled = state.last_raise_seconds + tuning.cooldown_seconds(policy, full=dropping)
        if now < settled:
            return Hold(reason=HoldReason.COOLDOWN, retry_seconds=settled)
    recent = [at for at in state.raise_seconds if at > now - tuning.MAX_RAISES_WINDOW_SECONDS]
    if trigger.kind is TriggerKind.FILLING_UP and not dropping and len(recent) >= tuning.MAX_RAISES:
        return Hold(
            reason=HoldReason.RATE_LIMITED,
            retry_seconds=min(recent[-tuning.MAX_RAISES] + tuning.MAX_RAISES_WINDOW_SECONDS, now + RECHECK_SECONDS),
            advice=("The table keeps growing: `guard history` shows how fast. Find out what opens these flows.",),
        )
    return None


def _sum(
    needy: tuple[Table, ...],
    truth: Corroboration,
    observation: Observation,
    policy: Policy,
    *,
    is_flooded: bool | None,
) -> Arithmetic:
    """How far the need asks to go, and what of it the host can bear."""
    unknown = truth is Corroboration.UNKNOWN
    demand = 0.0 if unknown or is_flooded is None else _demand(needy, policy)
    wanted = _wanted(observation.limit or 0, observation, demand, policy)
    charged = budget.charges(observation, needy, policy, unknown=unknown)
    return budget.work_out(observation, charged, wanted, demand, policy, flooded=bool(is_flooded))


def _what_fits(
    arithmetic: Arithmetic, truth: Corroboration, observation: Observation, *, sampled: bool = True
) -> Raise | Hold:
    """Is what fits worth a write?"""
    limit = observation.limit or 0
    advice = _advice(arithmetic, unknown=truth is Corroboration.UNKNOWN, sampled=sampled)
    if arithmetic.target > limit and (
        arithmetic.target >= arithmetic.wanted or arithmetic.target >= math.ceil(limit * (1 + SMALLEST_PART))
    ):
        return Raise(
            target=arithmetic.target,
            arithmetic=arithmetic,
            corroboration=truth,
            buckets_target=arithmetic.buckets_target,
            advice=advice,
        )
    if arithmetic.bound is Bound.CHAINS:
        reason, step = HoldReason.CHAINS, _buckets_command(arithmetic)
    else:
        reason, step = _BOUND_HOLDS[arithmetic.bound]
    return Hold(
        reason=reason,
        retry_seconds=observation.boottime_seconds + RECHECK_SECONDS,
        arithmetic=arithmetic,
        corroboration=truth,
        advice=(step,),
    )


def _demand(needy: tuple[Table, ...], policy: Policy) -> float:
    """Return the largest demand of a table that is raised for; a flood's beside it is none, where `on_flood` bounds it."""
    tables = raised_for(needy, policy)
    if policy.on_flood.restricts:
        tables = tuple(table for table in tables if not table.flooded) or tables
    return max((table.demand_per_second or 0.0 for table in tables), default=0.0)


def _wanted(limit: int, observation: Observation, demand: float, policy: Policy) -> int:
    """Return what the need asks for. The last term brings every table below the threshold."""
    largest = max((table.count for table in observation.tables), default=0)
    return max(
        math.ceil(limit * policy.growth_factor),
        limit + tuning.MIN_STEP,
        min(math.ceil(limit + demand * tuning.LOOKAHEAD_SECONDS), RUNWAY_FACTOR * limit),
        math.floor(largest / policy.threshold) + 1,
    )


def _advice(arithmetic: Arithmetic, *, unknown: bool, sampled: bool) -> tuple[str, ...]:
    """What to do about what raising alone won't cure."""
    advice = []
    if unknown:
        advice.append("The table could not be judged: one plain step, charged as one full table.")
    if not sampled:
        advice.append("No sample tells yet whether a flood fills the table: one plain step, and a sample after it.")
    if arithmetic.target < arithmetic.wanted and arithmetic.bound in _BOUND_HOLDS:
        advice.append(f"Only part of the step fits. {_BOUND_HOLDS[arithmetic.bound][1]}")
    if arithmetic.chain is not None and arithmetic.chain > budget.CHAIN_ADVISE and arithmetic.buckets_target is None:
        advice.append(f"Hash chains may reach {arithmetic.chain:.0f}. {_buckets_command(arithmetic)}")
    return tuple(advice)


def _buckets_command(arithmetic: Arithmetic) -> str:
    wanted = -(-arithmetic.wanted // budget.BUCKETS_ROUNDED_TO) * budget.BUCKETS_ROUNDED_TO
    stall_ms = arithmetic.in_use * 0.5 / 1000  # 0.5 µs an entry, all locks held
    return (
        f"More buckets: `sysctl -w net.netfilter.nf_conntrack_buckets={wanted}` "
        f"(stalls traffic for about {stall_ms:.0f} ms now), or `buckets: match`."
    )
