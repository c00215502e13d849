"""What the tables cost now, what is free for them, and how far raising could go. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from conntrackd_guard.core import budget
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import INT_MAX, Arithmetic, Observation, Table
from conntrackd_guard.core.records import condense


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the tables cost in kernel memory, in bytes, and what is free for them."""

    bytes_per_entry: int
    now_bytes: int
    full_bytes: int
    """If every table that holds an entry now filled up to the limit."""
    budget_bytes: int
    min_available_bytes: int
    available_bytes: int

    @property
    def headroom_bytes(self) -> int:
        """What tables may still grow by: within the budget, and above the reserve."""
        return max(0, min(self.budget_bytes - self.now_bytes, self.available_bytes - self.min_available_bytes))


def cost_of(observation: Observation, policy: Policy) -> Cost:
    """Return what the tables cost now and if full."""
    each, _ = budget.bytes_per_entry(observation.entry_slab_bytes)
    arrays = budget.BUCKET_BYTES * observation.bucket_arrays * (observation.buckets or 0)
    in_use = sum(table.count for table in observation.tables)
    tables = max(1, sum(table.count > 0 for table in observation.tables))
    return Cost(
        bytes_per_entry=each,
        now_bytes=each * in_use + arrays,
        full_bytes=each * tables * (observation.limit or 0) + arrays,
        budget_bytes=budget.budget_bytes(policy, observation.memory_total_bytes, observation.memory_hugetlb_bytes),
        min_available_bytes=budget.min_available_bytes(policy, observation.memory_total_bytes),
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
    each, _ = budget.bytes_per_entry(observation.entry_slab_bytes)
    then = replace(
        observation,
        tables=(full, *(table for table in observation.tables if table is not fullest[0])),
        memory_available_bytes=max(0, observation.memory_available_bytes - each * (full.count - fullest[0].count)),
    )
    return then, full


def reach(observation: Observation, policy: Policy) -> Arithmetic | None:
    """Return the sum of the highest limit that every bound allows if the fullest table is full.

    Its target may lie below the limit; None where there is no limit, or it is 0.
    """
    if not observation.limit:
        return None
    then, full = filled(condense(observation, None))
    charged = budget.charges(then, (full,), policy, unknown=False)
    return budget.work_out(then, charged, INT_MAX + 1, 0.0, policy)  # so that something bounds it always
