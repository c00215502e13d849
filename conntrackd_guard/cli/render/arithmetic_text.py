"""The memory calculation of a decision, line by line, so that a reader can redo it by hand."""

from conntrackd_guard.core import tuning
from conntrackd_guard.core.arithmetic import Arithmetic, Bound
from conntrackd_guard.core.configuration import Policy, Share
from conntrackd_guard.core.units import format_bytes, format_percentage, format_span

_BOUNDS = {
    Bound.TARGET: "nothing held it back",
    Bound.MAX_LIMIT: "held back by max_limit",
    Bound.FLOOD: "held back by on_flood",
    Bound.BUDGET: "held back by the memory budget",
    Bound.MIN_AVAILABLE: "held back by min_available",
    Bound.CHAINS: "held back by the length of hash chains",
    Bound.INT_MAX: "the kernel accepts no more",
}


def calculation_lines(arithmetic: Arithmetic, policy: Policy) -> list[tuple[str, str]]:
    """Return (name, calculation) for every term, with the figures that the decision was based on."""
    a = arithmetic
    left = a.memory_available_bytes - a.new_bytes
    tables = "full table" if a.full_tables == 1 else "full tables"
    charged = f"{a.full_tables} {tables} × {a.target:,} + {a.other_entries:,} for the others"
    not_held = f"({a.charged_entries:,} − {a.held_entries:,})"
    estimate = " (counts are estimates of need)" if a.estimate else ""
    lines = [
        ("limit", f"{a.current:,}"),
        ("in use", f"{a.in_use:,} entries in all namespaces, {a.largest_count:,} in the fullest{estimate}"),
        ("wanted", f"{_wanted(a, policy)} = {a.wanted:,}"),
        ("allowed", f"{a.target:,} ({_BOUNDS[a.bound]})"),
        ("bytes per entry", f"{a.bytes_source} → {a.bytes_per_entry:,} (rounded up to 64 bytes)"),
        ("planned for", f"{charged} = {a.charged_entries:,} entries, {a.held_entries:,} of them already in memory"),
        ("hash table", _buckets(a)),
        ("cost", f"{a.bytes_per_entry:,} × {a.charged_entries:,} + {a.bucket_bytes:,} = {_bytes(a.cost_bytes)}"),
        ("budget", f"{_share(policy.budget, a, hugetlb=True)} = {_bytes(a.budget_bytes)}"),
        ("", _verdict(a.cost_bytes <= a.budget_bytes, "cost ≤ budget", "the cost is over the budget")),
        ("new memory", f"{a.bytes_per_entry:,} × {not_held} + {a.new_bucket_bytes:,} = {_bytes(a.new_bytes)}"),
        ("left available", f"{a.memory_available_bytes:,} − {a.new_bytes:,} = {_bytes(left)}"),
        ("min_available", f"{_min_available(a, policy)} = {_bytes(a.min_available_bytes)}"),
        ("", _verdict(left >= a.min_available_bytes, "left ≥ min_available", "less than min_available would be left")),
        ("max_limit", "none" if a.max_limit is None else f"{a.max_limit:,}"),
    ]
    if a.on_flood is not None:
        most = "" if a.on_flood.limit is None else f" {a.on_flood.limit:,}"
        lines.append(("on_flood", f"{a.on_flood.action}{most} (a flood fills every table in need)"))
    if a.chain is not None:
        after = a.buckets_target or a.buckets or 0
        lines.append(("average chain", f"2 × {a.charged_entries:,} ÷ {after:,} buckets = {a.chain:g} (at most 24)"))
    return lines


def _wanted(a: Arithmetic, policy: Policy) -> str:
    """Return the terms of which the largest is wanted."""
    over = "" if a.demand_seconds is None else f" (measured over {format_span(a.demand_seconds)})"
    return (
        f"the largest of {a.current:,} × {policy.growth_factor:g}; {a.current:,} + {tuning.MIN_STEP:,}; "
        f"{a.current:,} + {a.demand_per_second:,.0f}/s{over} × {tuning.LOOKAHEAD_SECONDS:g} s "
        f"(at most {a.demand_factor} × {a.current:,}); "
        f"{a.largest_count:,} ÷ {policy.threshold:g}, up to the next whole"
    )


def _buckets(a: Arithmetic) -> str:
    number = a.buckets_target or a.buckets
    if not number:
        return "unknown, counted as 0"
    return f"{number:,} buckets × {a.bucket_bytes // number} = {_bytes(a.bucket_bytes)}"


def _share(share: Share, a: Arithmetic, *, hugetlb: bool) -> str:
    if share.bytes is not None:
        return "set"
    total = f"{a.memory_total_bytes:,}"
    if hugetlb:
        total = f"({total} − {a.memory_hugetlb_bytes:,} huge pages)"
    return f"{format_percentage(share.fraction or 0)} × {total}"


def _min_available(a: Arithmetic, policy: Policy) -> str:
    if policy.min_available is not None:
        return _share(policy.min_available, a, hugetlb=False)
    return f"the larger of 5% × {a.memory_total_bytes:,} and min(512 MiB, 25% × {a.memory_total_bytes:,})"


def _bytes(count: int) -> str:
    return f"{count:,} ({format_bytes(count)})"


def _verdict(holds: bool, good: str, bad: str) -> str:  # noqa: FBT001 - the answer of the comparison beside it
    return f"✓ {good}" if holds else f"✗ {bad}"
