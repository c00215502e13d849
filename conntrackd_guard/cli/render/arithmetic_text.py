"""The memory calculation of a decision, line by line, so that a reader can redo it by hand.

Every equation and comparison is true of the figures as printed: the tests parse them back.
"""

from conntrackd_guard.cli.render.lines import Line
from conntrackd_guard.core import tuning
from conntrackd_guard.core.arithmetic import Arithmetic, Bound
from conntrackd_guard.core.assessment import assess
from conntrackd_guard.core.budget import calculate
from conntrackd_guard.core.chains import CHAIN_HOLD
from conntrackd_guard.core.configuration import Policy, Share
from conntrackd_guard.core.model import INT_MAX, Hold, Override, Record, TriggerKind
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
_MARKS = {True: ("✓", "≤"), False: ("✗", ">")}


def calculations(record: Record, policy: Policy) -> list[tuple[str, list[Line]]]:
    """Return (title, lines) for each calculation of a decision; a line is the name of a term and its calculation.

    A hold that a bound caused has two: what was wanted, with each bound that it breaks, and what would have fitted.
    """
    decision = record.decision
    a = None if isinstance(decision, Override) else decision.arithmetic
    if a is None:
        return []
    if record.trigger.kind is TriggerKind.MEMORY:
        return [("Calculation", [("limit", f"{a.current:,}"), *memory_lines(a, policy)])]
    asked: list[Line] = [("limit", f"{a.current:,}"), ("wanted", f"{_wanted(record, a, policy)} = {a.wanted:,}")]
    allowed = ("allowed", f"{a.target:,} ({_BOUNDS[a.bound]})")
    if not isinstance(decision, Hold) or a.bound is Bound.TARGET:
        return [("Calculation", [*asked, allowed, *memory_lines(a, policy), *_other_lines(a)])]
    fitting = (
        [allowed, *memory_lines(a, policy), *_other_lines(a)]
        if a.target
        else [("allowed", f"none ({_BOUNDS[a.bound]})")]
    )
    case = assess(record.trigger, record.observation, policy)
    refused = calculate(case, a.wanted, a.wanted, a.demand_per_second, policy)
    return [
        ("Calculation of what was wanted", [*asked, *memory_lines(refused, policy), *_other_lines(refused)]),
        ("What would have fitted", fitting),
    ]


def memory_lines(a: Arithmetic, policy: Policy) -> list[Line]:
    """Return what the charged entries cost, compared with the budget and with the memory that must stay available."""
    left = a.memory_available_bytes - a.new_bytes
    estimate = " (counts are estimates of need)" if a.estimate else ""
    counted = " that is raised for" if a.untrusted_entries else ""
    planned = f"{a.charged_entries:,} entries"
    if a.full_tables:
        tables = "full table" if a.full_tables == 1 else "full tables"
        planned = f"{a.full_tables} {tables} × {a.target:,} + {a.other_entries:,} for the others = {planned}"
    new = f"{a.bytes_per_entry:,} × ({a.charged_entries:,} − {a.held_entries:,}) + {a.new_bucket_bytes:,}"
    return [
        ("in use", f"{a.in_use:,} entries in all namespaces, {a.largest_count:,} in the fullest{counted}{estimate}"),
        ("bytes per entry", f"{a.bytes_source} → {a.bytes_per_entry:,} (rounded up to 64 bytes)"),
        ("planned for", f"{planned}, {a.held_entries:,} of them already in memory"),
        *([("", f"{a.unread_tables:,} of the full tables can't be read")] if a.unread_tables else []),
        *([("", f"{a.untrusted_entries:,} of those for the others are untrusted")] if a.untrusted_entries else []),
        *(
            [("", f"{a.hidden_entries:,} of those entries are in no table that can be read")]
            if a.hidden_entries
            else []
        ),
        ("hash table", _buckets(a)),
        ("cost", f"{a.bytes_per_entry:,} × {a.charged_entries:,} + {a.bucket_bytes:,} = {_bytes(a.cost_bytes)}"),
        ("budget", f"{_share(policy.budget, a, hugetlb=True)} = {_bytes(a.budget_bytes)}"),
        _at_most("cost", a.cost_bytes, "budget", a.budget_bytes),
        ("new memory", f"{new} = {_bytes(a.new_bytes)}"),
        *_available(a),
        ("left available", f"{a.memory_available_bytes:,} − {a.new_bytes:,} = {_bytes(left)}"),
        ("min_available", f"{_min_available(a, policy)} = {_bytes(a.min_available_bytes)}"),
        _at_most("min_available", a.min_available_bytes, "left", left),
    ]


