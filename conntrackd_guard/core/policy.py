"""Decide about one trigger. Pure: no clock, no file, no log.

The same inputs give the same decision, so any row of a history can be decided again from the row
alone. A decision never lowers the limit, never exceeds `max_limit`, the budget, `min_available` or
INT_MAX, and never makes two raises within the cooldown.

`GATES` lists the questions in order. The first gate that returns a hold ends the matter; if none
does, `fit` takes as much of the step as the host can bear.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from conntrackd_guard.core import budget, chains, tuning
from conntrackd_guard.core.arithmetic import Arithmetic, Bound
from conntrackd_guard.core.assessment import Assessment, assess
from conntrackd_guard.core.configuration import Buckets, FloodAction, FloodResponse, Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.kernel_default import default_limit
from conntrackd_guard.core.limits import is_lower
from conntrackd_guard.core.model import (
    INT_MAX,
    Corroboration,
    Hold,
    LoadFacts,
    MessageKind,
    NamespaceOwner,
    Observation,
    Raise,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.usage import BRIM_USE, TICK_SECONDS, seconds_to_full

RECHECK_SECONDS = 5.0
"""Interval for deciding again about a hold that conditions may end: the kernel's own interval between messages."""
LOOKAHEAD_FACTOR = 4
"""The demand term takes the limit to at most four times itself: a rate seen for a second is no forecast."""
BURST_FACTOR = 2
"""The same for growth since the last reading alone, which counts from BRIM_USE on: it may be over already."""
SMALLEST_PART = 0.05
"""A partial step below this share of the limit isn't worth a write."""
SAMPLE_SECONDS = 30.0
"""Validity of a flood sample, and of one plain step without a sample."""

_BROKEN_COUNT = "Look for a module or driver that breaks the counter (`guard doctor`); only a reboot resets it."
_RESUME = "`guard resume` ends a pause; to end /etc/conntrackd-guard/pause, remove the file."
_READABLE = (
    "See that the guard may read that file: `ProcSubset=pid` in a unit hides it. The next good reading ends this."
)

_UNTRUSTED: dict[NamespaceOwner | None, tuple[HoldReason, str]] = {
    NamespaceOwner.USER: (
        HoldReason.UNTRUSTED_NAMESPACE,
        "Set `trust_user_namespaces: true` if the containers of this host are trusted.",
    ),
    NamespaceOwner.UNKNOWN: (
        HoldReason.OWNER_UNKNOWN,
        "`systemctl start conntrackd-guard-namespaces`, or in a pod its container `owners`, reads them; see `guard doctor`.",
    ),
    NamespaceOwner.NONE: (
        HoldReason.UNREACHABLE_NAMESPACE,
        "If it is yours, name it while a process is in it: `ip netns attach NAME PID`.",
    ),
}
"""Holds for namespaces that may be any user's, unless the policy trusts them."""

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
        "net.core.message_cost suppressed messages; the drop counters show the drops.",
    ),
}
_BOUND_HOLDS = {
    Bound.MAX_LIMIT: (HoldReason.AT_CEILING, "Raise `max_limit` in the settings if the host can bear more."),
    Bound.FLOOD: (HoldReason.FLOOD, "`guard top` has commands against it; `on_flood: raise` would raise all the same."),
    Bound.BUDGET: (
        HoldReason.OVER_BUDGET,
        "Raise `budget`, add memory, or shorten timeouts (`guard show` has the calculation).",
    ),
    Bound.MIN_AVAILABLE: (HoldReason.RESERVE, "Free memory on this host, or lower `min_available`."),
    Bound.INT_MAX: (HoldReason.INT_MAX, "Find out why so many flows are kept: no limit can help."),
}

Gate = Callable[[Assessment, State, Policy], Hold | None]


def decide(trigger: Trigger, observation: Observation, state: State, policy: Policy) -> Raise | Hold:
    """Return the decision about `trigger`. Total: every input has an answer, and a hold has a reason."""
    return resolve(assess(trigger, observation, policy), state, policy)


def decide_if_full(observation: Observation, state: State, policy: Policy) -> Raise | Hold:
    """Return the decision if the fullest table that is raised for filled up, but not with a flood: no sample is taken."""
    then, full = budget.filled(observation, policy)
    trigger = Trigger(kind=TriggerKind.KERNEL_MESSAGE, message_kind=MessageKind.TABLE_FULL, namespace=full.namespace)
    plain = replace(policy, on_flood=FloodResponse())
    return decide(trigger, replace(then, kernel_limit=observation.limit), state, plain)


