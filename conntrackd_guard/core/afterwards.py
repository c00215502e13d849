"""What came of a raise, in plain English."""

from __future__ import annotations

from typing import assert_never

from conntrackd_guard.core.units import format_duration
from conntrackd_guard.core.verification import Drops, End, Verification

_MOST_IN_SECONDS = 100
_WHOLE_FROM = 10
"""A growth of 0.2 a second is not told as 0."""


def afterwards(found: Verification) -> str:
    """Return whether the drops ended, what ended the watching, and how long the limit lasts."""
    return f"{_drops(found)} {_lasts(found)}"


def _drops(found: Verification) -> str:
    dropped, watched = f"{found.dropped or 0:,} more dropped", _span(found.seconds)
    match found.end:
        case End.WATCHED:
            until = f"in the {watched} watched"
        case End.RAISED_AGAIN:
            until = f"in the {watched} until the next raise"
        case End.LIMIT_CHANGED:
            until = f"in the {watched} until the limit was changed"
        case _:
            assert_never(found.end)
    match found.drops:
        case Drops.NONE:
            return f"nothing dropped {until}."
        case Drops.ENDED:
            return f"the drops ended {_span(found.last_drop_seconds or 0)} after the raise ({dropped})."
        case Drops.CONTINUING:
            return f"drops went on: {dropped} {until}."
        case Drops.UNKNOWN:
            return f"no drop counter of that table could be read {until}."
        case _:
            assert_never(found.drops)


def _lasts(found: Verification) -> str:
    if found.growth_per_second is None:
        return "The growth was seen too short to tell how long the limit lasts."
    if found.seconds_to_full is None:
        return "No table grew."
    growth, left = found.growth_per_second, found.seconds_to_full
    rate = f"{growth:,.0f}" if growth >= _WHOLE_FROM else f"{growth:g}"
    return f"At this rate ({rate}/s) {found.limit:,} lasts {format_duration(left) if left >= 1 else 'no longer'}."


def _span(seconds: float) -> str:
    """Return how long: two looks are not always close, a host may have been suspended between them."""
    return f"{seconds:.3g} s" if seconds < _MOST_IN_SECONDS else format_duration(seconds)
