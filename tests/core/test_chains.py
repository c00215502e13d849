"""Hash chains: packets lost to them, and what is held or logged about their length."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testbed.hosts import LIMIT, NOW, OTHER, WEB, host, message, table

from conntrackd_guard.core import chains
from conntrackd_guard.core.chains import ChainLosses
from conntrackd_guard.core.configuration import Buckets, Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, Observation, PersistedLimit, Raise, State, Trigger, TriggerKind
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.records import condense

CHAINS = Trigger(kind=TriggerKind.CHAINS, since_seconds=NOW - 6.0)
PRESENT = frozenset({WEB, OTHER})


def lost(*counters: int | None) -> ChainLosses:
    """Return what one table's readings show, a second apart."""
    losses = ChainLosses()
    for second, counter in enumerate(counters):
        losses.look((table(10, chain_too_long=counter),), PRESENT, float(second))
    return losses


@pytest.mark.parametrize(
    ("counters", "total", "since"),
    [
        ((), 0, None),
        ((500,), 0, None),  # nobody knows when
        ((500, 500, 500), 0, None),
        ((500, 500, 507, 507, 510), 10, 1.0),
        ((None, None), 0, None),
        ((None, 500, 501), 1, 1.0),
        ((500, None, 501), 1, 1.0),
        ((2**32 - 2, 3), 5, 0.0),  # it wrapped
        ((500, 3, 4), 1, 1.0),  # another namespace under the same number
    ],
)
def test_losses_are_the_rise_of_the_counter(counters: tuple[int | None, ...], total: int, since: float | None) -> None:
    """They begin after the last reading without one."""
    found = lost(*counters)
    assert found.total == total
    assert found.since_seconds == since


def test_losses_are_over_after_a_quiet_time() -> None:
    """While use is low, a reading a minute finds them: between two of those they are not over."""
    found = lost(0, 5)
    for second, expected in ((61.0, 5), (121.0, 5), (1.0 + chains.QUIET_SECONDS, 0)):
        found.look((table(10, chain_too_long=5),), PRESENT, second)
        assert found.total == expected
    assert not found.since_seconds
    found.look((table(10, chain_too_long=6),), PRESENT, 300.0)
    assert (found.total, found.since_seconds) == (1, 1.0 + chains.QUIET_SECONDS)


def test_each_table_is_marked_with_its_own_losses() -> None:
    """A table without losses has no mark; a namespace that is gone is forgotten."""
    losses = ChainLosses()
    web, other = table(10, chain_too_long=1), table(10, OTHER, chain_too_long=7)
    losses.look((web, other), PRESENT, 1.0)
    losses.look((replace(web, chain_too_long=4), other), PRESENT, 2.0)
    assert [each.lost_to_chains for each in losses.mark(host(web, other)).tables] == [3, None]
    losses.look((other,), frozenset({OTHER}), 3.0)
    losses.look((replace(web, chain_too_long=90),), PRESENT, 4.0)
    assert losses.total == 3


def test_a_small_table_with_losses_keeps_its_own_entry() -> None:
    """Among thousands of tables, the one that loses packets is named."""
    crowd = [table(1_000 + n, n, dropped=0) for n in range(50, 150)]
    seen = host(*crowd, table(5, WEB, dropped=0, lost_to_chains=9), table(6, OTHER, dropped=0))
    assert WEB in {each.namespace for each in condense(seen, None, Policy()).tables}
    assert OTHER not in {each.namespace for each in condense(seen, None, Policy()).tables}


@given(st.integers(0, 10**9))
def test_enough_buckets_are_as_few_as_possible(entries: int) -> None:
    """They are a number that the kernel takes, with chains of at most 8; one page less would not do."""
    buckets = chains.enough_buckets(entries)
    assert buckets % chains.BUCKETS_ROUNDED_TO == 0
    assert 2 * entries <= chains.CHAIN_ADVISE * buckets
    fewer = buckets - chains.BUCKETS_ROUNDED_TO
    assert fewer == 0 or 2 * entries > chains.CHAIN_ADVISE * fewer


def answered(seen: Observation, policy: Policy | None = None) -> Hold:
    """Return the decision about the chains of a host."""
    decision = decide(CHAINS, seen, State(), policy or Policy())
    assert isinstance(decision, Hold)
    return decision


