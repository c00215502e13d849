"""A replay as one page: the sums, a chart for each of the worst hosts, and the rows."""

from collections.abc import Iterator

from conntrackd_guard import __version__
from conntrackd_guard.cli.render.lines import COMMAND, UNDO
from conntrackd_guard.cli.render.replay_text import GRADES, host_lines, total_lines
from conntrackd_guard.cli.render.report.chart import HEIGHT, WIDTH, Chart, Span, curve
from conntrackd_guard.cli.render.report.page import html
from conntrackd_guard.replay.model import HostResult
from conntrackd_guard.replay.summary import Summary

MOST_CHARTS = 10
MOST_HOSTS = 500
"""Each takes 2 KB of the page."""


def page(summary: Summary, made_seconds: float) -> str:
    """Return the page."""
    environment = html()
    environment.filters |= {"host_lines": host_lines, "total_lines": total_lines}
    return environment.get_template("replay.html.j2").render(
        summary=summary,
        version=__version__,
        made_seconds=made_seconds,
        grades=GRADES,
        charts=list(_charts(summary)),
        most_hosts=MOST_HOSTS,
        commands=(COMMAND, UNDO),
        width=WIDTH,
        height=HEIGHT,
    )


def _charts(summary: Summary) -> Iterator[tuple[Chart, Span]]:
    """Yield a chart with its time for each of the worst hosts that have a time series."""
    with_points = [answer for answer in summary.answers if len(answer.host.points) > 1]
    for answer in with_points[:MOST_CHARTS]:
        yield _chart(answer.host, answer.against)


def _chart(row: HostResult, against: HostResult | None) -> tuple[Chart, Span]:
    points = row.points
    span = Span(since=points[0][0], until=points[-1][0], step=max(1, (points[-1][0] - points[0][0]) // len(points)))
    others = () if against is None else against.points
    highest = max(max(point[1:]) for point in (*points, *others))
    curves = [
        curve(span, "entries", [(at, entries) for at, entries, *_ in points], highest),
        curve(span, "limit recorded", [(at, limit) for at, _, limit, _ in points], highest, steps=True),
    ]
    if others:
        curves.append(curve(span, "limit with --against", [(one[0], one[3]) for one in others], highest, steps=True))
    most = max(entries for _, entries, *_ in points)
    words = f"At most {most:,} entries; the limit would have gone from {points[0][3]:,} to {points[-1][3]:,}."
    chart = Chart(
        title=f"{row.name}.",
        words=words,
        top=f"{highest:,}",
        bound=curve(span, "limit replayed", [(point[0], point[3]) for point in points], highest, steps=True),
        curves=curves,
    )
    return chart, span
