"""The memory cost of a limit: the calculation that every decision shows. Pure, integers throughout.

Charged are full tables at the target, and every other tracking namespace at twice its count (it
may grow, but never past the target). An entry that exists is already missing from available memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache

from conntrackd_guard.core.arithmetic import Arithmetic, Bound
from conntrackd_guard.core.configuration import Buckets, Policy, Share
from conntrackd_guard.core.model import INT_MAX, Observation, Table
from conntrackd_guard.core.records import condense

MIB = 1 << 20
EXTENSIONS_BYTES = 256
"""The largest second allocation measured beside an entry: accounting, timestamps, NAT, events."""
UNKNOWN_ENTRY_BYTES = 640
"""Used if the slab size can't be read: the largest seen (320 on some 4.x kernels) + 256, and 11 % on top."""
_ROUNDED_TO_BYTES = 64
"""The planning figure is rounded up to a whole cache line: (256 + 256) × 1.1 = 563 → 576."""
BUCKET_BYTES = 8
CHAIN_ADVISE = 8
"""Average chain from which new flows cost noticeably more (11 µs at 1.9, 14 at 7.6)."""
CHAIN_HOLD = 24
"""Average chain beyond which inserts begin to be lost without a log message (1e-7 at 24, 0.02 % at 32)."""
BUCKETS_ROUNDED_TO = 512
"""The kernel rounds a new number of buckets up to a page of list heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charges:
    """Who is charged: `full` tables at the target, the `others` (count, alive) and the `small` at twice their count."""

    full: int
    full_held: int
    others: tuple[tuple[int, int], ...]
    small: int = 0

    def entries(self, target: int) -> tuple[int, int, int]:
        """Return entries charged for full tables, for others, and those of both that are alive already."""
        other_entries, other_held = 2 * self.small, self.small
        for count, alive in self.others:
            other_entries += min(target, 2 * count)
            other_held += min(target, alive)
        return self.full * target, other_entries, min(self.full * target, self.full_held) + other_held


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The tables' cost in kernel memory, in bytes, and the memory that is free for them."""

    bytes_per_entry: int
    now_bytes: int
    full_bytes: int
    """If every table that holds an entry now filled up to the limit."""
    budget_bytes: int
    min_available_bytes: int
    available_bytes: int

    @property
    def headroom_bytes(self) -> int:
        """How much tables may still grow: within the budget, and above `min_available`."""
        return max(0, min(self.budget_bytes - self.now_bytes, self.available_bytes - self.min_available_bytes))