LOSING = table(100_000, lost_to_chains=60)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (host(LOSING), HoldReason.CHAIN_DROPS),
        (host(LOSING, limit=0), HoldReason.CHAIN_DROPS),  # nothing else bounds an unlimited table
        (host(LOSING, chain_limit=True), HoldReason.CHAIN_DROPS),
        (host(LOSING, chain_limit=False), HoldReason.RESOLVED),
        (host(table(12_000), buckets=1_000), HoldReason.LONG_CHAINS),  # 24
        (host(table(6_000), table(6_000, OTHER), buckets=1_000), HoldReason.LONG_CHAINS),  # of all tables together
        (host(table(6_000), small_tables=90, small_entries=6_000, buckets=1_000), HoldReason.LONG_CHAINS),
        (host(table(11_999), buckets=1_000), HoldReason.RESOLVED),
        (host(table(12_000), buckets=1_000, chain_limit=False), HoldReason.RESOLVED),
        (host(table(12_000), buckets=None), HoldReason.RESOLVED),
        (host(table(12_000, held=11_999), buckets=1_000, estimate=True), HoldReason.RESOLVED),  # of a dry run's need
        (host(limit=None), HoldReason.NO_CONNTRACK),
    ],
)
def test_long_chains_are_held_for_where_the_kernel_limits_them(seen: Observation, reason: HoldReason) -> None:
    """Losses, or an average from which they begin; a kernel without a chain limit loses nothing."""
    assert answered(seen).reason is reason


def suggested(decision: Hold) -> int:
    """Return the number of buckets in the command."""
    return int(decision.advice[0].split("nf_conntrack_buckets=")[1].split("`")[0])


@pytest.mark.parametrize(
    ("seen", "buckets"),
    [
        (host(table(170_000, lost_to_chains=1), buckets=7_680), 65_536),  # the limit ÷ 4: for a full table too
        (host(table(400_000, lost_to_chains=1), buckets=7_680), 100_352),
        (host(LOSING, buckets=262_144), 524_288),  # 0.8 on average: uneven
        (host(table(400_000, lost_to_chains=1), limit=0, buckets=7_680), 100_352),
    ],
)
def test_the_command_gives_more_buckets_and_comes_with_its_undo(seen: Observation, buckets: int) -> None:
    """Chains then average at most 8, also for a full table."""
    decision = answered(seen)
    assert suggested(decision) == buckets
    assert f"to undo: `sysctl -w net.netfilter.nf_conntrack_buckets={seen.buckets}`" in decision.advice[0]
    assert "/etc/sysctl.d" in decision.advice[1]
    assert "next raise" in answered(seen, Policy(buckets=Buckets.MATCH)).advice[1]


@pytest.mark.parametrize(("chain_limit", "is_raised"), [(None, False), (True, False), (False, True)])
def test_chains_bound_no_raise_on_a_kernel_without_a_chain_limit(*, chain_limit: bool | None, is_raised: bool) -> None:
    """A chain of 48 loses nothing there, and no advice is given."""
    decision = decide(message(), host(table(LIMIT), buckets=16_384, chain_limit=chain_limit), State(), Policy())
    assert isinstance(decision, Raise) is is_raised
    assert is_raised or (isinstance(decision, Hold) and decision.reason is HoldReason.CHAINS)
    if isinstance(decision, Raise):
        assert (decision.advice, decision.arithmetic.chain) == ((), None)


INITIAL = table(100, OTHER, initial=True)
KEPT = PersistedLimit(limit=393_216, buckets=98_304)


def at_start(kept: PersistedLimit, policy: Policy | None = None, **seen: int) -> Raise | Hold:
    """Return the decision at a start."""
    return decide(Trigger(kind=TriggerKind.START, persisted=kept), host(INITIAL, **seen), State(), policy or Policy())


def test_in_force_means_the_limit_and_its_buckets() -> None:
    """A limit without its buckets is another thing, with a command."""
    whole, half = at_start(KEPT, limit=393_216, buckets=98_304), at_start(KEPT, limit=393_216, buckets=97_792)
    assert isinstance(whole, Hold)
    assert whole.reason is HoldReason.ALREADY_IN_FORCE
    assert isinstance(half, Hold)
    assert half.reason is HoldReason.BUCKETS_LOST
    assert suggested(half) == 98_304


@pytest.mark.parametrize("policy", [Policy(), Policy(buckets=Buckets.MATCH)])
def test_a_lost_limit_comes_back_with_its_buckets(policy: Policy) -> None:
    """Also where `buckets: match` was taken back: they are this guard's."""
    decision = at_start(KEPT, policy, limit=16_384, buckets=16_384)
    assert isinstance(decision, Raise)
    assert (decision.target, decision.buckets_target) == (393_216, 98_304)
    assert decision.arithmetic.bucket_bytes == 2 * 8 * 98_304
    plain = at_start(replace(KEPT, buckets=None), limit=65_536, buckets=65_536)
    assert isinstance(plain, Raise)
    assert plain.buckets_target is None


def test_more_buckets_than_were_kept_stay() -> None:
    """The kernel chose more by itself."""
    decision = at_start(KEPT, limit=262_144, buckets=262_144)
    assert isinstance(decision, Raise)
    assert decision.buckets_target is None