def resolve(case: Assessment, state: State, policy: Policy) -> Raise | Hold:
    """Return the decision about a trigger that is assessed already."""
    gates = GATES if case.trigger.persisted is None else START_GATES
    for gate in MINIMUM_GATES if case.trigger.kind is TriggerKind.MINIMUM else gates:
        if (hold := gate(case, state, policy)) is not None:
            return hold
    return fit(case, state, policy)


def unanswerable(  # noqa: C901, PLR0911 - one return an answer
    case: Assessment, _: State, policy: Policy
) -> Hold | None:
    """Hold unless there is a limit to raise and the trigger is a reason to raise it."""
    trigger, observation = case.trigger, case.observation
    if not trigger.live:
        return Hold(reason=HoldReason.HISTORICAL)
    if trigger.message_kind in _SIBLINGS:
        reason, advice = _SIBLINGS[trigger.message_kind]
        return Hold(reason=reason, advice=(advice,))
    if observation.limit is None:
        return Hold(reason=HoldReason.NO_CONNTRACK)
    if trigger.kind is TriggerKind.OTHER_WRITER:
        return changed(trigger, observation)
    if trigger.kind is TriggerKind.CHAINS:
        return _long_chains(observation, policy)
    if not 0 < observation.limit <= INT_MAX:  # what `limits.is_unlimited` says, without a call
        return Hold(reason=HoldReason.UNLIMITED, retry_seconds=observation.boottime_seconds + RECHECK_SECONDS)
    match trigger.kind:
        case TriggerKind.MEMORY:
            broken = budget.is_broken(case, policy)
            return Hold(reason=HoldReason.RESERVE_BROKEN if broken else HoldReason.RESOLVED, arithmetic=broken)
        case TriggerKind.KERNEL_MESSAGE:
            return None
        case TriggerKind.FILLING_UP:
            is_on = policy.raise_early
        case TriggerKind.START | TriggerKind.OVERRIDE:
            is_on = trigger.persisted is not None
        case TriggerKind.MINIMUM:
            is_on = policy.min_limit is not None
    return None if is_on else Hold(reason=HoldReason.TRIGGER_OFF)


def changed(trigger: Trigger, observation: Observation) -> Hold:
    """Return the decision about what changed besides the guard's own writes. It needs no assessment."""
    limit = observation.limit or 0
    if trigger.reloaded:
        return Hold(reason=HoldReason.RELOADED)
    if trigger.was == limit:
        return Hold(reason=HoldReason.BUCKETS_CHANGED)
    lowered = trigger.was is None or is_lower(limit, trigger.was)
    return Hold(reason=HoldReason.LIMIT_LOWERED if lowered else HoldReason.LIMIT_RAISED)


def unconfirmed(  # noqa: C901, PLR0911 - one return an answer
    case: Assessment, state: State, policy: Policy
) -> Hold | None:
    """Hold unless the tables confirm the trigger, or can't be judged and no plain step was made for such a message."""
    trigger, observation, truth = case.trigger, case.observation, case.corroboration
    now = observation.boottime_seconds
    if trigger.kind is TriggerKind.FILLING_UP:
        if not case.is_pressing:
            return Hold(reason=HoldReason.RESOLVED)
        # Beside this table, one that is not raised for is no need.
        is_needed = case.trusted or any(table.namespace == trigger.namespace for table in case.needy)
        return None if is_needed else Hold(reason=HoldReason.STABLE, retry_seconds=now + RECHECK_SECONDS)
    if truth is Corroboration.CONFIRMED:
        if observation.kernel_limit != observation.limit and not case.is_pressing:
            return Hold(reason=HoldReason.DRY_RUN_SUFFICIENT, corroboration=truth)
        return None
    for one in observation.impossible if truth is Corroboration.UNKNOWN else ():
        if trigger.namespace == one.namespace or (trigger.namespace is None and observation.complete):
            retry = now + RECHECK_SECONDS
            return Hold(
                reason=HoldReason.IMPOSSIBLE_COUNT, retry_seconds=retry, corroboration=truth, advice=(_BROKEN_COUNT,)
            )
    if truth is Corroboration.UNKNOWN and trigger.judged:
        return Hold(reason=HoldReason.RESOLVED, corroboration=truth)
    # A judged table proves that the raise made room; a table that can't be judged may be full again.
    covered = policy.cooldown_seconds
    if truth is not Corroboration.CONTRADICTED:
        covered = min(tuning.COOLDOWN_FULL_SECONDS, covered)
    if state.last_raise_seconds is not None and (trigger.message_seconds or now) < state.last_raise_seconds + covered:
        return Hold(reason=HoldReason.SUPERSEDED, corroboration=truth)
    if truth is Corroboration.CONTRADICTED:
        return Hold(reason=HoldReason.CONTRADICTED, corroboration=truth)
    owner = NamespaceOwner.ROOT if policy.trust_user_namespaces else observation.unread_owner
    if owner in _UNTRUSTED:
        reason, advice = _UNTRUSTED[owner]
        return Hold(reason=reason, retry_seconds=now + RECHECK_SECONDS, corroboration=truth, advice=(advice,))
    if state.unknown_seconds is not None and now < state.unknown_seconds + tuning.MAX_RAISES_WINDOW_SECONDS:
        return Hold(reason=HoldReason.UNCONFIRMED, retry_seconds=now + RECHECK_SECONDS, corroboration=truth)
    return None