def _other_lines(a: Arithmetic) -> list[Line]:
    """Return the bounds that are no matter of memory."""
    lines = [("max_limit", "none")]
    if a.max_limit is not None:
        lines = [("max_limit", f"{a.max_limit:,}"), _at_most("limit", a.target, "max_limit", a.max_limit)]
    if a.target > INT_MAX:
        lines.append(_at_most("limit", a.target, "the kernel's largest", INT_MAX))
    if a.on_flood is not None:
        most = "" if a.on_flood.limit is None else f" {a.on_flood.limit:,}"
        mark = "✓" if a.on_flood.allows(a.target) else "✗"
        lines.append(("on_flood", f"{mark} {a.on_flood.action}{most} (a flood fills every table in need)"))
    return [*lines, *chain_lines(a)]


def chain_lines(a: Arithmetic) -> list[Line]:
    """Return the average chain with all charged entries, compared with the longest allowed; none without buckets."""
    buckets = a.buckets_target or a.buckets
    if not buckets:
        return []
    chain = 2 * a.charged_entries / buckets
    mark, sign = _MARKS[2 * a.charged_entries <= CHAIN_HOLD * buckets]
    return [
        ("average chain", f"2 × {a.charged_entries:,} ÷ {buckets:,} buckets = {chain:,.2f}"),
        ("", f"{mark} 2 × {a.charged_entries:,} {sign} {CHAIN_HOLD} × {buckets:,}"),
    ]


def _wanted(record: Record, a: Arithmetic, policy: Policy) -> str:
    """Return where the wanted limit comes from: for a raise the terms of which it is the largest."""
    persisted = record.trigger.persisted
    if persisted is not None:
        return "saved for this boot" if a.wanted == persisted.limit else "in force"
    if record.trigger.kind is TriggerKind.MINIMUM:
        return "min_limit"
    return step_text(a, policy)


def step_text(a: Arithmetic, policy: Policy) -> str:
    """Return the terms of a step, of which it is the largest."""
    over = "" if a.demand_seconds is None else f" (measured over {format_span(a.demand_seconds)})"
    ahead = (
        f"{a.current:,} + {a.demand_per_second:,.0f}/s{over} × {tuning.LOOKAHEAD_SECONDS:g} s "
        f"(at most {a.demand_factor} × {a.current:,}); "
    )
    return (
        f"the largest of {a.current:,} × {policy.growth_factor:.12g}; {a.current:,} + {tuning.MIN_STEP:,}; "
        f"{ahead if a.demand_per_second else ''}{a.largest_count:,} ÷ {policy.threshold:.12g}, up to the next whole"
    )


def _buckets(a: Arithmetic) -> str:
    number = a.buckets_target or a.buckets
    if not number:
        return "unknown, counted as 0"
    return f"{number:,} buckets × {a.bucket_bytes // number} = {_bytes(a.bucket_bytes)}"


def _share(share: Share, a: Arithmetic, *, hugetlb: bool) -> str:
    if share.bytes is not None:
        return "as set"
    total = f"{a.memory_total_bytes:,}"
    if hugetlb:
        total = f"({total} − {a.memory_hugetlb_bytes:,} huge pages)"
    return f"{format_percentage(share.fraction or 0)} × {total}"


def _available(a: Arithmetic) -> list[Line]:
    """Return the parts of the available memory, if it has several."""
    low = [("memory", "low memory only: a 32-bit kernel keeps entries there")] if a.memory_is_low else []
    if not a.memory_zfs_bytes:
        return low
    kernel = f"{a.memory_available_bytes - a.memory_zfs_bytes:,} + {a.memory_zfs_bytes:,}"
    return [*low, ("available", f"{kernel} of ZFS' cache above its minimum = {_bytes(a.memory_available_bytes)}")]


def _min_available(a: Arithmetic, policy: Policy) -> str:
    if policy.min_available is not None:
        return _share(policy.min_available, a, hugetlb=False)
    return f"the larger of 5% × {a.memory_total_bytes:,} and min(512 MiB, 10% × {a.memory_total_bytes:,})"


def _bytes(count: int) -> str:
    return f"{count:,} ({format_bytes(count)})"


def _at_most(name: str, figure: int, most_name: str, most: int) -> Line:
    """Return the comparison as it is, marked ✓ where the figure is at most the other."""
    mark, sign = _MARKS[figure <= most]
    return "", f"{mark} {name} {figure:,} {sign} {most_name} {most:,}"
