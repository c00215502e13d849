"""Charts of the report as inline SVG. Its geometry stretches with the page; all text stands beside it as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conntrackd_guard.cli.render.report.html import escaped

WIDTH, HEIGHT = 1000, 100
"""Of the drawing, in its own units: it is stretched to the page."""
_DASHES = ("", "7 3", "2 3", "10 3 2 3", "4 4")
"""Lines differ by more than colour."""
MOST_LINES = len(_DASHES)
_GAP_SECONDS = 180
"""A guard that watches leaves a point a minute at least: a longer gap is a guard that did not run."""

Dots = Sequence[tuple[float, float]]
"""(wall time, value)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart."""

    name: str
    dots: Dots
    steps: bool = False
    """It holds its value until the next dot, across any gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment that leads to a decision."""

    at_seconds: float
    target: str
    """The id of the element it leads to."""
    label: str
    sign: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What the charts of a report have in common: the time they span, and the words at its ends."""

    since: float
    until: float
    step: int
    """Seconds between two dots."""
    times: tuple[str, str, str]
    """For people: the beginning, the middle and the end."""

    def x(self, at_seconds: float) -> float:
        """Return where a time stands on the drawing."""
        share = (at_seconds - self.since) / max(1e-9, self.until - self.since)
        return WIDTH * min(1.0, max(0.0, share))


def line_chart(  # noqa: PLR0913, PLR0917 - a chart has as many parts
    frame: Frame, title: str, told: str, bound: Line, lines: Sequence[Line], marks: Iterable[Mark], top: str
) -> str:
    """Return lines against a bound. `told` is the chart in words; `top` is the highest value in words."""
    highest = max((value for line in (bound, *lines) for _, value in line.dots), default=0.0) or 1.0
    drawn = [f'<path class="bound" d="{_path(frame, bound, highest)}"/>']
    legend = ['<li><svg class="swatch" viewBox="0 0 24 4" aria-hidden="true"><path class="bound" d="M0 2H24"/></svg>']
    legend[0] += f"{escaped(bound.name)}</li>"
    for number, line in enumerate(lines[:MOST_LINES]):
        look = f'class="line c{number}" stroke-dasharray="{_DASHES[number]}"'
        drawn.append(f'<path {look} d="{_path(frame, line, highest)}"/>')
        swatch = f'<svg class="swatch" viewBox="0 0 24 4" aria-hidden="true"><path {look} d="M0 2H24"/></svg>'
        legend.append(f"<li>{swatch}{escaped(line.name)}</li>")
    links = "".join(
        f'<a class="mark" href="#{mark.target}" style="left:{frame.x(mark.at_seconds) / WIDTH:.2%}"'
        f' title="{escaped(mark.label)}"><span aria-hidden="true">{escaped(mark.sign)}</span>'
        f'<span class="hidden">{escaped(mark.label)}</span></a>'
        for mark in marks
    )
    return _figure(frame, title, told, "".join(drawn), top, links, f'<ul class="legend">{"".join(legend)}</ul>')


def bar_chart(frame: Frame, title: str, told: str, dots: Dots, top: str) -> str:
    """Return bars, one a step. `told` is the chart in words; `top` is the highest value in words."""
    highest = max((value for _, value in dots), default=0.0) or 1.0
    width = max(2.0, WIDTH * frame.step / max(1.0, frame.until - frame.since))
    bars = "".join(
        f'<rect class="bar" x="{frame.x(at):.1f}" width="{width:.1f}" y="{HEIGHT - share:.1f}" height="{share:.1f}"/>'
        for at, value in dots
        if value and (share := max(2.0, HEIGHT * value / highest))
    )
    return _figure(frame, title, told, bars, top, "", "")


def _figure(frame: Frame, title: str, told: str, drawn: str, top: str, links: str, legend: str) -> str:  # noqa: PLR0913, PLR0917
    grid = "".join(f'<path class="grid" d="M0 {y}H{WIDTH}"/>' for y in (0, HEIGHT / 2, HEIGHT))
    begin, middle, end = map(escaped, frame.times)
    return (
        f"<figure><figcaption><strong>{escaped(title)}</strong> {escaped(told)}</figcaption>{legend}"
        f'<div class="plot{" marked" if links else ""}"><span class="top">{escaped(top)}</span>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escaped(f"{title} {told}")}">'
        f"{grid}{drawn}</svg>{links}</div>"
        f'<div class="times"><span>{begin}</span><span class="middle">{middle}</span><span>{end}</span></div></figure>'
    )


def _path(frame: Frame, line: Line, highest: float) -> str:
    """Return the path of a line; where the guard saw nothing there is a gap."""
    parts: list[str] = []
    before: float | None = None
    gap = max(_GAP_SECONDS, 3 * frame.step)
    for at, value in line.dots:
        x, y = frame.x(at), HEIGHT * (1 - value / highest)
        if before is None or (not line.steps and at - before > gap):
            parts.append(f"M{x:.1f} {y:.1f}h1")  # a lone dot shows, too
        else:
            parts.append(f"H{x:.1f}V{y:.1f}" if line.steps else f"L{x:.1f} {y:.1f}")
        before = at
    if line.steps and line.dots:
        parts.append(f"H{WIDTH}")
    return "".join(parts)
