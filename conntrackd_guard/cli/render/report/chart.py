"""Charts of the report: geometry for inline SVG that stretches with the page. All text stands beside it as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

WIDTH, HEIGHT = 1000, 100
"""Of the drawing, in its own units: it is stretched to the page."""
MOST_CURVES = 5
"""As many as the style sheet has colours and dashes for."""
_GAP_SECONDS = 180
"""A running daemon leaves a point a minute at least: in a longer gap none ran."""

Dots = Sequence[tuple[float, float]]
"""(wall time, value)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The time that a report's charts cover. Times are wall time in seconds."""

    since: float
    until: float
    step: int
    """Seconds between two dots."""

    def x(self, at_seconds: float) -> float:
        """Return where a time stands on the drawing."""
        share = (at_seconds - self.since) / max(1e-9, self.until - self.since)
        return WIDTH * min(1.0, max(0.0, share))


class Curve(NamedTuple):
    """A line of a chart: its name in the legend, and its SVG path."""

    name: str
    path: str


class Mark(NamedTuple):
    """A moment on the time axis that links to a decision."""

    left: str
    target: int
    label: str
    sign: str


class Chart(NamedTuple):
    """Curves below a bound, or bars."""

    title: str
    words: str
    """The chart as a sentence."""
    top: str
    """The highest value, for people."""
    bound: Curve | None = None
    curves: Sequence[Curve] = ()
    marks: Sequence[Mark] = ()
    bars: Sequence[tuple[float, float, float]] = ()
    """(x, width, height)."""


def curve(span: Span, name: str, dots: Dots, highest: float, *, steps: bool = False) -> Curve:
    """Return a line with gaps where no daemon ran; `steps`: each value holds until the next dot, across any gap."""
    parts: list[str] = []
    before: float | None = None
    gap = max(_GAP_SECONDS, 3 * span.step)
    for at, value in dots:
        x, y = span.x(at), HEIGHT * (1 - value / (highest or 1.0))
        if before is None or (not steps and at - before > gap):
            parts.append(f"M{x:.1f} {y:.1f}h1")  # a lone dot shows, too
        else:
            parts.append(f"H{x:.1f}V{y:.1f}" if steps else f"L{x:.1f} {y:.1f}")
        before = at
    if steps and dots:
        parts.append(f"H{WIDTH}")
    return Curve(name, "".join(parts))


def bars(span: Span, dots: Dots, highest: float) -> list[tuple[float, float, float]]:
    """Return one bar a step as (x, width, height); a value above 0 is always visible."""
    width = max(2.0, WIDTH * span.step / max(1.0, span.until - span.since))
    return [(span.x(at), width, max(2.0, HEIGHT * value / (highest or 1.0))) for at, value in dots if value]