def forbidden(case: Assessment, state: State, policy: Policy) -> Hold | None:
    """Hold for untrusted namespaces, a pause (the operator outranks policy), a conflict, and memory that is unknown."""
    now = case.observation.boottime_seconds
    conflicts = 0
    for at in state.conflict_seconds:
        conflicts += at > now - tuning.CONFLICT_WINDOW_SECONDS
    if case.needy and not case.trusted:
        is_unknown = any(table.owner_unknown for table in case.needy)
        reason, advice = _UNTRUSTED[NamespaceOwner.UNKNOWN if is_unknown else NamespaceOwner.USER]
    elif case.observation.pause is not None:
        reason, advice = HoldReason.PAUSED, _RESUME
    elif policy.conflict_limit and conflicts >= policy.conflict_limit:
        reason, advice = (
            HoldReason.CONFLICT,
            "Find the program that lowers net.netfilter.nf_conntrack_max and change it there; then `guard resume`.",
        )
    elif case.observation.memory_unknown:
        reason, advice = HoldReason.MEMORY_UNKNOWN, _READABLE
    else:
        return None
    retry = now + RECHECK_SECONDS
    return Hold(reason=reason, retry_seconds=retry, corroboration=case.corroboration, advice=(advice,))


def too_soon(case: Assessment, state: State, policy: Policy) -> Hold | None:
    """Hold while a refused write backs off, a raise takes effect, or the rate limit is reached."""
    now, refusal, last = case.observation.boottime_seconds, state.refusal, state.last_raise_seconds
    limit, truth = case.observation.limit or 0, case.corroboration
    if refusal is not None and refusal.limit == limit and now < refusal.until_seconds:
        return Hold(reason=HoldReason.WRITE_REFUSED, retry_seconds=refusal.until_seconds, corroboration=truth)
    over = -math.inf if last is None else last + policy.cooldown_seconds
    if last is not None and now < over:
        left = [0.0 if case.is_dropping else math.inf]
        for table in case.trusted:
            is_at_brim = table.count >= BRIM_USE * limit
            left.append(0.0 if is_at_brim else seconds_to_full(table.count, limit, table.demand_per_second))
        if min(left) < over - now:  # the last raise was too small: no table waits until it is full
            over = last + min(tuning.COOLDOWN_FULL_SECONDS, policy.cooldown_seconds)
        if now < over:
            return Hold(reason=HoldReason.COOLDOWN, retry_seconds=over, corroboration=truth)
    if case.trigger.kind is not TriggerKind.FILLING_UP or case.is_dropping:
        return None
    recent = [at for at in state.raise_seconds if at > now - tuning.MAX_RAISES_WINDOW_SECONDS]
    if len(recent) < tuning.MAX_RAISES:
        return None
    return Hold(
        reason=HoldReason.RATE_LIMITED,
        corroboration=truth,
        retry_seconds=min(recent[-tuning.MAX_RAISES] + tuning.MAX_RAISES_WINDOW_SECONDS, now + RECHECK_SECONDS),
        advice=("The table keeps growing: `guard history` shows how fast. Find out what opens these flows.",),
    )


