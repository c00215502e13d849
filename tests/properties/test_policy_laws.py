"""The laws of `core.policy.decide`, one property each."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st
from testbed.hosts import host, table
from testbed.strategies import NOW, crowds, observations, policies, restrictions, states, triggers

from conntrackd_guard.core import budget
from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.assessment import assess
from conntrackd_guard.core.budget import UNTRUSTED_SHARE
from conntrackd_guard.core.configuration import Buckets, FloodResponse, Policy, Share
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    INT_MAX,
    Corroboration,
    Hold,
    MessageKind,
    Observation,
    Raise,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.records import ACTIONABLE, NAMED_ONE_BY_ONE, condense
from conntrackd_guard.core.state import conflicts
from conntrackd_guard.core.usage import GATE_USE

MANY = settings(max_examples=2 * settings().max_examples)
CALM = State()


@MANY
@given(triggers, observations(), states, policies)
def test_a_raise_stays_within_every_bound(trigger: Trigger, seen: Observation, state: State, policy: Policy) -> None:
    """A raise is upwards, and never over `max_limit`, budget, `min_available` or INT_MAX, for any settings."""
    decision = decide(trigger, seen, state, policy)
    if not isinstance(decision, Raise):
        return
    event("raised")
    total = decision.arithmetic
    assert seen.limit is not None
    assert seen.limit < decision.target <= min(INT_MAX, policy.max_limit or INT_MAX)
    assert total.cost_bytes <= total.budget_bytes
    assert seen.memory_available_bytes - total.new_bytes >= total.min_available_bytes


@MANY
@given(observations(), states, policies, st.integers(1, INT_MAX))
def test_min_limit_raises_to_it_at_most_and_never_against_an_operator(
    seen: Observation, state: State, policy: Policy, least: int
) -> None:
    """From below it, within every bound; not while paused, after a revert, from 0 or a negative, nor in a conflict."""
    decision = decide(Trigger(kind=TriggerKind.MINIMUM), seen, state, replace(policy, min_limit=least))
    if not isinstance(decision, Raise):
        return
    event("raised")
    total, limit = decision.arithmetic, seen.limit or 0
    assert 0 < limit < decision.target <= min(least, policy.max_limit or INT_MAX)
    assert total.cost_bytes <= total.budget_bytes
    assert seen.memory_available_bytes - total.new_bytes >= total.min_available_bytes
    assert total.charged_entries >= decision.target
    assert seen.pause is None
    assert not state.reverted
    assert not policy.conflict_limit or conflicts(state, seen.boottime_seconds) < policy.conflict_limit


@MANY
@given(triggers, observations(), states, policies)
def test_every_raise_charges_a_full_table(trigger: Trigger, seen: Observation, state: State, policy: Policy) -> None:
    """Nobody's entries are free: whatever is raised for is charged at the target, full at this moment or not."""
    decision = decide(trigger, seen, state, policy)
    if isinstance(decision, Raise):
        event(decision.corroboration)
        assert decision.arithmetic.full_tables >= 1
        assert decision.arithmetic.charged_entries >= decision.target


@MANY
@given(triggers, observations(), states, policies)
def test_an_untrusted_table_alone_never_raises(
    trigger: Trigger, seen: Observation, state: State, policy: Policy
) -> None:
    """Whatever a user namespace's table shows, a confirmed raise takes a table of the host's own that needs it."""
    foreign = replace(seen, tables=tuple(replace(table, user_owned=True) for table in seen.tables))
    decision = decide(trigger, foreign, state, replace(policy, trust_user_namespaces=False))
    assert not isinstance(decision, Raise) or decision.corroboration is Corroboration.UNKNOWN


@MANY
@given(triggers, observations(), states, policies, restrictions)
def test_a_flood_alone_never_raises_beyond_on_flood(
    trigger: Trigger, seen: Observation, state: State, policy: Policy, on_flood: FloodResponse
) -> None:
    """If a flood fills every table, a confirmed raise ends at the limit that `on_flood` allows."""
    flooded = replace(seen, tables=tuple(replace(table, flooded=True) for table in seen.tables))
    decision = decide(trigger, flooded, state, replace(policy, on_flood=on_flood))
    if isinstance(decision, Raise) and decision.corroboration is Corroboration.CONFIRMED:
        event("raised")
        assert on_flood.limit is not None
        assert decision.target <= on_flood.limit


