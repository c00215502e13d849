"""A time on this host as one page. `page.html.j2` holds the elements; this module works out what they show."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from conntrackd_guard.cli.render import decision_text
from conntrackd_guard.cli.render.analysis_text import breakdown, head_lines
from conntrackd_guard.cli.render.arithmetic_text import calculations
from conntrackd_guard.cli.render.console import local
from conntrackd_guard.cli.render.lines import COMMAND, UNDO, Line
from conntrackd_guard.cli.render.report.chart import HEIGHT, MOST_CURVES, WIDTH, Chart, Dots, Mark, Span, bars, curve
from conntrackd_guard.core import explain
from conntrackd_guard.core.arithmetic import Arithmetic
from conntrackd_guard.core.limits import format_limit
from conntrackd_guard.core.text import printable, short
from conntrackd_guard.core.traffic.diagnosis import Cause, Finding
from conntrackd_guard.core.units import format_bytes, format_duration
from conntrackd_guard.core.verification import Drops, Verification
from conntrackd_guard.history.details import DecisionDetail
from conntrackd_guard.history.rows import Row
from conntrackd_guard.history.series import OTHERS, THE_OTHERS, Point

_SIGNS: Final = {"raise": "▲", "override": "◆", "hold": "●"}
_TONES: Final = {Drops.CONTINUING: "bad", Drops.UNKNOWN: "soft", Cause.GROW: "good", Cause.UNCLEAR: "soft"}
_MOST_MARKS = 100
"""Links below the chart; the table has every decision."""
_MOST_TABLES = 21
"""As many as the time series keeps apart at a time, and the sum of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The data of a report. Times are wall time in seconds."""

    host: str
    version: str
    made_seconds: float
    span: Span
    points: Sequence[Point]
    held: Dots
    """The most entries in all tables together, over time."""
    entries: Sequence[DecisionDetail]
    """The newest first, as many as there is room for."""
    counts: Counter[str]
    """Of all decisions of the time: `decisions`, `raises` (applied or in a dry run), `holds`, `watched` (raises that
    were verified), `continuing` (raises after which packets were still dropped)."""


def html() -> Environment:
    """Return what renders the templates of this folder, with dates of the reader's zone."""
    # Text from outside can't become an element (autoescape), nor fool a reader with control or bidi characters (finalize).
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, keep_trailing_newline=True, finalize=_finalize
    )
    environment.filters["local"] = local
    return environment


def page(report: Report) -> str:
    """Return the page."""
    environment = html()
    environment.filters |= {
        "step": decision_text.step, "why": decision_text.why, "outcome": decision_text.outcome,
        "tone": _tone, "result": explain.verification, "calculations": calculations, "diagnosis": head_lines,
        "breakdown": breakdown,
    }  # fmt: skip
    charts = [chart for draw in (_use, _drops, _memory) if report.points and (chart := draw(report))]
    return environment.get_template("page.html.j2").render(
        report=report,
        facts=_facts(report),
        charts=charts,
        tables=_tables(report),
        most_tables=_MOST_TABLES,
        signs=_SIGNS,
        commands=(COMMAND, UNDO),
        width=WIDTH,
        height=HEIGHT,
    )