def unsampled(case: Assessment, state: State, _: Policy) -> Hold | None:
    """Hold if `on_flood` needs a sample, none is there, and the plain step without one was made already."""
    now, last = case.observation.boottime_seconds, state.last_raise_seconds
    if case.flooded is not None or last is None or now >= last + SAMPLE_SECONDS:
        return None
    return Hold(reason=HoldReason.UNSAMPLED, retry_seconds=now + TICK_SECONDS, corroboration=case.corroboration)


def unrestorable(case: Assessment, state: State, policy: Policy) -> Hold | None:
    """Hold unless a boot has lost the persisted limit: a kernel default is in force, and nobody set it or another value.

    A part of it that the guard has put back already is no other value.
    """
    observation, persisted = case.observation, case.trigger.persisted
    limit, buckets = observation.limit or 0, observation.buckets or 0
    if observation.memory_unknown:
        retry = observation.boottime_seconds + RECHECK_SECONDS
        return Hold(reason=HoldReason.MEMORY_UNKNOWN, retry_seconds=retry, advice=(_READABLE,))
    if persisted is None or limit >= persisted.limit:
        counted = frozenset({Bound.BUDGET, Bound.MIN_AVAILABLE})
        arithmetic = budget.largest_target(case, limit, 0.0, policy, counted)
        if arithmetic.bound is Bound.TARGET and persisted is not None and (persisted.buckets or 0) > buckets:
            return Hold(reason=HoldReason.BUCKETS_LOST, advice=(_resize_advice(persisted.buckets or 0, observation),))
        if arithmetic.bound is Bound.TARGET:
            return Hold(reason=HoldReason.ALREADY_IN_FORCE)
        step = "The guard never lowers it unasked: `guard revert --all` goes back to the limit before the first raise."
        return Hold(reason=HoldReason.OVER_BUDGET_AT_START, arithmetic=arithmetic, advice=(step,))
    load = case.trigger.load or LoadFacts()
    is_default = limit != load.final_limit and limit == default_limit(load, buckets, observation.memory_total_bytes)
    if limit != state.set_limit and (limit == state.others_limit or not is_default):
        step = "The next need raises it from there."
        at_boot = () if limit == state.others_limit else ("`guard doctor` names what sets it at boot.",)
        return Hold(reason=HoldReason.SET_ELSEWHERE, advice=(*at_boot, step))
    return None


def above_minimum(case: Assessment, state: State, policy: Policy) -> Hold | None:
    """Hold unless the limit is below `min_limit`, and no operator reverted it."""
    if (case.observation.limit or 0) >= (policy.min_limit or 0):
        return Hold(reason=HoldReason.RESOLVED)
    return Hold(reason=HoldReason.REVERTED) if state.reverted else None


GATES: tuple[Gate, ...] = (unanswerable, unconfirmed, forbidden, too_soon, unsampled)
START_GATES: tuple[Gate, ...] = (unanswerable, unrestorable, forbidden)
"""For the limit that was persisted for this boot."""
MINIMUM_GATES: tuple[Gate, ...] = (unanswerable, above_minimum, forbidden, too_soon)


def fit(case: Assessment, state: State, policy: Policy) -> Raise | Hold:
    """Return a raise to as much of the step as every bound allows; a hold if that isn't worth a write."""
    persisted, truth, limit = case.trigger.persisted, case.corroboration, case.observation.limit or 0
    fixed = policy.min_limit if case.trigger.kind is TriggerKind.MINIMUM else None
    fixed = fixed if persisted is None else persisted.limit
    rates: list[tuple[float, float | None, int]] = [(0.0, None, LOOKAHEAD_FACTOR)]
    if case.flooded is not None and truth is not Corroboration.UNKNOWN and fixed is None:
        for table in case.trusted:
            if policy.on_flood.action is not FloodAction.RAISE and table.flooded and not case.flooded:
                continue  # a flood beside a need
            rates.append((table.demand_per_second or 0.0, table.demand_seconds, LOOKAHEAD_FACTOR))
            if table.count >= BRIM_USE * limit:
                rates.append((table.burst_per_second or 0.0, table.burst_seconds, BURST_FACTOR))
    ahead = tuning.LOOKAHEAD_SECONDS
    demand, seconds, factor = max(rates, key=lambda rate: min(rate[0] * ahead, (rate[2] - 1) * limit))
    demand = float(math.ceil(demand))  # as it is printed, so that the sum can be redone by hand
    wanted = max(
        math.ceil(limit * policy.growth_factor),
        limit + tuning.MIN_STEP,
        min(math.ceil(limit + demand * ahead), factor * limit),
        math.floor(case.largest_count / policy.threshold) + 1,  # brings every table that counts below the threshold
    )
    if fixed is not None:
        wanted = fixed
    arithmetic = budget.calculate(case, wanted, wanted, demand, policy)
    if arithmetic.bound is not Bound.TARGET:
        arithmetic = budget.largest_target(case, wanted, demand, policy)
    if demand:  # a copy takes as long as all gates together
        arithmetic = replace(arithmetic, demand_seconds=seconds, demand_factor=factor)
    target = arithmetic.target
    if target > limit and (target >= wanted or target >= math.ceil(limit * (1 + SMALLEST_PART))):
        is_plain = target == wanted and truth is not Corroboration.UNKNOWN and case.flooded is not None
        return Raise(
            target=target,
            arithmetic=arithmetic,
            corroboration=truth,
            buckets_target=arithmetic.buckets_target,
            advice=()
            if is_plain and (arithmetic.chain or 0) <= chains.CHAIN_ADVISE
            else _advice(case, state, arithmetic),
        )
    if arithmetic.bound is Bound.CHAINS:
        reason, step = HoldReason.CHAINS, _buckets_advice(case, arithmetic)
    else:
        reason, step = _BOUND_HOLDS[arithmetic.bound]
    return Hold(
        reason=reason,
        retry_seconds=case.observation.boottime_seconds + RECHECK_SECONDS,
        arithmetic=arithmetic,
        corroboration=truth,
        advice=(step,),
    )


