"""What a host should be set to: the figures are those of the policy and the budget that run there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from testbed.hosts import GIB, host, table

from conntrackd_guard.core import budget
from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.configuration import Policy, Share
from conntrackd_guard.core.errors import AnswerIsNo
from conntrackd_guard.core.model import INT_MAX, LoadFacts, MessageKind, Observation, Raise, State, Trigger, TriggerKind
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.recommendation import Peak, Recommendation, describe, recommend
from conntrackd_guard.core.traffic.diagnosis import Cause, Finding, Step

POLICY = Policy()
ESTABLISHED = "net.netfilter.nf_conntrack_tcp_timeout_established"
INITIAL = table(100, initial=True)


def found(seen: Observation | None = None, peak: int = 0, policy: Policy = POLICY, **more: Any) -> Recommendation:
    """Return the recommendation for a host that was read."""
    return recommend(
        seen or host(INITIAL),
        policy,
        Peak(entries=peak, source="--entries"),
        load=LoadFacts(),
        is_described=False,
        cpus=2,
        **more,
    )


@pytest.mark.parametrize(
    ("gib", "buckets", "default"), [(0.5, 4_096, 4_096), (1, 8_192, 8_192), (2, 65_536, 65_536), (8, 262_144, 262_144)]
)
def test_a_described_host_has_the_defaults_of_its_kernel(gib: float, buckets: int, default: int) -> None:
    """As measured on kernels from 5.15 on."""
    it = describe(POLICY, int(gib * GIB), None, None, None)
    assert (it.observation.buckets, it.limit) == (buckets, default)


def test_the_peak_takes_the_step_that_the_guard_would_take() -> None:
    """300,000 × 1.5, with the buckets that `buckets: match` would set."""
    it = found(host(INITIAL, limit=65_536, buckets=65_536), 300_000)
    assert (it.limit, it.buckets) == (450_000, 112_640)
    then = host(table(300_000, initial=True), limit=300_000, buckets=262_144)
    trigger = Trigger(kind=TriggerKind.KERNEL_MESSAGE, message_kind=MessageKind.TABLE_FULL, namespace=INITIAL.namespace)
    decision = decide(trigger, then, State(), POLICY)
    assert isinstance(decision, Raise)
    assert it.limit == decision.target


def test_a_limit_that_fits_stays() -> None:
    """The guard lowers nothing, and neither does advice."""
    it = found(peak=1_000)
    assert (it.limit, it.buckets, it.is_too_high) == (262_144, 262_144, False)


def test_a_limit_that_the_host_can_not_bear_is_too_high() -> None:
    """The highest affordable one is recommended instead; unlimited is too high as well."""
    small = {"memory_total_bytes": GIB, "memory_available_bytes": GIB}
    it = found(host(INITIAL, limit=1_048_576, **small))
    assert it.is_too_high
    assert it.limit == it.highest.target < 190_000
    assert found(host(INITIAL, limit=0, **small)).is_too_high


def test_a_peak_beyond_memory_gets_what_fits() -> None:
    """The bound is named."""
    it = describe(POLICY, GIB, None, None, 10_000_000)
    assert it.limit == it.highest.target
    assert it.highest.bound is Bound.BUDGET


def test_the_highest_limit_is_that_of_the_policy() -> None:
    """Figures of `guard status`, and the settings count."""
    seen = host(INITIAL)
    it, expected = found(seen), budget.highest_affordable(seen, POLICY)
    assert expected is not None
    assert (it.reach.target, it.reach.bound) == (expected.target, expected.bound)
    assert found(policy=Policy(max_limit=300_000), peak=500_000).limit == 300_000


@pytest.mark.parametrize("more", [{"memory_unknown": "no /proc/meminfo"}, {"memory_available_bytes": 0}])
def test_without_memory_there_is_no_answer(more: dict[str, Any]) -> None:
    """One clear line: exit code 3."""
    with pytest.raises(AnswerIsNo, match=r"memory|min_available"):
        found(host(INITIAL, **more))


def test_a_timeout_is_recommended_only_where_a_sample_shows_why() -> None:
    """One inside another namespace is no line for the host's sysctl.d."""
    steps = (
        Step(why="expire idle connections", command=f"sysctl -w {ESTABLISHED}=7440", undo=f"sysctl -w {ESTABLISHED}=432000"),
        Step(why="the same inside", command="ip netns exec web sysctl -w net.netfilter.nf_conntrack_udp_timeout=10"),
        Step(why="look", command="guard top --by state"),
    )  # fmt: skip
    it = found(findings=(Finding(cause=Cause.LEAK, meaning="idle", figures=(), steps=steps),))
    assert it.timeouts == steps[:2]
    assert it.values()[ESTABLISHED] == 7440
    assert len(it.values()) == 3
    assert not found().timeouts


@given(
    st.integers(64 << 20, 1 << 40),
    st.none() | st.integers(512, 1 << 24),
    st.none() | st.integers(1, INT_MAX),
    st.sampled_from([POLICY, Policy(budget=Share(fraction=0.5)), Policy(max_limit=100_000)]),
)
def test_what_is_recommended_is_affordable(memory: int, buckets: int | None, peak: int | None, policy: Policy) -> None:
    """Start and reach, each with its buckets, are within every bound of the same policy."""
    assume((buckets or 0) * 16 < budget.budget_bytes(policy, memory, 0) - 576)  # else the hash table alone takes it all
    it = describe(policy, memory, buckets, None, peak)
    assert 1 <= it.limit <= it.highest.target
    assert it.limit <= it.reach.target
    for a in (it.full, it.reach_full):
        assert a.bound is Bound.TARGET
        assert a.cost_bytes <= a.budget_bytes
        assert a.memory_available_bytes - a.new_bytes >= a.min_available_bytes
    seen = replace(it.observation, limit=it.reach.target + 1, kernel_limit=it.reach.target + 1, buckets=it.buckets)
    more = budget.highest_affordable(seen, policy)
    assert more is not None
    assert more.target == it.reach.target
