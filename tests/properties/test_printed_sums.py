"""Every equation and comparison that `guard show` prints is true, for records of every reason with a calculation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testbed.printed_sums import false_lines, statements
from testbed.records import a_record
from testbed.strategies import NOW, observations, policies, states, triggers

from conntrackd_guard.cli.render.arithmetic_text import calculations
from conntrackd_guard.core.configuration import FloodAction, FloodResponse, Policy, Share
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    INT_MAX,
    Hold,
    MessageKind,
    Observation,
    PersistedLimit,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide

GIB = 1 << 30
MESSAGE = Trigger(kind=TriggerKind.KERNEL_MESSAGE, message_kind=MessageKind.TABLE_FULL, message_count=1)
START = Trigger(kind=TriggerKind.START, persisted=PersistedLimit(limit=90_000))
MEMORY = Trigger(kind=TriggerKind.MEMORY)
any_trigger = (
    triggers
    | st.just(MEMORY)
    | st.just(Trigger(kind=TriggerKind.MINIMUM))
    | st.builds(
        lambda limit: Trigger(kind=TriggerKind.START, persisted=PersistedLimit(limit=limit)), st.integers(1, INT_MAX)
    )
)


def a_decision(trigger: Trigger, seen: Observation, state: State, policy: Policy) -> Record:
    """Return the record of the decision about this trigger."""
    record = a_record("k", decide(trigger, seen, state, policy))
    return replace(record, trigger=trigger, observation=seen, state=state)


def written(share: Share) -> Share:
    """Return the share as people write one: not 7e-102."""
    return share if share.fraction is None else replace(share, fraction=round(share.fraction, 5))


@given(any_trigger, observations(), states, policies)
def test_every_printed_statement_is_true(trigger: Trigger, seen: Observation, state: State, policy: Policy) -> None:
    """The text alone, worked out again, gives the figures that it states."""
    policy = replace(
        policy, budget=written(policy.budget), min_available=policy.min_available and written(policy.min_available)
    )
    for title, lines in calculations(a_decision(trigger, seen, state, policy), policy):
        assert false_lines(lines) == [], title


def a_host(count: int = 65_536, **changes: object) -> Observation:
    """Return a host of 24 GiB with one table of `count` of 65,536 entries."""
    table = Table(namespace=1, label="initial", initial=True, count=count, drop=0, dropped=0)
    plain = Observation(
        boottime_seconds=NOW,
        wall_seconds=1.8e9,
        boot_id="b",
        limit=65_536,
        kernel_limit=65_536,
        tables=(table,),
        buckets=65_536,
        entry_slab_bytes=256,
        memory_total_bytes=24 * GIB,
        memory_available_bytes=20 * GIB,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


FLOOD = tuple(replace(table, flooded=True) for table in a_host().tables)
HOLDS = {
    HoldReason.OVER_BUDGET: (MESSAGE, a_host(), Policy(budget=Share(bytes=32 << 20))),
    HoldReason.RESERVE: (MESSAGE, a_host(memory_available_bytes=GIB), Policy()),
    HoldReason.AT_CEILING: (MESSAGE, a_host(), Policy(max_limit=65_536)),
    HoldReason.FLOOD: (MESSAGE, a_host(tables=FLOOD), Policy(on_flood=FloodResponse(action=FloodAction.HOLD))),
    HoldReason.CHAINS: (MESSAGE, a_host(buckets=4096), Policy()),
    HoldReason.INT_MAX: (
        MESSAGE,
        a_host(count=INT_MAX, limit=INT_MAX, kernel_limit=INT_MAX, memory_available_bytes=1 << 45, buckets=1 << 30,
               memory_total_bytes=1 << 45),
        Policy(),
    ),
    HoldReason.RESERVE_BROKEN: (MEMORY, a_host(memory_available_bytes=GIB), Policy()),
    HoldReason.OVER_BUDGET_AT_START: (
        replace(START, persisted=PersistedLimit(limit=65_536)), a_host(), Policy(budget=Share(bytes=4 << 20)),
    ),
}  # fmt: skip
BROKEN = {
    HoldReason.OVER_BUDGET: "✗ cost ",
    HoldReason.RESERVE: "✗ min_available ",
    HoldReason.AT_CEILING: "✗ limit ",
    HoldReason.FLOOD: "✗ hold",
    HoldReason.CHAINS: "✗ 2 × ",
    HoldReason.INT_MAX: "✗ limit ",
    HoldReason.RESERVE_BROKEN: "✗ min_available ",
    HoldReason.OVER_BUDGET_AT_START: "✗ cost ",
}


@pytest.mark.parametrize("reason", HOLDS)
def test_a_hold_shows_the_bound_that_was_broken(reason: HoldReason) -> None:
    """The first calculation is of what was wanted and has ✗ at the bound; the second, of what would have fitted, not."""
    trigger, seen, policy = HOLDS[reason]
    record = a_decision(trigger, seen, State(), policy)
    assert isinstance(record.decision, Hold)
    assert record.decision.reason is reason

    (_, wanted), *fitting = calculations(record, policy)
    assert false_lines(wanted) == []
    assert statements(wanted) >= 7
    assert any(text.startswith(BROKEN[reason]) for _, text in wanted)
    for _, lines in fitting:
        assert false_lines(lines) == []
        assert not any(text.startswith(BROKEN[reason]) for _, text in lines)
    assert len(fitting) == (reason is not HoldReason.RESERVE_BROKEN)


def test_a_false_statement_is_found() -> None:
    """The check itself can fail."""
    assert false_lines([("cost", "576 × 10 + 1 = 5,761 (5.6 KiB)"), ("", "✓ cost 5 ≤ budget 6")]) == []
    largest = "the largest of 98,304 × 1.5; 98,304 + 8,192; 98,304 + 0/s × 30 s (at most 4 × 98,304); 9 ÷ 0.8, up to the next whole"
    false = (
        "576 × 10 + 1 = 5,771 (5.6 KiB)",
        "✓ cost 7 ≤ budget 6",
        "✗ cost 5 > budget 6",
        "✓ 2 × 49 ≤ 24 × 4",
        f"{largest} = 98,304",
        "2 × 76,384 ÷ 262,144 buckets = 0.00",
    )
    assert len(false_lines([("", text) for text in false])) == len(false)
    assert false_lines([("wanted", f"{largest} = 147,456")]) == []