def _advice(case: Assessment, state: State, arithmetic: Arithmetic) -> tuple[str, ...]:
    """Return the steps for an operator if raising alone is no cure; once an incident for the buckets."""
    advice, last = [], state.last_raise_seconds
    entries_before = arithmetic.full_tables * arithmetic.current + arithmetic.other_entries
    is_advised = (
        last is not None
        and case.observation.boottime_seconds < last + tuning.INCIDENT_SECONDS
        and 2 * entries_before > chains.CHAIN_ADVISE * (arithmetic.buckets or 0)
    )
    if case.corroboration is Corroboration.UNKNOWN:
        advice.append("The table could not be judged: one plain step, charged as one full table.")
    if case.flooded is None:
        advice.append("No sample shows yet whether a flood fills the table: one plain step, and a sample after it.")
    chain = 0.0 if is_advised or arithmetic.buckets_target is not None else arithmetic.chain or 0.0
    if chain > chains.CHAIN_ADVISE:
        advice.append(
            f"Lookups get slow: hash chains may reach {chain:.0f} entries. {_buckets_advice(case, arithmetic)}"
        )
    return tuple(advice)


def _buckets_advice(case: Assessment, arithmetic: Arithmetic) -> str:
    """Return how to get the buckets for what was wanted, as `buckets: match` would."""
    entries = arithmetic.full_tables * arithmetic.wanted + arithmetic.other_entries
    return f"{_resize_advice(chains.enough_buckets(entries), case.observation)} Or set `buckets: match`."


def _resize_advice(buckets: int, observation: Observation) -> str:
    stall_ms, now = chains.stall_ms(chains.alive(observation)), observation.buckets
    undo = f"; to undo: `{chains.resize_command(now)}`" if now else ""
    return f"More buckets: `{chains.resize_command(buckets)}` (stalls traffic for about {stall_ms:.0f} ms now{undo})."


def _long_chains(observation: Observation, policy: Policy) -> Hold:
    """Hold while packets are lost to long chains, or the average chain is as long as that: buckets help, not the limit."""
    entries, buckets = chains.alive(observation), observation.buckets
    chain = chains.average(entries, buckets) or 0.0
    lost = sum(table.lost_to_chains or 0 for table in observation.tables)
    if observation.chain_limit is False or not (lost or chain >= chains.CHAIN_HOLD):
        return Hold(reason=HoldReason.RESOLVED)
    # For a full table as well. Where the average is short, the hash is uneven: twice as many halve every chain.
    wanted = chains.enough_buckets(max(entries, observation.limit or 0))
    wanted = wanted if wanted > (buckets or 0) else 2 * (buckets or 0)
    advice, match = _resize_advice(wanted, observation), "The next raise does that too."
    keep = f"To keep them after a boot: `{chains.keep_command(wanted)}`."
    reason = HoldReason.CHAIN_DROPS if lost else HoldReason.LONG_CHAINS
    return Hold(reason=reason, advice=(advice, match if policy.buckets is Buckets.MATCH else keep))
