"""`guard recommend` for people: what to set, how far raising can go, and the calculation of both."""

from conntrackd_guard.cli.render.arithmetic_text import chain_lines, memory_lines, step_text
from conntrackd_guard.cli.render.lines import COMMAND, UNDO, Line, Section
from conntrackd_guard.core.arithmetic import BOUND_NAMES, Arithmetic
from conntrackd_guard.core.limits import format_limit
from conntrackd_guard.core.recommendation import Recommendation
from conntrackd_guard.core.units import format_bytes


def sections(found: Recommendation) -> list[Section]:
    """Return the host, the recommendation, the calculations, and how to put it in place."""
    causes = [("What fills the fullest table", _causes(found))] if found.findings else []
    return [
        ("Described host" if found.is_described else "This host", _host(found)),
        ("Recommended", _recommended(found)),
        *causes,
        (f"A full table at {found.limit:,}", _calculation(found, found.full)),
        (f"The highest affordable limit: {found.reach.target:,}", _reach(found)),
        ("To put it in place", _steps(found)),
    ]


def _host(found: Recommendation) -> list[Line]:
    seen = found.observation
    memory = format_bytes(seen.memory_total_bytes)
    if not found.is_described:
        memory += f", of which {format_bytes(seen.memory_available_bytes)} is available now"
    limit = f"{seen.limit or 0:,}, the kernel's default with these buckets"
    if found.in_force is not None:
        limit = f"{format_limit(found.in_force)}, in force"
    peak = "unknown: give --entries for a limit that fits it"
    if found.peak.entries or not found.is_described:
        peak = f"{found.peak.entries:,} entries ({found.peak.source})"
    return [("memory", memory), ("hash table", f"{seen.buckets or 0:,} buckets"), ("limit", limit), ("peak", peak)]


def _recommended(found: Recommendation) -> list[Line]:
    a, seen = found.full, found.observation
    lines = [("limit", f"{found.limit:,}{_compared(found)}")]
    if found.needed is not None:
        lines.append(("", f"for the peak: {step_text(found.needed, found.policy)} = {found.needed.wanted:,}"))
    more = " are enough" if found.buckets == seen.buckets else f" instead of {seen.buckets or 0:,}"
    chain = f" (chains of {a.chain:.1f} if full)" if a.chain is not None else ""
    lines.append(("hash buckets", f"{found.buckets or 0:,}{more}{chain}"))
    cost, budget = format_bytes(a.cost_bytes), format_bytes(a.budget_bytes)
    lines += [
        ("memory if full", f"{cost} of a budget of {budget}"),
        ("raised up to", f"{found.reach.target:,} by the guard, bounded by {BOUND_NAMES[found.reach.bound]}"),
    ]
    if not found.is_described and not found.findings:
        lines.append(("timeouts", "not judged: needs a table of 100 entries or more, and root"))
    if found.cpus is not None and found.is_described:
        from conntrackd_guard.host.kube_proxy import default_limit  # noqa: PLC0415 - 4 ms

        sets = default_limit(found.cpus)
        if sets != found.limit:
            lines.append(("kube-proxy", f"sets {sets:,} on {found.cpus} CPUs by default: see --format kube-proxy"))
    return lines


def _compared(found: Recommendation) -> str:
    """Return how the limit relates to the one in force, or to the kernel's default."""
    now = found.observation.limit or 0
    whose = "the kernel's default" if found.in_force is None else "the limit in force"
    if found.is_too_high:
        return f": this host can't bear the {format_limit(found.in_force or 0)} in force"
    if found.limit < now:
        return f": this host can't bear {whose} ({now:,})"
    return f", {whose}" if found.limit == now else ""


def _calculation(found: Recommendation, a: Arithmetic) -> list[Line]:
    return [*(line for line in memory_lines(a, found.policy) if line[0] != "in use"), *chain_lines(a)]


def _reach(found: Recommendation) -> list[Line]:
    """Return what bounds the highest limit, its calculation, and what more buckets would allow."""
    a, highest, known = found.reach_full, found.highest, {*_calculation(found, found.full)}
    lines = [("bounded by", BOUND_NAMES[found.reach.bound])]
    lines += [line for line in _calculation(found, a) if line not in known]
    if highest.target > found.reach.target:
        buckets = highest.buckets_target or highest.buckets or 0
        text = (
            f"{highest.target:,} with {buckets:,} buckets (`buckets: match`), bounded by {BOUND_NAMES[highest.bound]}"
        )
        lines.append(("more", text))
    return lines


def _causes(found: Recommendation) -> list[Line]:
    lines = [("", f"{finding.meaning} {'; '.join(finding.figures)}.") for finding in found.findings]
    if not found.timeouts:
        return [*lines, ("timeouts", "none worth shortening; `guard top` has other steps")]
    for step in found.timeouts:
        lines += [("timeouts", step.why), (COMMAND, step.command), (UNDO, step.undo)]
    return lines


def _steps(found: Recommendation) -> list[Line]:
    lines = ("lines", "--format sysctl, modprobe, kube-proxy or helm prints lines")
    if found.is_described:
        return [lines]
    by_guard = f"`min_limit: {found.limit}` in guard.yaml raises to it at each start"
    return [("next boot", "sudo guard recommend --write"), ("with the guard", by_guard), lines]
