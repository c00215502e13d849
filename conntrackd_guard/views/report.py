"""A time on this host as one page: no network, no script. All text from outside goes through `escaped`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from conntrackd_guard.core.follow_up import Drops
from conntrackd_guard.core.model import Arithmetic
from conntrackd_guard.core.series import OTHERS, Point
from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.history_rows import Row, Told
from conntrackd_guard.views.afterwards import afterwards
from conntrackd_guard.views.html import escaped
from conntrackd_guard.views.report_chart import MOST_LINES, Dots, Frame, Line, Mark, bar_chart, line_chart
from conntrackd_guard.views.report_style import STYLE
from conntrackd_guard.views.sums import sum_lines
from conntrackd_guard.views.text import local

_MOST_MARKS = 100
"""Links above the chart; the table has every decision."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_SIGNS = {"raise": "▲", "order": "◆", "hold": "●"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decision of the report."""

    told: Told
    found: tuple[tuple[str, str], ...] = ()
    """What else is known of it, as (name, text): shown under its sentence."""


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
    entries: Sequence[Entry]
    """The newest first."""
    left_out: bool
    """There are older decisions in that time than those of `entries`."""


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
    yield from _decisions(report)
    yield "</main></body></html>\n"


def _facts(report: Report) -> str:
    """Return the figures that a reader wants first."""
    rows = [entry.told.row for entry in report.entries]
    raises = [row for row in rows if row.verdict == "raise" and row.outcome in {"applied", "rehearsed"}]
    told = [row.follow_up for row in raises if row.follow_up is not None]
    went_on = sum(found.drops is Drops.GO_ON for found in told)
    peak = max((point.count / point.limit for point in report.points if point.label != OTHERS), default=None)
    limits = _limit_dots(report)
    facts = [
        ("Limit at the end", f"{limits[-1][1]:,.0f}" if limits else "not known"),
        ("Highest use of a table", "not known" if peak is None else f"{100 * peak:.0f} %"),
        ("Dropped", f"{sum(point.dropped for point in report.points):,}" if report.points else "not known"),
        ("Raises", f"{len(raises):,}"),
        ("Raises after which drops went on", f"{went_on:,} of {len(told):,} watched"),
        ("Decisions in all", f"{'more than ' if report.left_out else ''}{len(rows):,}"),
    ]
    items = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(text)}</dd></div>" for name, text in facts)
    return f'<dl class="facts">{items}</dl>'


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
    shown = "the fullest table" if len(lines) == 1 else f"the {min(MOST_LINES, len(lines))} fullest tables"
    told = f"Entries of {shown} against the limit. {_SIGNS['raise']} raise, {_SIGNS['order']} order: each leads to its row."
    yield line_chart(frame, "Use against limit.", told, limit, lines, _marks(report), f"{highest:,.0f}")
    lost: dict[float, float] = defaultdict(float)
    for point in report.points:
        lost[point.at] += point.dropped + point.evicted
    dropped, evicted = (sum(getattr(point, name) for point in report.points) for name in ("dropped", "evicted"))
    told = f"{dropped:,} packets dropped, {evicted:,} entries evicted early."
    yield bar_chart(frame, "Drops and evictions.", told, sorted(lost.items()), f"{max(lost.values()):,.0f}")
    yield from _memory(report, frame)


def _memory(report: Report, frame: Frame) -> Iterator[str]:
    """Yield what the entries take against the budget, by the newest sum of that time."""
    arithmetic = next(filter(None, map(_arithmetic, report.entries)), None)
    if arithmetic is None:
        yield "<p>Memory is told where a decision of this time has a sum.</p>"
        return
    held: dict[float, float] = defaultdict(float)
    for point in report.points:
        held[point.at] += point.count
    dots = [(at, count * arithmetic.bytes_per_entry + arithmetic.bucket_bytes) for at, count in sorted(held.items())]
    budget = Line(name="budget", dots=[(report.since, float(arithmetic.budget_bytes))], steps=True)
    most = format_bytes(max(value for _, value in dots))
    told = f"At most {most} of a budget of {format_bytes(arithmetic.budget_bytes)}, at {arithmetic.bytes_per_entry} bytes an entry."
    top = format_bytes(max(arithmetic.budget_bytes, *(value for _, value in dots)))
    yield line_chart(
        frame, "Memory of the tables.", told, budget, [Line(name="entries and buckets", dots=dots)], (), top
    )


def _marks(report: Report) -> Iterator[Mark]:
    steps = [entry.told.row for entry in report.entries if entry.told.row.verdict != "hold"][:_MOST_MARKS]
    for row in reversed(steps):
        label = f"{local(row.at_seconds)}: {row.verdict} {_step(row)}"
        yield Mark(at_seconds=row.at_seconds, target=f"d{row.id}", label=label, sign=_SIGNS.get(row.verdict, "●"))


def _by_table(points: Iterable[Point]) -> list[tuple[str, Dots]]:
    """Return each table's entries over time, the highest peak first."""
    dots: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for point in points:
        dots[point.namespace, point.label].append((point.at, point.count))
    fullest = sorted(dots.items(), key=lambda item: max(count for _, count in item[1]), reverse=True)
    return [(_name(*who), found) for who, found in fullest]