@lru_cache(maxsize=4)
def bytes_per_entry(slab_bytes: int | None) -> tuple[int, str]:
    """Return the planning figure for one entry and where it comes from."""
    if slab_bytes is None:
        return UNKNOWN_ENTRY_BYTES, "assumed: the slab size can't be read"
    exact = (slab_bytes + EXTENSIONS_BYTES) * 11
    step = 10 * _ROUNDED_TO_BYTES
    return -(-exact // step) * _ROUNDED_TO_BYTES, f"(slab {slab_bytes} + {EXTENSIONS_BYTES}) × 1.1"


@lru_cache(maxsize=4)
def budget_bytes(policy: Policy, total: int, hugetlb: int) -> int:
    """Return the most that tables may cost: by default 10 % of memory that is not set aside as huge pages."""
    return _share(policy.budget, max(0, total - hugetlb))


@lru_cache(maxsize=4)
def min_available_bytes(policy: Policy, total: int) -> int:
    """Return the memory to leave available: by default the larger of 5 % and min(512 MiB, 25 %) of memory."""
    if policy.min_available is not None:
        return _share(policy.min_available, total)
    return max(total // 20, min(512 * MIB, total // 4))


def charges(observation: Observation, needy: tuple[Table, ...], policy: Policy, *, unknown: bool) -> Charges:
    """Split the tables into full ones (raised for, or over the threshold) and others; an `unknown` one counts as full."""
    least = policy.threshold * (observation.limit or 0)
    full, full_held, others = int(unknown), 0, []
    for table in observation.tables:
        alive = table.count if table.held is None else table.held
        if table.count >= least or table in needy:
            full, full_held = full + 1, full_held + alive
        else:
            others.append((table.count, alive))
    return Charges(full=full, full_held=full_held, others=tuple(others), small=observation.small_entries)


def work_out(  # noqa: PLR0913 - the calculation has as many terms
    observation: Observation,
    charged: Charges,
    wanted: int,
    demand: float,
    policy: Policy,
    *,
    flooded: bool = False,
    counted: Collection[Bound] = frozenset(Bound),
) -> Arithmetic:
    """Return the calculation for the largest target, up to `wanted`, that every bound in `counted` allows."""
    flood_limit = (policy.on_flood.limit or 0) if flooded and policy.on_flood.restricts else None
    caps = ((Bound.INT_MAX, INT_MAX), (Bound.MAX_LIMIT, policy.max_limit), (Bound.FLOOD, flood_limit))
    target, bound = wanted, Bound.TARGET
    for cap_bound, cap in caps:
        if cap is not None and target > cap and cap_bound in counted:
            target, bound = cap, cap_bound
    while True:
        arithmetic = calculate(observation, charged, wanted, target, demand, policy, flooded=flooded, counted=counted)
        exceeded = arithmetic.bound
        if exceeded is Bound.TARGET:
            return arithmetic if bound is Bound.TARGET else replace(arithmetic, bound=bound)
        low, high, bound = 0, target, exceeded  # each bound is monotone in the target
        while high - low > 1:
            middle = (low + high) // 2
            tried = calculate(observation, charged, wanted, middle, demand, policy, flooded=flooded, counted={exceeded})
            low, high = (low, middle) if tried.bound is exceeded else (middle, high)
        target, counted = low, frozenset(counted) - {exceeded}


def calculate(  # noqa: PLR0913, PLR0917 - the calculation has as many terms
    observation: Observation,
    charged: Charges,
    wanted: int,
    target: int,
    demand: float,
    policy: Policy,
    *,
    flooded: bool = False,
    counted: Collection[Bound] = frozenset(Bound),
) -> Arithmetic:
    """Return the calculation for one target. Its bound is the first memory bound in `counted` that it exceeds."""
    each, source = bytes_per_entry(observation.entry_slab_bytes)
    full_entries, other_entries, held = charged.entries(target)
    entries, buckets, buckets_target = full_entries + other_entries, observation.buckets, None
    if policy.buckets is Buckets.MATCH and buckets is not None and 2 * entries > CHAIN_ADVISE * buckets:
        buckets_target = math.ceil(2 * entries / CHAIN_ADVISE / BUCKETS_ROUNDED_TO) * BUCKETS_ROUNDED_TO
    array_bytes, after = BUCKET_BYTES * observation.bucket_arrays, buckets_target or buckets
    new_bucket_bytes = array_bytes * (buckets_target or 0)
    cost = each * entries + array_bytes * (after or 0)
    new = each * (entries - held) + new_bucket_bytes
    total, available = observation.memory_total_bytes, observation.memory_available_bytes
    budget, least = budget_bytes(policy, total, observation.memory_hugetlb_bytes), min_available_bytes(policy, total)
    bound, in_use, largest = Bound.TARGET, observation.small_entries, 0
    if cost > budget and Bound.BUDGET in counted:
        bound = Bound.BUDGET
    elif available - new < least and Bound.MIN_AVAILABLE in counted:
        bound = Bound.MIN_AVAILABLE
    elif after is not None and 2 * entries > CHAIN_HOLD * after and Bound.CHAINS in counted:
        bound = Bound.CHAINS
    for table in observation.tables:
        in_use, largest = in_use + table.count, max(largest, table.count)
    return Arithmetic(
        current=observation.limit or 0,
        wanted=wanted,
        target=target,
        bound=bound,
        in_use=in_use,
        largest_count=largest,
        demand_per_second=demand,
        bytes_per_entry=each,
        bytes_source=source,
        buckets=buckets,
        buckets_target=buckets_target,
        bucket_bytes=array_bytes * (after or 0),
        new_bucket_bytes=new_bucket_bytes,
        full_tables=charged.full,
        other_entries=other_entries,
        charged_entries=entries,
        held_entries=held,
        cost_bytes=cost,
        new_bytes=new,
        budget_bytes=budget,
        min_available_bytes=least,
        memory_total_bytes=total,
        memory_hugetlb_bytes=observation.memory_hugetlb_bytes,
        memory_available_bytes=available,
        max_limit=policy.max_limit,
        on_flood=policy.on_flood if flooded else None,
        chain=round(2 * entries / after, 2) if after else None,
        estimate=observation.estimate,
    )


def is_broken(observation: Observation, policy: Policy) -> Arithmetic | None:
    """Return the calculation for the entries that exist if they alone break the budget or `min_available`, else None."""
    alive = sum(table.alive for table in observation.tables) + observation.small_entries
    limit, nobody = observation.limit or 0, Charges(full=0, full_held=0, others=())
    arithmetic = calculate(observation, nobody, limit, limit, 0.0, policy, counted=())
    cost = arithmetic.bytes_per_entry * alive + arithmetic.bucket_bytes
    if cost <= arithmetic.budget_bytes and arithmetic.memory_available_bytes >= arithmetic.min_available_bytes:
        return None
    return replace(
        arithmetic,
        in_use=alive,
        charged_entries=alive,
        other_entries=alive,
        held_entries=alive,
        cost_bytes=cost,
        new_bytes=0,
    )


def cost_of(observation: Observation, policy: Policy) -> Cost:
    """Return the cost of the tables now and if full."""
    each, _ = bytes_per_entry(observation.entry_slab_bytes)
    arrays = BUCKET_BYTES * observation.bucket_arrays * (observation.buckets or 0)
    in_use = sum(table.count for table in observation.tables)
    tables = max(1, sum(table.count > 0 for table in observation.tables))
    return Cost(
        bytes_per_entry=each,
        now_bytes=each * in_use + arrays,
        full_bytes=each * tables * (observation.limit or 0) + arrays,
        budget_bytes=budget_bytes(policy, observation.memory_total_bytes, observation.memory_hugetlb_bytes),
        min_available_bytes=min_available_bytes(policy, observation.memory_total_bytes),
        available_bytes=observation.memory_available_bytes,
    )


def fullest_first(observation: Observation) -> tuple[Table, ...]:
    """Return the tables, the fullest first."""
    return tuple(sorted(observation.tables, key=lambda table: (-table.count, not table.initial, table.namespace)))


def filled(observation: Observation) -> tuple[Observation, Table]:
    """Return the host with its fullest table full, the new entries taken from available memory, and that table."""
    limit = observation.limit or 0
    fullest = fullest_first(observation)[:1] or (Table(namespace=0, label="initial", initial=True, count=0),)
    full = replace(fullest[0], count=max(limit, fullest[0].count))
    each, _ = bytes_per_entry(observation.entry_slab_bytes)
    then = replace(
        observation,
        tables=(full, *(table for table in observation.tables if table is not fullest[0])),
        memory_available_bytes=max(0, observation.memory_available_bytes - each * (full.count - fullest[0].count)),
    )
    return then, full


def highest_affordable(observation: Observation, policy: Policy) -> Arithmetic | None:
    """Return the calculation for the highest limit that every bound allows if the fullest table is full.

    Its target may lie below the limit; None if there is no limit, or it is 0.
    """
    if not observation.limit:
        return None
    then, full = filled(condense(observation, None))
    charged = charges(then, (full,), policy, unknown=False)
    return work_out(then, charged, INT_MAX + 1, 0.0, policy)  # so that something always bounds it


def _share(share: Share, total: int) -> int:
    return share.bytes if share.bytes is not None else int((share.fraction or 0.0) * total)
