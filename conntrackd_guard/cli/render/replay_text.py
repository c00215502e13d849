"""`guard replay` for people."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.text import Text

from conntrackd_guard.cli.render.console import local, print_beside, print_line, section
from conntrackd_guard.cli.render.lines import Line
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.replay.lines import Answer
from conntrackd_guard.replay.model import Exact, Grade, HostResult
from conntrackd_guard.replay.summary import Summary, Total, reason_text

_MOST_HOSTS = 50
"""Hosts that are printed; `--json` and `--csv` have all."""
_MOST_SKIPPED = 20
_MOST_NAMED = 6
GRADES = {
    Grade.EXACT: "recorded decisions, decided again",
    Grade.SIMULATED: "time series, simulated",
    Grade.ASKED_ONLY: "kernel messages only",
}


def print_summary(console: Console, summary: Summary) -> None:
    """Print the hosts, the worst first, then the sums, and what was skipped."""
    for answer in summary.answers[:_MOST_HOSTS]:
        _print_answer(console, answer)
    if len(summary.answers) > _MOST_HOSTS:
        print_line(console, Text(f"… and {len(summary.answers) - _MOST_HOSTS:,} more (--json and --csv have all)"))
    if summary.compared:
        count = len(summary.answers)
        print_line(console, Text(f"The policies differ on {count:,} of {summary.asked:,} rows.", style="bold"))
    for grade, total in summary.totals.items():
        section(console, f"Total: {GRADES[grade]}", total_lines(total))
    if summary.skipped:
        skipped = [("", f"{printable(one.name)}: {printable(one.why)}") for one in summary.skipped[:_MOST_SKIPPED]]
        if len(summary.skipped) > _MOST_SKIPPED:
            skipped.append(("", f"… and {len(summary.skipped) - _MOST_SKIPPED:,} more"))
        section(console, f"Skipped: {len(summary.skipped):,}", skipped)


def _print_answer(console: Console, answer: Answer) -> None:
    row = answer.host
    head = Text(printable(row.name), style="bold")
    head.append(f"  {GRADES[row.grade]}", "dim")
    if row.since is not None and row.until is not None:
        head.append(f", {local(row.since)} to {local(row.until)}", "dim")
    print_line(console, head)
    for name, text in host_lines(answer):
        print_beside(console, Text(f"  {name:15}  ", style="cyan"), Text(text))


def host_lines(answer: Answer) -> Iterator[Line]:
    """Yield what the policy would have done on a host; of two policies what differs."""
    return _lines(answer.host) if answer.against is None else _changes(answer.host, answer.against)


def _lines(row: HostResult) -> Iterator[Line]:
    if row.exact is not None:
        yield "decisions", _decisions(row.exact)
        for one in row.exact.differences[:_MOST_NAMED]:
            yield "", f"#{one.row} at {local(one.at)}: {printable(one.recorded)} → {printable(one.replayed)}"
    yield "raises", _raises(row)
    if row.messages:
        yield "messages", f"at least {row.messages:,} (the kernel rate-limits them)"
    if row.dropped is not None:
        yield "dropped", f"{row.dropped:,} packets{_saved(row)}"
    if row.allowed_limit is not None:
        yield "allowed", f"up to {row.allowed_limit:,} with one full table"
    if row.peak_cost_bytes is not None:
        yield "memory", f"{format_bytes(row.peak_cost_bytes)} with a full table at the highest limit"
    if row.holds:
        yield "held", _counted({reason_text(code): times for code, times in row.holds.items()})
    for text in row.actions[:_MOST_NAMED]:
        yield "to do", printable(text)
    for text in row.notes[:_MOST_NAMED]:
        yield "note", printable(text)


def _changes(row: HostResult, against: HostResult) -> Iterator[Line]:
    """Yield the lines that differ, as `--config → --against`."""
    before, after = _joined(row, against), _joined(against, row)
    differing = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    for name in differing:
        yield name, f"{before.get(name, 'none')} | against: {after.get(name, 'none')}"
    if not differing:
        yield "details", "differ in what --json has alone"


def _joined(row: HostResult, other: HostResult) -> dict[str, str]:
    """Return the lines of a row by name, those of one name as one; and the steps that the other row lacks."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for name, text in _lines(row):
        texts[name].append(text)
    own = [step for step in row.steps if step not in other.steps]
    for step in own[:_MOST_NAMED]:
        texts["steps"].append(f"{step.before:,} → {step.target:,} at {local(step.at)}")
    return {name: "; ".join(found) for name, found in texts.items()}


def _raises(row: HostResult) -> str:
    if not row.raises:
        return "none" if row.highest_limit is None else f"none, limit up to {row.highest_limit:,}"
    times = "" if row.episodes is None else f" in {row.episodes:,} episode{'s'[row.episodes == 1 :]}"
    limits = "" if row.first_limit is None else f", limit {row.first_limit:,} → {row.highest_limit or 0:,}"
    return f"{row.raises:,}{times}{limits}"


def _saved(row: HostResult | Total) -> str:
    if row.saved is None:
        return ""
    return f", {'at least ' if row.saved_at_least else ''}{row.saved:,} of them saved"


def _decisions(found: Exact | Total) -> str:
    texts = [f"{found.rows:,}, of which {found.same:,} get the recorded verdict and {found.different:,} another"]
    texts += [f"{times:,} as recorded by version {printable(name)}" for name, times in found.other_versions.items()]
    texts += [f"{found.overrides:,} overrides"] if found.overrides else []
    texts += [f"{found.unreadable:,} unreadable"] if found.unreadable else []
    return "; ".join(texts)


def total_lines(total: Total) -> Iterator[Line]:
    """Yield the sums of one grade."""
    yield "hosts", f"{total.hosts:,}: {total.hosts_raised:,} raised, {total.hosts_blocked:,} need an operator"
    if total.rows:
        yield "decisions", _decisions(total)
    yield "raises", f"{total.raises:,}"
    if total.messages:
        yield "messages", f"at least {total.messages:,}"
    if total.dropped is not None:
        yield "dropped", f"{total.dropped:,} packets{_saved(total)}"
    if total.peak_cost_bytes is not None:
        yield "memory", f"{format_bytes(total.peak_cost_bytes)} with full tables at the highest limits"
    if total.causes:
        yield "causes", _counted(total.causes)
    if total.holds:
        yield "held", _counted({reason_text(code): times for code, times in total.holds.items()})
    for text, hosts in sorted(total.actions.items(), key=lambda item: (-item[1], item[0]))[:_MOST_NAMED]:
        yield "to do", f"on {hosts:,} host{'s'[hosts == 1 :]}: {printable(text)}"


def _counted(times: Mapping[str, int]) -> str:
    most = sorted(times.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} × {printable(name)}" for name, count in most)
