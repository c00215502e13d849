"""A time on this host as one page: no network, no script. All text from outside goes through `escaped`."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from conntrackd_guard.cli.render.console import local
from conntrackd_guard.cli.render.report.chart import MOST_LINES, Dots, Frame, Line, Mark, bar_chart, line_chart
from conntrackd_guard.cli.render.report.decisions import SIGNS, arithmetic_of, decisions, step
from conntrackd_guard.cli.render.report.html import escaped
from conntrackd_guard.cli.render.report.style import STYLE
from conntrackd_guard.core.text import short
from conntrackd_guard.core.units import format_bytes, format_duration
from conntrackd_guard.history.documents import DecisionDetail
from conntrackd_guard.history.series import OTHERS, THE_OTHERS, Point

_MOST_MARKS = 100
"""Links above the chart; the table has every decision."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_MOST_TABLES = 21
"""As many as the time series tells by themselves at a time, and the sum of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of all decisions of the time, also those that the page has no room for."""

    decisions: int = 0
    raises: int = 0
    """That were applied, or rehearsed."""
    holds: int = 0
    watched: int = 0
    """Raises after which the drop counters were watched."""
    went_on: int = 0
    """Raises after which drops went on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report tells of. Times are wall time in seconds."""

    host: str
    version: str
    made_seconds: float
    since: float
    until: float
    step: int
    points: Sequence[Point]
    held: Dots
    """The most entries in all tables together, over time."""
    entries: Sequence[DecisionDetail]
    """The newest first, as many as there is room for."""
    counts: Counts


def page(report: Report) -> Iterator[str]:
    """Yield the page in pieces."""
    title = escaped(f"Connection tracking on {report.host}")
    yield f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield f'<style>{STYLE}</style></head><body><a class="skip" href="#decisions">To the decisions</a>'
    span = escaped(f"{local(report.since)} to {local(report.until)}")
    made = escaped(f"made by conntrackd-guard {report.version} at {local(report.made_seconds)}")
    yield f'<header><h1>{title}</h1><p>{span}<br><span class="soft">{made}</span></p></header><main>'
    yield _facts(report)
    yield '<section aria-labelledby="time"><h2 id="time">Over time</h2>'
    yield from _charts(report)
    yield "</section>"
    yield from _tables(report)
    yield from decisions(report.entries, report.counts.decisions)
    yield "</main></body></html>\n"


def _facts(report: Report) -> str:
    """Return the figures that a reader wants first, and the last decision."""
    counts, limits = report.counts, _limit_dots(report)
    peak = max(_shares(report), default=None)
    went_on = f"{counts.went_on:,} of {counts.watched:,} raises" if counts.watched else "none was watched"
    facts = [
        ("Limit at the end", f"{limits[-1][1]:,.0f}" if limits else "not known"),
        ("Highest use of a table", "not known" if peak is None else f"{100 * peak:.0f} %"),
        ("Packets dropped", f"{sum(point.dropped for point in report.points):,}" if report.points else "not known"),
        ("Raises", f"{counts.raises:,}"),
        ("Drops went on after", went_on if counts.raises else "no raise"),
        ("Holds", f"{counts.holds:,}"),
    ]
    items = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(text)}</dd></div>" for name, text in facts)
    last = ""
    if report.entries:
        row = report.entries[0].row
        name = f"The last decision, {row.verdict} at {local(row.last_seconds)}:"
        last = f'<p><a href="#d{row.id}">{escaped(name)}</a> {escaped(row.sentence)}</p>'
    return f'<dl class="facts">{items}</dl>{last}'


def _shares(report: Report) -> Iterator[float]:
    """Yield how full tables were: where the limit rose within a step, only the decision knows that one was full."""
    alone = (point for point in report.points if point.limit and point.name != THE_OTHERS)
    yield from (point.count / point.limit for point in alone)
    for seen in (told.record.observation for told in report.entries):
        yield from (table.count / seen.limit for table in seen.tables if seen.limit)


def _charts(report: Report) -> Iterator[str]:
    middle = (report.since + report.until) / 2
    times = (local(report.since), local(middle), local(report.until))
    frame = Frame(since=report.since, until=report.until, step=report.step, times=times)
    if not report.points:
        yield "<p>The time series has nothing of this time: no guard watched, or it is older than a year.</p>"
        return
    lines = [Line(name=name, dots=dots) for name, dots in _by_table(report.points)]
    limit = Line(name="limit", dots=_limit_dots(report), steps=True)
    highest = max(value for line in (limit, *lines) for _, value in line.dots)
    yield line_chart(
        frame, "Use against limit.", _use_told(report, limit, lines), limit, lines, _marks(report), f"{highest:,.0f}"
    )
    lost: dict[float, float] = defaultdict(float)
    for point in report.points:
        lost[point.at] += point.dropped + point.evicted
    dropped, evicted = (sum(getattr(point, name) for point in report.points) for name in ("dropped", "evicted"))
    most = f"at most {max(lost.values()):,.0f} in {format_duration(report.step)}"
    told = f"{dropped:,} packets dropped, {evicted:,} entries evicted early{f': {most}' if dropped + evicted else ''}."
    yield bar_chart(frame, "Drops and evictions.", told, sorted(lost.items()), f"{max(lost.values()):,.0f}")
    yield from _memory(report, frame)


