"""Growth and pressure, as tables worked by hand."""

from __future__ import annotations

import math

import pytest

from conntrackd_guard.core.assessment import Growth, presses
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.usage import is_stable, risen, seconds_to_full

U32 = 1 << 32


@pytest.mark.parametrize(
    ("before", "now", "rise"),
    [
        (5, 9, 4),
        (9, 9, 0),
        (U32 - 2, 3, 5),  # the counter wrapped
        (1_000_000, 7, 0),  # another namespace under a reused inode number
        (None, 9, 0),
        (5, None, 0),
        (U32 + 5, U32 + 9, 4),  # a sum over CPUs may be more than 32 bits
    ],
)
def test_risen(before: int | None, now: int | None, rise: int) -> None:
    """A counter's rise survives a wrap, and a fall is no rise."""
    assert risen(before, now) == rise


def looks(*figures: tuple[float, int, int | None, int | None]) -> Growth:
    """Return the growth after looks at (seconds, count, drop, early_drop)."""
    growth = Growth()
    for at, count, drop, early in figures:
        growth.look(at, count, drop, early)
    return growth


@pytest.mark.parametrize(
    ("seen", "demand"),
    [
        (looks((0.0, 10, 0, 0)), None),  # one look says nothing of growth
        (looks((0.0, 10, 0, 0), (0.01, 99, 0, 0)), None),  # nor do two within 20 ms
        (looks((0.0, 100, 0, 0), (1.0, 600, 0, 0)), 500.0),
        # full: the count stands still, the counters tell
        (looks((0.0, 1000, 0, 0), (1.0, 1000, 200, 50)), 250.0),
        (looks((0.0, 600, 0, 0), (1.0, 100, 0, 0)), 0.0),  # shrinking is no demand
        (looks((0.0, 600, 0, 0), (1.0, 500, 300, 0)), 200.0),
        # 1,000 in the last 100 ms: 10,000 a second, not the second's 1,000
        (looks((0.0, 0, 0, 0), (0.9, 0, 0, 0), (1.0, 1000, 0, 0)), 10_000.0),
        # a burst that paused: the second's 1,000, not the last 100 ms' 0
        (looks((0.0, 0, 0, 0), (0.9, 1000, 0, 0), (1.0, 1000, 0, 0)), 1_000.0),
        (looks((0.0, 100, None, None), (1.0, 300, None, None)), 200.0),  # only the count can be read
    ],
)
def test_demand(seen: Growth, demand: float | None) -> None:
    """Demand is Δcount + Δdrop + Δearly_drop over the steepest window."""
    assert seen.demand_per_second == (None if demand is None else pytest.approx(demand))


@pytest.mark.parametrize(
    ("drops", "dropped"),
    [
        ((0,), 0),
        ((7,), None),  # nobody knows when
        ((7, 7), 0),
        ((7, 9), 2),
        ((7, 9, None), None),
        ((7, 9, None, 12), 5),
        ((500, 400), 400),  # another namespace under a reused number
        ((500, 400, 405), 405),
        ((U32 - 2, 3), 5),  # the counter wrapped
    ],
)
def test_dropped(drops: tuple[int | None, ...], dropped: int | None) -> None:
    """Drops count from the first look on; those before it have no time."""
    assert looks(*((0.25 * at, 10, drop, 0) for at, drop in enumerate(drops))).dropped == dropped


def test_drops_are_over_after_ten_quiet_seconds() -> None:
    """Or with a raise; a dry run counts on until its next raise."""
    growth = looks((0.0, 10, 0, 0), (1.0, 10, 4, 0), (10.9, 10, 4, 0))
    assert (growth.dropped, growth.dropped_since_raise) == (4, 4)
    growth.look(11.0, 10, 4, 0)
    assert (growth.dropped, growth.dropped_since_raise) == (0, 4)
    growth.look(12.0, 10, 6, 0)
    growth.restart()
    growth.look(12.25, 10, 7, 0)
    assert (growth.dropped, growth.dropped_since_raise) == (1, 1)


@pytest.mark.parametrize(
    ("count", "demand", "seconds"),
    [(500, 100.0, 5.0), (1000, 100.0, 0.0), (1001, 100.0, 0.0), (500, 0.0, math.inf), (500, None, math.inf)],
)
def test_seconds_to_full(count: int, demand: float | None, seconds: float) -> None:
    """How long a table of 1,000 lasts."""
    assert seconds_to_full(count, 1000, demand) == seconds


@pytest.mark.parametrize(
    ("count", "demand", "begins", "goes_on"),
    [
        (800, None, True, True),
        (799, None, False, True),
        (750, None, False, True),
        (749, None, False, False),
        (300, 700.0, True, True),  # full in 1 s
        (300, 699.0, False, False),
        (299, 9_999.0, False, False),  # less than 30 % full
    ],
)
def test_presses(count: int, demand: float | None, *, begins: bool, goes_on: bool) -> None:
    """Of 1,000: begins at 80 % or when 1 s is left, ends 5 points below."""
    assert presses(count, 1000, demand, Policy()) is begins
    assert presses(count, 1000, demand, Policy(), already=True) is goes_on


@pytest.mark.parametrize(
    ("count", "demand", "stable"),
    [(899, None, True), (900, None, False), (850, 0.24, True), (850, 0.25, False)],  # 150 ÷ 0.25 = 600 s
)
def test_stable(count: int, demand: float | None, *, stable: bool) -> None:
    """Under 90 % with more than ten minutes to full may be left alone."""
    assert is_stable(count, 1000, demand) is stable