def _limit_dots(report: Report) -> Dots:
    """Return the limit over time, by the series and by what each decision found and left."""
    dots = {float(point.at): point.limit for point in report.points}
    for row in (entry.told.row for entry in report.entries):
        if report.since <= row.at_seconds <= report.until and row.from_limit is not None:
            dots[row.at_seconds] = row.from_limit
            dots[row.at_seconds + 1e-3] = row.from_limit if row.limit_after is None else row.limit_after
    return sorted(dots.items())


def _tables(report: Report) -> Iterator[str]:
    """Yield the tables of that time: what the charts show, in figures."""
    if not report.points:
        return
    found: dict[tuple[int, str], list[Point]] = defaultdict(list)
    for point in report.points:
        found[point.namespace, point.label].append(point)
    yield '<section aria-labelledby="tables"><h2 id="tables">Tables</h2><table class="figures">'
    yield "<caption>The most entries and the highest use of each, the fullest first.</caption>"
    yield '<thead><tr><th scope="col">Table</th>'
    yield "".join(f'<th scope="col" class="number">{name}</th>' for name in ("Entries", "Use", "Dropped", "Evicted"))
    yield "</tr></thead><tbody>"
    for who, points in sorted(found.items(), key=lambda item: max(p.count for p in item[1]), reverse=True)[:21]:
        most = max(point.count for point in points)
        share = max(point.count / point.limit for point in points)
        use = "" if who == (0, OTHERS) else f"{100 * share:.0f} %"
        figures = (f"{most:,}", use, f"{sum(p.dropped for p in points):,}", f"{sum(p.evicted for p in points):,}")
        cells = "".join(f'<td class="number">{figure}</td>' for figure in figures)
        yield f'<tr><th scope="row">{escaped(_name(*who))}</th>{cells}</tr>'
    yield "</tbody></table></section>"


def _decisions(report: Report) -> Iterator[str]:
    yield '<section aria-labelledby="decisions"><h2 id="decisions" tabindex="-1">Decisions</h2>'
    if not report.entries:
        yield "<p>No decision was made in this time.</p></section>"
        return
    more = " There are older ones: choose a shorter time to see them." if report.left_out else ""
    yield '<table class="decisions" role="table">'
    yield f"<caption>The newest first. A row opens to show its sum.{more}</caption>"
    yield '<thead role="rowgroup"><tr role="row">'
    yield "".join(f'<th scope="col" role="columnheader">{name}</th>' for name in ("When", "What", "Why"))
    yield '</tr></thead><tbody role="rowgroup">'
    for entry in report.entries:
        yield _decision(entry)
    yield "</tbody></table></section>"


def _decision(entry: Entry) -> str:
    """Return one row: when, what, and why with the sum folded in."""
    row = entry.told.row
    repeats = f'<br><span class="soft">×{row.repeats:,} until {escaped(local(row.last_seconds))}</span>' * (
        row.repeats > 1
    )
    outcome = "" if row.outcome in {"none", "applied"} else f", {escaped(row.outcome)}"
    why = [f"<p>{escaped(row.sentence)}</p>"]
    if row.follow_up is not None:
        tone = {Drops.GO_ON: "bad", Drops.UNKNOWN: "soft"}.get(row.follow_up.drops, "good")
        why.append(f'<p class="{tone}">Afterwards: {escaped(afterwards(row.follow_up))}</p>')
    if row.message:
        why.append(f'<p class="soft">The kernel said: {escaped(row.message)}</p>')
    if entry.found:
        why.append(_pairs(entry.found))
    arithmetic = _arithmetic(entry)
    if arithmetic is not None:
        sums = _pairs(sum_lines(arithmetic, entry.told.policy))
        why.append(
            f'<details><summary>The sum<span class="hidden"> of decision {row.id}</span></summary>{sums}</details>'
        )
    return (
        f'<tr role="row" id="d{row.id}"><th scope="row" role="rowheader" class="when">'
        f"#{row.id} {escaped(local(row.at_seconds))}{repeats}</th>"
        f'<td role="cell" class="what">{_SIGNS.get(row.verdict, "●")} {escaped(row.verdict)}{outcome}<br>{escaped(_step(row))}'
        f'<br><span class="soft">{escaped(row.reason)}</span></td><td role="cell">{"".join(why)}</td></tr>\n'
    )


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in pairs)
    return f'<dl class="sum">{items}</dl>'


def _arithmetic(entry: Entry) -> Arithmetic | None:
    return getattr(entry.told.record.decision, "arithmetic", None)


def _step(row: Row) -> str:
    limit = "-" if row.from_limit is None else f"{row.from_limit:,}"
    return limit if row.to_limit is None else f"{limit} → {row.to_limit:,}"


def _name(namespace: int, label: str) -> str:
    return label if label in {OTHERS, "initial"} else f"{label} (netns {namespace})"
