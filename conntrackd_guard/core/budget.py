"""What a limit may cost: the sum that every decision shows. Pure, integers throughout.

Charged are full tables at the target, and every other tracking namespace at twice its count (it
may grow, but never past the target). A held entry is already missing from available memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from conntrackd_guard.core.configuration import Buckets, Policy, Share
from conntrackd_guard.core.model import INT_MAX, Arithmetic, Bound, Observation, Table

MIB = 1 << 20
EXTENSIONS_BYTES = 256
"""The largest second allocation measured beside an entry: accounting, timestamps, NAT, events."""
UNKNOWN_ENTRY_BYTES = 640
"""Taken where the slab size can't be read: the largest seen (320 on some 4.x kernels) + 256, and 11 % on top."""
_ROUNDED_TO_BYTES = 64
"""The planning figure is rounded up to a whole cache line: (256 + 256) × 1.1 = 563 → 576."""
BUCKET_BYTES = 8
CHAIN_ADVISE = 8
"""Average chain from which new flows cost noticeably more (11 µs at 1.9, 14 at 7.6)."""
CHAIN_HOLD = 24
"""Average chain beyond which inserts begin to be lost without a log line (1e-7 at 24, 0.02 % at 32)."""
BUCKETS_ROUNDED_TO = 512
"""The kernel rounds a new number of buckets up to a page of list heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charges:
    """Who is charged: `full` tables at the target, the `others` (count, alive) and the `small` at twice what they hold."""

    full: int
    full_held: int
    others: tuple[tuple[int, int], ...]
    small: int = 0

    def entries(self, target: int) -> tuple[int, int, int]:
        """Return entries charged for full tables, for others, and those of both that are alive already."""
        other_entries = sum(min(target, 2 * count) for count, _ in self.others) + 2 * self.small
        other_held = sum(min(target, alive) for _, alive in self.others) + self.small
        return self.full * target, other_entries, min(self.full * target, self.full_held) + other_held


def bytes_per_entry(slab_bytes: int | None) -> tuple[int, str]:
    """Return the planning figure for one entry and where it comes from."""
    if slab_bytes is None:
        return UNKNOWN_ENTRY_BYTES, "assumed: the slab size can't be read"
    exact = (slab_bytes + EXTENSIONS_BYTES) * 11
    step = 10 * _ROUNDED_TO_BYTES
    return -(-exact // step) * _ROUNDED_TO_BYTES, f"(slab {slab_bytes} + {EXTENSIONS_BYTES}) × 1.1"


def budget_bytes(policy: Policy, total: int, hugetlb: int) -> int:
    """Return the most that tables may cost: by default 10 % of memory that is not set aside as huge pages."""
    return _share(policy.budget, max(0, total - hugetlb))


def min_available_bytes(policy: Policy, total: int) -> int:
    """Return what must stay available: by default the larger of 5 % and min(512 MiB, 25 %) of memory."""
    if policy.min_available is not None:
        return _share(policy.min_available, total)
    return max(total // 20, min(512 * MIB, total // 4))


def charges(observation: Observation, needy: tuple[Table, ...], policy: Policy, *, unknown: bool) -> Charges:
    """Split the tables into full ones (raised for, or over the threshold) and others; an `unknown` one counts as full."""
    least = policy.threshold * (observation.limit or 0)
    full: list[Table] = []
    others: list[Table] = []
    for table in observation.tables:
        (full if table in needy or table.count >= least else others).append(table)
    return Charges(
        full=len(full) + int(unknown),
        full_held=sum(table.alive for table in full),
        others=tuple((table.count, table.alive) for table in others),
        small=observation.small_entries,
    )


def work_out(  # noqa: PLR0913 - the sum has as many terms
    observation: Observation,
    charged: Charges,
    wanted: int,
    demand: float,
    policy: Policy,
    *,
    flooded: bool = False,
    counted: Collection[Bound] = tuple(Bound),
) -> Arithmetic:
    """Return the sum for the largest target that every bound `counted` allows, `wanted` at most."""

    def sum_for(target: int, bound: Bound = Bound.TARGET) -> Arithmetic:
        return _sum(observation, charged, wanted, target, demand, policy, bound, flooded=flooded)

    arithmetic = sum_for(wanted)
    for bound, allows in _BOUNDS:
        if bound in counted and not allows(arithmetic):
            arithmetic = sum_for(_largest(sum_for, allows, arithmetic.target), bound)
    return arithmetic


def is_broken(observation: Observation, policy: Policy) -> Arithmetic | None:
    """Return the sum of what is held now where that alone breaks budget or reserve, else None."""
    alive = sum(table.alive for table in observation.tables) + observation.small_entries
    nobody = Charges(full=0, full_held=0, others=())
    arithmetic = _sum(observation, nobody, observation.limit or 0, observation.limit or 0, 0.0, policy)
    held_now = replace(
        arithmetic,
        in_use=alive,
        charged_entries=alive,
        other_entries=alive,
        held_entries=alive,
        cost_bytes=arithmetic.bytes_per_entry * alive + arithmetic.bucket_bytes,
        new_bytes=0,
    )
    return None if _within_budget(held_now) and _within_reserve(held_now) else held_now


def _sum(  # noqa: PLR0913, PLR0917 - the sum has as many terms
    observation: Observation,
    charged: Charges,
    wanted: int,
    target: int,
    demand: float,
    policy: Policy,
    bound: Bound = Bound.TARGET,
    *,
    flooded: bool = False,
) -> Arithmetic:
    each, source = bytes_per_entry(observation.entry_slab_bytes)
    full_entries, other_entries, held = charged.entries(target)
    entries = full_entries + other_entries
    buckets = observation.buckets
    buckets_target = _matching_buckets(entries, buckets) if policy.buckets is Buckets.MATCH else None
    array_bytes = BUCKET_BYTES * observation.bucket_arrays
    new_bucket_bytes = array_bytes * (buckets_target or 0)
    bucket_bytes = array_bytes * (buckets_target or buckets or 0)
    after = buckets_target or buckets
    return Arithmetic(
        current=observation.limit or 0,
        wanted=wanted,
        target=target,
        bound=bound,
        in_use=sum(table.count for table in observation.tables) + observation.small_entries,
        largest_count=max((table.count for table in observation.tables), default=0),
        demand_per_second=demand,
        bytes_per_entry=each,
        bytes_source=source,
        buckets=buckets,
        buckets_target=buckets_target,
        bucket_bytes=bucket_bytes,
        new_bucket_bytes=new_bucket_bytes,
        full_tables=charged.full,
        other_entries=other_entries,
        charged_entries=entries,
        held_entries=held,
        cost_bytes=each * entries + bucket_bytes,
        new_bytes=each * (entries - held) + new_bucket_bytes,
        budget_bytes=budget_bytes(policy, observation.memory_total_bytes, observation.memory_hugetlb_bytes),
        min_available_bytes=min_available_bytes(policy, observation.memory_total_bytes),
        memory_total_bytes=observation.memory_total_bytes,
        memory_hugetlb_bytes=observation.memory_hugetlb_bytes,
        memory_available_bytes=observation.memory_available_bytes,
        max_limit=policy.max_limit,
        on_flood=policy.on_flood if flooded else None,
        chain=round(2 * entries / after, 2) if after else None,
        estimate=observation.estimate,
    )


def _within_budget(arithmetic: Arithmetic) -> bool:
    return arithmetic.cost_bytes <= arithmetic.budget_bytes


def _within_reserve(arithmetic: Arithmetic) -> bool:
    return arithmetic.memory_available_bytes - arithmetic.new_bytes >= arithmetic.min_available_bytes


def _within_chains(arithmetic: Arithmetic) -> bool:
    after = arithmetic.buckets_target or arithmetic.buckets
    return after is None or 2 * arithmetic.charged_entries <= CHAIN_HOLD * after


_BOUNDS: tuple[tuple[Bound, Callable[[Arithmetic], bool]], ...] = (
    (Bound.INT_MAX, lambda arithmetic: arithmetic.target <= INT_MAX),
    (Bound.MAX_LIMIT, lambda arithmetic: arithmetic.max_limit is None or arithmetic.target <= arithmetic.max_limit),
    (Bound.FLOOD, lambda arithmetic: arithmetic.on_flood is None or arithmetic.on_flood.allows(arithmetic.target)),
    (Bound.BUDGET, _within_budget),
    (Bound.MIN_AVAILABLE, _within_reserve),
    (Bound.CHAINS, _within_chains),
)
"""In this order; each is monotone in the target."""


def _matching_buckets(entries: int, buckets: int | None) -> int | None:
    """Return the buckets that bring the chain back to CHAIN_ADVISE, None where it is no longer than that."""
    if buckets is None or 2 * entries <= CHAIN_ADVISE * buckets:
        return None
    return math.ceil(2 * entries / CHAIN_ADVISE / BUCKETS_ROUNDED_TO) * BUCKETS_ROUNDED_TO


def _largest(sum_for: Callable[[int], Arithmetic], allows: Callable[[Arithmetic], bool], most: int) -> int:
    """Return the largest target below `most` whose sum is allowed, 0 if none is."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allows(sum_for(middle)) else (low, middle)
    return low


def _share(share: Share, total: int) -> int:
    return share.bytes if share.bytes is not None else int((share.fraction or 0.0) * total)
