"""How far raising could go: the same as deciding step by step, and never more than a bound allows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testbed.figures import GIB, LIMIT, seen, tables

from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.budget import filled, highest_affordable
from conntrackd_guard.core.configuration import Policy, Share
from conntrackd_guard.core.model import INT_MAX, MessageKind, Observation, Raise, State, Trigger, TriggerKind
from conntrackd_guard.core.policy import decide


def stepped(observation: Observation, policy: Policy) -> int:
    """Return the limit after raises for a fullest table that is full again after each."""
    for _ in range(100):
        then, full = filled(observation, policy)
        line = Trigger(
            kind=TriggerKind.KERNEL_MESSAGE,
            message_kind=MessageKind.TABLE_FULL,
            namespace=full.namespace,
            message_count=1,
        )
        decision = decide(line, replace(then, kernel_limit=then.limit), State(), policy)
        if not isinstance(decision, Raise):
            return observation.limit or 0
        observation = replace(observation, limit=decision.target)
    raise AssertionError("raising never ended")


@given(st.integers(1, 64), st.integers(0, 30), st.integers(1_000, 400_000), st.none() | st.integers(1_000, 4_000_000))
def test_raising_step_by_step_ends_there(memory_gib: int, crowd: int, limit: int, max_limit: int | None) -> None:
    """Up to the last twentieth, which is not worth a write; where nothing can be raised, reach says so too."""
    policy = Policy(max_limit=max_limit)
    total, available = memory_gib * GIB, memory_gib * GIB // 2
    host = seen(*tables(crowd), limit=limit, memory_total_bytes=total, memory_available_bytes=available)
    furthest = highest_affordable(host, policy)
    assert furthest is not None
    ends = stepped(host, policy)
    assert ends >= limit
    assert ends == limit or ends <= furthest.target
    assert furthest.target < 1.06 * ends


@pytest.mark.parametrize(
    ("policy", "bound", "target"),
    [
        (Policy(), Bound.CHAINS, 12 * LIMIT),
        (Policy(max_limit=300_000), Bound.MAX_LIMIT, 300_000),
        (Policy(max_limit=1_000), Bound.MAX_LIMIT, 1_000),
    ],
)
def test_the_calculation_names_the_bound(policy: Policy, bound: Bound, target: int) -> None:
    """Also where it lies below the limit in force."""
    furthest = highest_affordable(seen(*tables(1)), policy)
    assert furthest is not None
    assert (furthest.bound, furthest.target) == (bound, target)


def test_entries_that_fill_the_table_first_take_memory_too() -> None:
    """If `min_available` is the bound, the memory above it is what new entries may take."""
    host = seen(*tables(2), buckets=None)
    furthest = highest_affordable(host, Policy(budget=Share(fraction=0.9)))
    assert furthest is not None
    assert furthest.bound is Bound.MIN_AVAILABLE
    entries = (furthest.memory_available_bytes - furthest.min_available_bytes) // furthest.bytes_per_entry
    assert furthest.target - 2 == pytest.approx(entries, abs=1)
    assert furthest.memory_available_bytes == 20 * GIB


def test_a_limit_beyond_memory_hides_no_affordable_one() -> None:
    """Where the entries up to the limit in force would take more than there is, what fits is named, not 0."""
    host = seen(*tables(2), buckets=None, memory_available_bytes=3 * GIB, limit=100_000_000)
    furthest = highest_affordable(host, Policy(budget=Share(fraction=0.9)))
    assert furthest is not None
    room = furthest.memory_available_bytes - furthest.min_available_bytes
    assert furthest.bound is Bound.MIN_AVAILABLE
    assert furthest.target - 2 == pytest.approx(room // furthest.bytes_per_entry, abs=1)


def test_something_always_bounds_it() -> None:
    """With memory without end and no buckets known it is what the kernel takes."""
    furthest = highest_affordable(
        seen(*tables(1), buckets=None, memory_total_bytes=1 << 60, memory_available_bytes=1 << 60), Policy()
    )
    assert furthest is not None
    assert (furthest.bound, furthest.target) == (Bound.INT_MAX, INT_MAX)


@pytest.mark.parametrize("limit", [None, 0])
def test_without_a_limit_there_is_nothing_to_reach(limit: int | None) -> None:
    """No conntrack, or unlimited."""
    assert highest_affordable(seen(limit=limit), Policy()) is None