@MANY
@given(triggers, crowds(), states, policies)
def test_condensing_a_crowd_changes_no_decision(
    trigger: Trigger, seen: Observation, state: State, policy: Policy
) -> None:
    """Condensing keeps verdict, and reason and every term of a sum that reaches the limit; and it keeps a record small."""
    condensed = condense(seen, trigger.namespace, policy)
    whole, reduced = decide(trigger, seen, state, policy), decide(trigger, condensed, state, policy)
    if whole.arithmetic is not None and whole.arithmetic.target < (seen.limit or 0):
        assert isinstance(whole, Hold)
        assert isinstance(reduced, Hold)
        assert reduced.reason is whole.reason or {reduced.reason, whole.reason} <= ACTIONABLE  # another bound, as low
    else:
        assert reduced == whole
    small_below = min(GATE_USE, policy.threshold) * (seen.limit or 0)
    assert len([table for table in condensed.tables if table.count < small_below]) <= NAMED_ONE_BY_ONE + 4


@MANY
@given(
    st.lists(st.integers(0, 8_192), min_size=1, max_size=30),
    st.integers(0, 8_192),
    st.sampled_from([8_192, 65_536, None]),
    st.integers(64 << 20, 4 << 30),
    st.floats(0.06, 0.9),
)
def test_untrusted_tables_take_a_share_at_most(
    users: list[int], ours: int, buckets: int | None, total: int, available: float
) -> None:
    """Whatever users fill, raising goes as far as on a host without them that has three quarters of each bound."""
    seen = host(
        table(ours, initial=True),
        *(table(count, 100 + n, user_owned=True) for n, count in enumerate(users)),
        limit=8_192,
        buckets=buckets,
        memory_total_bytes=total,
        memory_available_bytes=int(available * total),
    )
    policy = Policy()
    with_users = budget.highest_affordable(seen, policy)
    assert with_users is not None
    least, most = with_users.min_available_bytes, with_users.budget_bytes
    quarters = replace(
        seen,
        tables=seen.tables[:1],
        memory_available_bytes=least + 3 * (seen.memory_available_bytes - least) // 4,
        buckets=buckets and 3 * buckets // 4,
        bucket_arrays=3,  # of three quarters: no less memory than two whole ones
    )
    alone = budget.highest_affordable(quarters, replace(policy, budget=Share(bytes=3 * most // 4)))
    assert alone is not None
    event(f"bound by {alone.bound}")
    # what a full table takes of available memory is not part of it
    new = alone.bytes_per_entry * (8_192 - ours)
    if seen.memory_available_bytes - new > least:
        assert with_users.target >= alone.target - 8_192


@MANY
@given(triggers, observations(), states, policies)
def test_all_that_exists_is_charged(trigger: Trigger, seen: Observation, state: State, policy: Policy) -> None:
    """Entries of no known table cost what they are and take no available memory again; so do users' ones, up to a share."""
    total = decide(trigger, seen, state, policy).arithmetic
    if total is None:
        return
    trusted = [table for table in seen.tables if policy.trust_user_namespaces or not table.user_owned]
    existing = sum(min(table.count, total.target) for table in trusted) + total.hidden_entries
    assert total.hidden_entries >= seen.hidden_entries - seen.unread_tables * total.current
    assert total.charged_entries >= seen.hidden_entries or total.target < total.current
    assert total.charged_entries >= existing + total.untrusted_entries
    assert total.held_entries >= existing
    assert total.charged_entries - total.held_entries >= 0
    assert UNTRUSTED_SHARE * total.bytes_per_entry * total.untrusted_entries <= total.budget_bytes


@MANY
@given(triggers, observations(), states, policies)
def test_the_sum_can_be_redone_by_hand(trigger: Trigger, seen: Observation, state: State, policy: Policy) -> None:
    """Every term of the arithmetic follows from the others and from the observation."""
    decision = decide(trigger, seen, state, policy)
    total = decision.arithmetic
    if total is None:
        return
    assert total.charged_entries == total.full_tables * total.target + total.other_entries
    assert total.cost_bytes == total.bytes_per_entry * total.charged_entries + total.bucket_bytes
    assert total.new_bytes == (
        total.bytes_per_entry * (total.charged_entries - total.held_entries) + total.new_bucket_bytes
    )
    assert total.in_use == sum(table.count for table in seen.tables) + seen.hidden_entries


@MANY
@given(triggers, observations(), states, policies)
def test_no_two_raises_within_the_cooldown(trigger: Trigger, seen: Observation, state: State, policy: Policy) -> None:
    """After a raise nothing is raised for `cooldown`, or at most 200 ms while a table is full or would be before its end."""
    decision = decide(trigger, seen, state, policy)
    if isinstance(decision, Raise) and state.last_raise_seconds is not None:
        past, limit = NOW - state.last_raise_seconds, seen.limit or 0
        left = [limit - t.count - (policy.cooldown_seconds - past) * (t.demand_per_second or 0.0) for t in seen.tables]
        full = min(left) <= 0 or any(t.count >= 0.95 * limit or t.dropped for t in seen.tables)
        assert past >= (0.2 if full else policy.cooldown_seconds)


@MANY
@given(triggers, observations(), policies)
def test_an_affordable_raise_brings_every_table_below_the_threshold(
    trigger: Trigger, seen: Observation, policy: Policy
) -> None:
    """Where nothing bounds the step, one raise is enough."""
    decision = decide(trigger, seen, CALM, policy)
    if isinstance(decision, Raise) and decision.arithmetic.bound is Bound.TARGET:
        event("unbounded")
        assert all(table.count < policy.threshold * decision.target for table in seen.tables)


@MANY
@given(triggers, observations(), policies)
def test_a_full_table_is_never_left_alone(trigger: Trigger, seen: Observation, policy: Policy) -> None:
    """While the trigger's table is full, a decision raises or names the time of the next one."""
    limit = seen.limit or 0
    full = [t for t in seen.tables if t.count >= limit and trigger.namespace in {None, t.namespace}]
    decision = decide(trigger, seen, CALM, policy)
    if full:
        event(f"full, {type(decision).__name__}")
        assert isinstance(decision, Raise) or decision.retry_seconds is not None


@MANY
@given(triggers, observations(), states, policies, st.integers(0, 1 << 40))
def test_more_memory_never_turns_a_raise_into_a_hold(
    trigger: Trigger, seen: Observation, state: State, policy: Policy, more: int
) -> None:
    """Memory that is added and free makes a decision no stricter, and a step no smaller."""
    decision = decide(trigger, seen, state, replace(policy, min_available=None))
    if not isinstance(decision, Raise):
        return
    event("raised")
    richer = replace(
        seen,
        memory_total_bytes=seen.memory_total_bytes + more,
        memory_available_bytes=seen.memory_available_bytes + more,
    )
    after = decide(trigger, richer, state, replace(policy, min_available=None))
    assert isinstance(after, Raise)
    assert after.target >= decision.target


@MANY
@given(triggers, observations(), states, policies, st.sampled_from([-3600, 3600]))
def test_the_kernel_clock_changes_nothing(
    trigger: Trigger, seen: Observation, state: State, policy: Policy, hour: int
) -> None:
    """A decision does not depend on the kernel's stamp, and the same inputs decide the same."""
    shifted = replace(trigger, stamp_us=max(0, (trigger.stamp_us or 0) + hour * 1_000_000))
    assert decide(trigger, seen, state, policy) == decide(shifted, seen, state, policy)


@MANY
@given(observations(), states, policies)
def test_a_switched_off_trigger_never_raises(seen: Observation, state: State, policy: Policy) -> None:
    """Without `raise_early`, only kernel messages do."""
    decision = decide(Trigger(kind=TriggerKind.FILLING_UP), seen, state, replace(policy, raise_early=False))
    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.TRIGGER_OFF


@MANY
@given(observations(), policies, st.integers(1, INT_MAX), st.floats(0, 1e6))
def test_a_bounded_step_is_the_largest_that_fits(seen: Observation, policy: Policy, wanted: int, demand: float) -> None:
    """One entry more would break the bound that ended the step; `match` may have to pay for new buckets, too."""
    gone = Trigger(kind=TriggerKind.KERNEL_MESSAGE, message_kind=MessageKind.TABLE_FULL, namespace=1, message_count=1)
    case = assess(gone, seen, policy)
    total = budget.largest_target(case, wanted, demand, policy)
    if total.bound in {Bound.BUDGET, Bound.MIN_AVAILABLE} and total.target > 0 and policy.buckets is Buckets.KEEP:
        more = budget.calculate(case, wanted, total.target + 1, demand, policy)
        assert (
            more.cost_bytes > total.budget_bytes
            or seen.memory_available_bytes - more.new_bytes < total.min_available_bytes
        )


@given(triggers, observations(), states, policies)
def test_nothing_is_raised_while_memory_is_unknown(
    trigger: Trigger, seen: Observation, state: State, policy: Policy
) -> None:
    """Whatever presses: no budget can be worked out."""
    unknown = replace(seen, memory_unknown="/proc/meminfo", memory_total_bytes=0, memory_available_bytes=0)
    decision = decide(trigger, unknown, state, policy)
    assert isinstance(decision, Hold)
    assert decision.arithmetic is None
