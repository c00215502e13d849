"""The memory cost of a limit: the calculation that every decision shows. Pure, integers throughout.

Charged are full tables at the target, and every other tracking namespace at twice its count (it
may grow, but never past the target). Tables that no raise is made for are among the others even if
they are full, and together take a share at most: no user of the host ends all raises. An entry that
exists is already missing from available memory.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache

from conntrackd_guard.core import chains
from conntrackd_guard.core.arithmetic import Arithmetic, Bound
from conntrackd_guard.core.assessment import Assessment, Charges, assess
from conntrackd_guard.core.configuration import Buckets, Policy, Share
from conntrackd_guard.core.limits import is_unlimited
from conntrackd_guard.core.model import INT_MAX, Observation, Table, Trigger, TriggerKind
from conntrackd_guard.core.records import condense

MIB = 1 << 20
EXTENSIONS_BYTES = 256
"""The largest second allocation measured beside an entry: accounting, timestamps, NAT, events."""
UNKNOWN_ENTRY_BYTES = 640
"""Used if the slab size can't be read: the largest seen (320 on some 4.x kernels) + 256, and 11 % on top."""
_ROUNDED_TO_BYTES = 64
"""The planning figure is rounded up to a whole cache line: (256 + 256) × 1.1 = 563 → 576."""
BUCKET_BYTES = 8
UNTRUSTED_SHARE = 4
"""Untrusted tables together are charged at most one part in this many of what each bound has.

Judgement: a quarter is more than rootless containers hold on most hosts, and costs the tables that are raised for less
than one step by half. Half of it ignores more of what users do hold; double lets them end raises at half the budget.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The tables' cost in kernel memory, in bytes, and the memory that is free for them."""

    bytes_per_entry: int
    now_bytes: int
    full_bytes: int
    """If every table that holds an entry now, or can't be read, filled up to the limit; hidden entries stay as they are."""
    budget_bytes: int | None
    """This and the next two are None if memory is unknown."""
    min_available_bytes: int | None
    available_bytes: int | None

    @property
    def headroom_bytes(self) -> int | None:
        """How much tables may still grow: within the budget, and above `min_available`."""
        if self.budget_bytes is None or self.available_bytes is None or self.min_available_bytes is None:
            return None
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
    """Return the memory to leave available: by default the larger of 5 % and min(512 MiB, 10 %) of memory."""
    if policy.min_available is not None:
        return _share(policy.min_available, total)
    return max(total // 20, min(512 * MIB, total // 10))


def largest_target(
    case: Assessment, wanted: int, demand: float, policy: Policy, counted: Collection[Bound] = frozenset(Bound)
) -> Arithmetic:
    """Return the calculation for the largest target, up to `wanted`, that every bound in `counted` allows."""
    arithmetic, bound = calculate(case, wanted, wanted, demand, policy, counted), Bound.TARGET
    while arithmetic.bound is not Bound.TARGET:
        low, high, bound = 0, arithmetic.target, arithmetic.bound  # each bound is monotone in the target
        while high - low > 1:
            middle = (low + high) // 2
            allowed = calculate(case, wanted, middle, demand, policy, {bound}).bound is Bound.TARGET
            low, high = (middle, high) if allowed else (low, middle)
        counted = frozenset(counted) - {bound}
        arithmetic = calculate(case, wanted, low, demand, policy, counted)
    return arithmetic if bound is Bound.TARGET else replace(arithmetic, bound=bound)


def calculate(  # noqa: PLR0913, PLR0917 - the calculation has as many terms
    case: Assessment,
    wanted: int,
    target: int,
    demand: float,
    policy: Policy,
    counted: Collection[Bound] = frozenset(Bound),
) -> Arithmetic:
    """Return the calculation for one target. Its bound is the first one in `counted` that does not allow the target."""
    seen, charges, buckets = case.observation, case.charges, case.observation.buckets
    full_entries, other_entries, held = charges.full * target, 2 * charges.small, charges.small
    for count, alive in charges.others:
        other_entries += min(target, 2 * count)
        held += min(target, alive)
    untrusted, untrusted_held = 2 * charges.small_untrusted, charges.small_untrusted
    for count, alive in charges.untrusted:
        untrusted += min(target, 2 * count)
        untrusted_held += alive
    each, source = bytes_per_entry(seen.entry_slab_bytes)
    budget = budget_bytes(policy, seen.memory_total_bytes, seen.memory_hugetlb_bytes)
    least = min_available_bytes(policy, seen.memory_total_bytes)
    has_chain_limit = seen.chain_limit is not False
    if untrusted:
        spare = max(0, seen.memory_available_bytes - least)
        untrusted = min(untrusted, budget // each // UNTRUSTED_SHARE, untrusted_held + spare // each // UNTRUSTED_SHARE)
        if buckets is not None and has_chain_limit:
            untrusted = min(untrusted, chains.CHAIN_HOLD * buckets // 2 // UNTRUSTED_SHARE)
    other_entries += untrusted + charges.hidden
    held += min(full_entries, charges.full_held) + min(untrusted, untrusted_held) + charges.hidden
    entries, buckets_target = full_entries + other_entries, None
    if policy.buckets is Buckets.MATCH and buckets is not None and 2 * entries > chains.CHAIN_ADVISE * buckets:
        buckets_target = chains.enough_buckets(entries)
    kept = None if case.trigger.persisted is None else case.trigger.persisted.buckets
    if kept is not None and buckets is not None and kept > max(buckets, buckets_target or 0):
        buckets_target = kept  # what this guard raised comes back with the limit
    array_bytes, after = BUCKET_BYTES * seen.bucket_arrays, buckets_target or buckets
    cost = each * entries + array_bytes * (after or 0)
    new = each * (entries - held) + array_bytes * (buckets_target or 0)
    flood = policy.on_flood if case.flooded else None
    exceeded = (
        (Bound.INT_MAX, target > INT_MAX),
        (Bound.MAX_LIMIT, policy.max_limit is not None and target > policy.max_limit),
        (Bound.FLOOD, flood is not None and not flood.allows(target)),
        (Bound.BUDGET, cost > budget),
        (Bound.MIN_AVAILABLE, seen.memory_available_bytes - new < least),
        (Bound.CHAINS, after is not None and has_chain_limit and 2 * entries > chains.CHAIN_HOLD * after),
    )
    bound = Bound.TARGET
    for candidate, is_exceeded in exceeded:
        if is_exceeded and candidate in counted:
            bound = candidate
            break
    return Arithmetic(
        current=seen.limit or 0,
        wanted=wanted,
        target=target,
        bound=bound,
        in_use=case.in_use,
        largest_count=case.largest_count,
        demand_per_second=demand,
        bytes_per_entry=each,
        bytes_source=source,
        buckets=buckets,
        buckets_target=buckets_target,
        bucket_bytes=array_bytes * (after or 0),
        new_bucket_bytes=array_bytes * (buckets_target or 0),
        full_tables=charges.full,
        other_entries=other_entries,
        untrusted_entries=untrusted,
        hidden_entries=charges.hidden,
        charged_entries=entries,
        held_entries=held,
        cost_bytes=cost,
        new_bytes=new,
        budget_bytes=budget,
        min_available_bytes=least,
        memory_total_bytes=seen.memory_total_bytes,
        memory_hugetlb_bytes=seen.memory_hugetlb_bytes,
        memory_available_bytes=seen.memory_available_bytes,
        max_limit=policy.max_limit,
        on_flood=flood,
        chain=round(2 * entries / after, 2) if after and has_chain_limit else None,
        unread_tables=min(seen.unread_tables, charges.full),
        memory_zfs_bytes=seen.memory_zfs_bytes,
        memory_is_low=seen.memory_is_low,
        estimate=seen.estimate,
    )


def is_broken(case: Assessment, policy: Policy) -> Arithmetic | None:
    """Return the calculation for the entries that exist if they alone break the budget or `min_available`, else None.

    Memory that is unknown is not broken.
    """
    seen = case.observation
    if seen.memory_unknown:
        return None
    alive = chains.alive(seen)
    limit = seen.limit or 0
    arithmetic = calculate(replace(case, charges=Charges()), limit, limit, 0.0, policy, counted=())
    cost = arithmetic.bytes_per_entry * alive + arithmetic.bucket_bytes
    if cost <= arithmetic.budget_bytes and seen.memory_available_bytes >= arithmetic.min_available_bytes:
        return None
    return replace(
        arithmetic,
        in_use=alive,
        charged_entries=alive,
        other_entries=alive,
        hidden_entries=seen.hidden_entries,
        held_entries=alive,
        cost_bytes=cost,
        new_bytes=0,
    )


def cost_of(observation: Observation, policy: Policy) -> Cost:
    """Return the cost of the tables now and if full."""
    each, _ = bytes_per_entry(observation.entry_slab_bytes)
    total, hugetlb, is_known = (
        observation.memory_total_bytes,
        observation.memory_hugetlb_bytes,
        not observation.memory_unknown,
    )
    arrays = BUCKET_BYTES * observation.bucket_arrays * (observation.buckets or 0)
    in_use = sum(table.count for table in observation.tables) + observation.small_entries + observation.hidden_entries
    tables = sum(table.count > 0 for table in observation.tables) + observation.small_tables
    tables = max(1, tables + observation.unread_tables)
    return Cost(
        bytes_per_entry=each,
        now_bytes=each * in_use + arrays,
        full_bytes=each * (tables * (observation.limit or 0) + observation.hidden_entries) + arrays,
        budget_bytes=budget_bytes(policy, total, hugetlb) if is_known else None,
        min_available_bytes=min_available_bytes(policy, total) if is_known else None,
        available_bytes=observation.memory_available_bytes if is_known else None,
    )


def fullest_first(observation: Observation) -> tuple[Table, ...]:
    """Return the tables, the fullest first."""
    return tuple(sorted(observation.tables, key=lambda table: (-table.count, not table.initial, table.namespace)))


def filled(observation: Observation, policy: Policy) -> tuple[Observation, Table]:
    """Return the host with the fullest table full that is raised for, its new entries no longer available, and that table."""
    fullest, others = _fullest(observation, policy)
    full = replace(fullest, count=max(observation.limit or 0, fullest.count))
    each, _ = bytes_per_entry(observation.entry_slab_bytes)
    then = replace(
        observation,
        tables=(full, *others),
        memory_available_bytes=max(0, observation.memory_available_bytes - each * (full.count - fullest.count)),
    )
    return then, full


def highest_affordable(observation: Observation, policy: Policy) -> Arithmetic | None:
    """Return the calculation for the highest limit that every bound allows if the fullest table is full.

    Its target may lie below the limit; None if there is no limit, it is unlimited, or memory is unknown.
    """
    if observation.limit is None or is_unlimited(observation.limit) or observation.memory_unknown:
        return None
    case = _with_full_table(observation, observation.limit, policy)
    return largest_target(case, INT_MAX + 1, 0.0, policy)  # so that something always bounds it


def at_limit(observation: Observation, policy: Policy) -> tuple[Arithmetic, int] | None:
    """Return the calculation for the fullest table filled up to the limit, and the highest limit that the host can bear.

    The calculation's bound is the budget or `min_available` if the host can't bear it, whoever set the limit; else the
    target. None if there is no limit, or it is unlimited.
    """
    limit = observation.limit
    if limit is None or is_unlimited(limit):
        return None
    case = _with_full_table(observation, limit, policy)
    counted = frozenset({Bound.BUDGET, Bound.MIN_AVAILABLE})
    return calculate(case, limit, limit, 0.0, policy, counted), largest_target(case, limit, 0.0, policy, counted).target


def _with_full_table(observation: Observation, limit: int, policy: Policy) -> Assessment:
    """Return the case of the fullest table filled up to a limit, without demand; it holds what it holds now."""
    seen = condense(observation, None, policy)
    fullest, others = _fullest(seen, policy)
    full = replace(fullest, count=max(limit, fullest.count), held=fullest.alive)
    calm = tuple(replace(table, demand_per_second=None) for table in (full, *others))
    return assess(Trigger(kind=TriggerKind.MEMORY), replace(seen, tables=calm), policy)


def _fullest(observation: Observation, policy: Policy) -> tuple[Table, list[Table]]:
    """Return the fullest table that is raised for, an empty one without any, and all others."""
    tables = fullest_first(observation)
    for table in tables:
        if policy.trust_user_namespaces or not table.user_owned:
            return table, [other for other in tables if other is not table]
    return Table(namespace=0, label="initial", initial=True, count=0), [*tables]


def _share(share: Share, total: int) -> int:
    return share.bytes if share.bytes is not None else int((share.fraction or 0.0) * total)
