"""The values of a calculated raise. Units stand in the names; limits, counts and targets are in entries."""

from dataclasses import dataclass
from enum import StrEnum

from conntrackd_guard.core.configuration import FloodResponse


class Bound(StrEnum):
    """The bound that determined the target."""

    TARGET = "target"
    MAX_LIMIT = "max_limit"
    FLOOD = "flood"
    BUDGET = "budget"
    MIN_AVAILABLE = "min_available"
    CHAINS = "chains"
    INT_MAX = "int_max"


BOUND_NAMES = {
    Bound.TARGET: "nothing",
    Bound.MAX_LIMIT: "`max_limit`",
    Bound.FLOOD: "`on_flood`",
    Bound.BUDGET: "the memory budget",
    Bound.MIN_AVAILABLE: "`min_available`",
    Bound.CHAINS: "the length of hash chains",
    Bound.INT_MAX: "the kernel's maximum",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """The calculation of one decision, complete enough to redo it by hand."""

    current: int
    wanted: int
    """The limit to reach, before any bound."""
    target: int
    """The limit within the bounds (for a hold: the highest they would allow)."""
    bound: Bound
    in_use: int
    """Entries of all namespaces."""
    largest_count: int
    demand_per_second: float
    """Growth that the step looks ahead with, 0 without one."""
    demand_seconds: float | None = None
    """The time that it was measured over."""
    demand_factor: int = 4
    """That term of the step is this many times the limit at most."""
    bytes_per_entry: int
    bytes_source: str
    buckets: int | None
    buckets_target: int | None
    """New number of buckets if they grow with the limit, else None."""
    bucket_bytes: int
    """All bucket arrays after the raise."""
    new_bucket_bytes: int
    """Arrays that the raise allocates."""
    full_tables: int
    """Tables charged at the target (one for all that are unknown)."""
    other_entries: int
    """Entries charged for all other tables: the two below, and twice the entries of each trusted one."""
    untrusted_entries: int = 0
    """Of those, charged for tables of user namespaces that are not trusted."""
    hidden_entries: int = 0
    """Of those, entries that exist in no table that was read."""
    charged_entries: int
    """full_tables × target + other_entries."""
    held_entries: int
    """Of those charged, entries that exist: no longer part of available memory, so not counted twice."""
    cost_bytes: int
    """bytes_per_entry × charged_entries + bucket_bytes: compared with the budget."""
    new_bytes: int
    """bytes_per_entry × (charged − held) + new_bucket_bytes: subtracted from available memory."""
    budget_bytes: int
    min_available_bytes: int
    memory_total_bytes: int
    memory_hugetlb_bytes: int
    memory_available_bytes: int
    max_limit: int | None
    chain: float | None
    """Average hash chain with all charged entries: 2 × charged ÷ buckets."""
    on_flood: FloodResponse | None = None
    """Set while a flood fills every table in need."""
    unread_tables: int = 0
    """Of the full tables, those that can't be read."""
    memory_zfs_bytes: int = 0
    """Of the available memory, ZFS' cache above its minimum."""
    memory_is_low: bool = False
    """Total and available are those of low memory, where a 32-bit kernel keeps entries."""
    estimate: bool = False