def _finalize(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _tone(found: Verification | Finding) -> str:
    """Return the class of a text: `good`, `bad`, or `soft` where it is neither."""
    if isinstance(found, Verification):
        return _TONES.get(found.drops, "good")
    return _TONES.get(found.cause, "bad")


def _facts(report: Report) -> list[Line]:
    """Return the figures that a reader wants first."""
    counts, limits = report.counts, _limit_dots(report)
    peak = max(_shares(report), default=None)
    watched = f"{counts['continuing']:,} of {counts['watched']:,} raises" if counts["watched"] else "none was watched"
    return [
        ("Limit at the end", format_limit(int(limits[-1][1])) if limits else "not known"),
        ("Highest use of a table", "not known" if peak is None else f"{100 * peak:.0f} %"),
        ("Packets dropped", f"{sum(point.dropped for point in report.points):,}" if report.points else "not known"),
        ("Raises", f"{counts['raises']:,}"),
        ("Drops continued after", watched if counts["raises"] else "no raise"),
        ("Holds", f"{counts['holds']:,}"),
    ]


def _shares(report: Report) -> Iterator[float]:
    """Yield how full tables were: where the limit rose within a step, only the decision knows that one was full."""
    alone = (point for point in report.points if point.limit and point.name != THE_OTHERS)
    yield from (point.count / point.limit for point in alone)
    for seen in (detail.record.observation for detail in report.entries):
        yield from (table.count / seen.limit for table in seen.tables if seen.limit)


def _use(report: Report) -> Chart:
    """Return the entries of the fullest tables against the limit, with a link to each raise and override."""
    span, limits = report.span, _limit_dots(report)
    tables = [(_name(*who), [(point.at, point.count) for point in found]) for who, found in _grouped(report.points)]
    highest = max(value for _, dots in [("", limits), *tables] for _, value in dots)
    most = max(count for _, count in tables[0][1])
    first, last = format_limit(int(limits[0][1])), format_limit(int(limits[-1][1]))
    change = f"from {first} to {last}" if first != last else f"at {last} at both ends"
    those = f"the {MOST_CURVES} fullest of {len(tables):,}" if len(tables) > MOST_CURVES else f"all {len(tables)}"
    those = "the only table seen" if len(tables) == 1 else f"{those} tables"
    words = f"The limit, {change}, and the entries of {those}: at most {most:,.0f}, in {tables[0][0]}."
    steps = [detail.row for detail in report.entries if detail.row.verdict != "hold"]
    if steps:
        which = f" (the last {_MOST_MARKS})" if len(steps) > _MOST_MARKS else ""
        words += f" {_SIGNS['raise']} raise, {_SIGNS['override']} override{which}: each links to its row."
    return Chart(
        title="Use against limit.",
        words=words,
        top=f"{highest:,.0f}",
        bound=curve(span, "limit", limits, highest, steps=True),
        curves=[curve(span, name, dots, highest) for name, dots in tables[:MOST_CURVES]],
        marks=[_mark(span, row) for row in reversed(steps[:_MOST_MARKS])],
    )


def _mark(span: Span, row: Row) -> Mark:
    label = f"{local(row.at_seconds)}: {row.verdict} {decision_text.step(row)}"
    return Mark(f"{span.x(row.at_seconds) / WIDTH:.2%}", row.id, label, _SIGNS.get(row.verdict, "●"))


def _drops(report: Report) -> Chart:
    lost: dict[float, float] = defaultdict(float)
    for point in report.points:
        lost[point.at] += point.dropped + point.evicted
    dropped, evicted = _losses(report.points)
    highest = max(lost.values())
    most = f": at most {highest:,.0f} in {format_duration(report.span.step)}" if dropped + evicted else ""
    return Chart(
        title="Drops and evictions.",
        words=f"{dropped:,} packets dropped, {evicted:,} entries evicted early{most}.",
        top=f"{highest:,.0f}",
        bars=bars(report.span, sorted(lost.items()), highest),
    )


def _memory(report: Report) -> Chart | None:
    """Return what the entries take against the budget; None without a calculation.

    Settings and memory change, so each moment is shown by the last calculation before it, or else by the first one.
    """
    found = ((detail.row.at_seconds, detail.arithmetic) for detail in report.entries)
    made = sorted(((at, arithmetic) for at, arithmetic in found if arithmetic is not None), key=itemgetter(0))
    if not made:
        return None
    times = [at for at, _ in made]

    def at_that_time(at: float) -> Arithmetic:
        return made[max(0, bisect_right(times, at) - 1)][1]

    used = [(at, count, at_that_time(at)) for at, count in report.held]
    dots = [(at, count * a.bytes_per_entry + a.bucket_bytes) for at, count, a in used]
    budgets = [(report.span.since, made[0][1].budget_bytes)]
    budgets += [
        (at, a.budget_bytes) for (_, before), (at, a) in pairwise(made) if a.budget_bytes != before.budget_bytes
    ]
    at, most = max(dots, key=itemgetter(1))
    then = at_that_time(at)
    highest = max(most, *(budget for _, budget in budgets))
    size = f"{format_bytes(round(most))} of a budget of {format_bytes(then.budget_bytes)}"
    changes = {budget for _, budget in budgets}
    changed = (
        f" The budget was {format_bytes(min(changes))} to {format_bytes(max(changes))}." if len(changes) > 1 else ""
    )
    return Chart(
        title="Memory of the tables.",
        words=f"At most {size}, at {then.bytes_per_entry} bytes an entry.{changed}",
        top=format_bytes(round(highest)),
        bound=curve(report.span, "budget", budgets, highest, steps=True),
        curves=[curve(report.span, "entries and buckets", dots, highest)],
    )


def _grouped(points: Iterable[Point]) -> list[tuple[tuple[int, str], list[Point]]]:
    """Return the points of each table, the highest peak first."""
    found: dict[tuple[int, str], list[Point]] = defaultdict(list)
    for point in points:
        found[point.name].append(point)
    return sorted(found.items(), key=lambda item: max(point.count for point in item[1]), reverse=True)


def _limit_dots(report: Report) -> Dots:
    """Return the limit over time, by what each decision found and left, and by the series.

    A point of the series knows the highest limit of its step: where it changed within, only the decision knows when.
    """
    dots: dict[float, float] = {}
    for row in (detail.row for detail in report.entries):
        if report.span.since <= row.at_seconds <= report.span.until and row.from_limit is not None:
            dots[row.at_seconds] = row.from_limit
            dots[row.at_seconds + 1e-3] = row.from_limit if row.limit_after is None else row.limit_after
    decided = sorted(dots)
    for point in report.points:
        if bisect_left(decided, point.at) == bisect_left(decided, point.at + point.step):
            dots[point.at] = point.limit
    return sorted(dots.items())


def _tables(report: Report) -> list[tuple[str, ...]]:
    """Return (name, most entries, highest use, dropped, evicted) of each table: the charts in figures."""
    rows: list[tuple[str, ...]] = []
    for who, points in _grouped(report.points):
        most = max(point.count for point in points)
        share = max(point.count / point.limit if point.limit else 0.0 for point in points)
        use = "" if who == THE_OTHERS else f"{100 * share:.0f} %"
        dropped, evicted = _losses(points)
        rows.append((_name(*who), f"{most:,}", use, f"{dropped:,}", f"{evicted:,}"))
    return rows


def _losses(points: Sequence[Point]) -> tuple[int, int]:
    """Return (dropped, evicted)."""
    return sum(point.dropped for point in points), sum(point.evicted for point in points)


def _name(namespace: int, label: str) -> str:
    """Return what a table is called; a namespace that somebody named `others` is shown with its number."""
    return OTHERS if (namespace, label) == THE_OTHERS else f"{short(label)} (netns {namespace})"