def _use_told(report: Report, limit: Line, lines: Sequence[Line]) -> str:
    """Return the chart in words."""
    fullest = max(lines[0].dots, key=lambda dot: dot[1])
    first, last = limit.dots[0][1], limit.dots[-1][1]
    change = f"from {first:,.0f} to {last:,.0f}" if first != last else f"at {last:,.0f} at both ends"
    told = (
        f"The limit, {change}, and the entries of {_those(len(lines))}: at most {fullest[1]:,.0f}, in {lines[0].name}."
    )
    steps = [entry.row for entry in report.entries if entry.row.verdict != "hold"]
    if not steps:
        return told
    which = f" (the last {_MOST_MARKS})" if len(steps) > _MOST_MARKS else ""
    return f"{told} {SIGNS['raise']} raise, {SIGNS['override']} order{which}: each leads to its row."


def _those(tables: int) -> str:
    if tables == 1:
        return "the one table seen"
    return f"the {MOST_LINES} fullest of {tables:,} tables" if tables > MOST_LINES else f"all {tables} tables"


def _memory(report: Report, frame: Frame) -> Iterator[str]:
    """Yield what the entries take against the budget, by the newest sum of that time."""
    arithmetic = next(filter(None, map(arithmetic_of, report.entries)), None)
    if arithmetic is None:
        yield "<p>Memory is told where a decision of this time has a sum.</p>"
        return
    dots = [(at, count * arithmetic.bytes_per_entry + arithmetic.bucket_bytes) for at, count in report.held]
    budget = Line(name="budget", dots=[(report.since, float(arithmetic.budget_bytes))], steps=True)
    most = format_bytes(max(value for _, value in dots))
    told = f"At most {most} of a budget of {format_bytes(arithmetic.budget_bytes)}, at {arithmetic.bytes_per_entry} bytes an entry."
    top = format_bytes(max(arithmetic.budget_bytes, *(value for _, value in dots)))
    yield line_chart(
        frame, "Memory of the tables.", told, budget, [Line(name="entries and buckets", dots=dots)], (), top
    )


def _marks(report: Report) -> Iterator[Mark]:
    steps = [told.row for told in report.entries if told.row.verdict != "hold"][:_MOST_MARKS]
    for row in reversed(steps):
        label = f"{local(row.at_seconds)}: {row.verdict} {step(row)}"
        yield Mark(at_seconds=row.at_seconds, target=f"d{row.id}", label=label, sign=SIGNS.get(row.verdict, "●"))


def _by_table(points: Iterable[Point]) -> list[tuple[str, Dots]]:
    """Return each table's entries over time, the highest peak first."""
    dots: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for point in points:
        dots[point.namespace, point.label].append((point.at, point.count))
    fullest = sorted(dots.items(), key=lambda item: max(count for _, count in item[1]), reverse=True)
    return [(_name(*who), found) for who, found in fullest]


def _limit_dots(report: Report) -> Dots:
    """Return the limit over time, by what each decision found and left, and by the series.

    A point of the series knows the highest limit of its step: where it changed within, only the decision knows when.
    """
    dots: dict[float, float] = {}
    for row in (told.row for told in report.entries):
        if report.since <= row.at_seconds <= report.until and row.from_limit is not None:
            dots[row.at_seconds] = row.from_limit
            dots[row.at_seconds + 1e-3] = row.from_limit if row.limit_after is None else row.limit_after
    decided = sorted(dots)
    for point in report.points:
        if bisect_left(decided, point.at) == bisect_left(decided, point.at + point.step):
            dots[point.at] = point.limit
    return sorted(dots.items())


def _tables(report: Report) -> Iterator[str]:
    """Yield the tables of that time: what the charts show, in figures."""
    if not report.points:
        return
    found: dict[tuple[int, str], list[Point]] = defaultdict(list)
    for point in report.points:
        found[point.namespace, point.label].append(point)
    yield '<section aria-labelledby="tables"><h2 id="tables">Tables</h2><table class="figures" role="table">'
    fullest = sorted(found.items(), key=lambda item: max(p.count for p in item[1]), reverse=True)
    more = f" These are {_MOST_TABLES} of {len(found):,}." if len(found) > _MOST_TABLES else ""
    yield f"<caption>The most entries and the highest use of each, the fullest first.{more}</caption>"
    yield '<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Table</th>'
    yield "".join(
        f'<th scope="col" role="columnheader" class="number">{name}</th>'
        for name in ("Entries", "Use", "Dropped", "Evicted")
    )
    yield '</tr></thead><tbody role="rowgroup">'
    for who, points in fullest[:_MOST_TABLES]:
        most = max(point.count for point in points)
        share = max(point.count / point.limit if point.limit else 0.0 for point in points)
        use = "" if who == THE_OTHERS else f"{100 * share:.0f} %"
        figures = (f"{most:,}", use, f"{sum(p.dropped for p in points):,}", f"{sum(p.evicted for p in points):,}")
        cells = "".join(f'<td role="cell" class="number">{figure}</td>' for figure in figures)
        yield f'<tr role="row"><th scope="row" role="rowheader">{escaped(_name(*who))}</th>{cells}</tr>'
    yield "</tbody></table></section>"


def _name(namespace: int, label: str) -> str:
    """Return what a table is called; whoever names a namespace `others` is told by its number."""
    return OTHERS if (namespace, label) == THE_OTHERS else f"{short(label)} (netns {namespace})"
