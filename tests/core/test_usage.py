"""Growth and pressure, as tables worked by hand."""

from __future__ import annotations

import math

import pytest

from conntrackd_guard.core.assessment import Growth, is_full, presses
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Table
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


def looks(*figures: tuple[float, int, int | None, int | None], limit: int | None = 1000) -> Growth:
    """Return the growth after looks at (seconds, count, drop, early_drop) under that limit."""
    growth = Growth()
    for at, count, drop, early in figures:
        growth.look(at, count, drop, early, limit)
    return growth


@pytest.mark.parametrize(
    ("seen", "demand"),
    [
        (looks((0.0, 10, 0, 0)), None),  # one look says nothing of growth
        (looks((0.0, 10, 0, 0), (0.01, 99, 0, 0)), None),  # nor do two within 20 ms
        (looks((0.0, 100, 0, 0), (0.05, 600, 0, 0)), None),  # nor does one interval of less than 200 ms
        (looks((0.0, 100, 0, 0), (0.2, 600, 0, 0)), (2500.0, 0.2)),
        (looks((0.0, 100, 0, 0), (1.0, 600, 0, 0)), (500.0, 1.0)),
        # full: the count stands still, the counters show the growth
        (looks((0.0, 1000, 0, 0), (1.0, 1000, 200, 50)), (250.0, 1.0)),
        (looks((0.0, 1000, 0, 0), (0.05, 1000, 100, 0), (0.1, 1000, 200, 0)), (2000.0, 0.1)),
        # at 10 % the drops are lost races and failed allocations
        (looks((0.0, 100, 0, 0), (1.0, 100, 200, 50)), (0.0, 1.0)),
        (looks((0.0, 600, 0, 0), (1.0, 100, 0, 0)), (0.0, 1.0)),  # shrinking is no demand
        (looks((0.0, 900, 0, 0), (1.0, 800, 300, 0)), (200.0, 1.0)),
        # of two successive short intervals, the slower one
        (looks((0.0, 0, 0, 0), (0.05, 50, 0, 0), (0.1, 100, 0, 0)), (1000.0, 0.1)),
        (looks((0.0, 0, 0, 0), (0.05, 1, 0, 0), (0.1, 101, 0, 0)), (20.0, 0.1)),
        # one that grew beside one that did not is a burst
        (looks((0.0, 0, 0, 0), (0.05, 100, 0, 0), (0.1, 100, 0, 0)), (0.0, 0.1)),
        (looks((0.0, 0, 0, 0), (0.9, 0, 0, 0), (1.0, 1000, 0, 0)), (0.0, 1.0)),
        # also when it lies further back
        (looks((0.0, 0, 0, 0), (0.05, 800, 0, 0), (0.3, 800, 0, 0), (0.55, 800, 0, 0)), (0.0, 0.25)),
        # growth that paused: the 1,000 of 900 ms, not the last 100 ms' 0
        (looks((0.0, 0, 0, 0), (0.9, 1000, 0, 0), (1.0, 1000, 0, 0)), (1000 / 0.9, 1.0)),
        (looks((0.0, 100, None, None), (1.0, 300, None, None)), (200.0, 1.0)),  # only the count can be read
    ],
)
def test_demand(seen: Growth, demand: tuple[float, float] | None) -> None:
    """Demand is growth that lasted, with the time that it was measured over."""
    found = (seen.demand_per_second, seen.demand_seconds)
    assert found == ((None, None) if demand is None else pytest.approx(demand))


@pytest.mark.parametrize(
    ("seen", "burst"),
    [
        (looks((0.0, 100, 0, 0), (0.056, 2091, 0, 0), limit=100_000), (35_553.6, 0.056)),
        (looks((0.0, 100, 0, 0), (0.1, 100, 0, 0), (0.15, 600, 0, 0)), (10_000.0, 0.05)),
        (looks((0.0, 0, 0, 0), (0.05, 50, 0, 0), (0.1, 120, 0, 0)), None),  # it lasts
        (looks((0.0, 100, 0, 0), (0.05, 600, 0, 0), (0.1, 600, 0, 0)), None),  # it is over
        (looks((0.0, 100, 0, 0), (0.05, 90, 0, 0)), None),
    ],
)
def test_a_burst_is_no_demand(seen: Growth, burst: tuple[float, float] | None) -> None:
    """Growth since the last look that is far steeper than the demand stands apart."""
    found = (seen.burst_per_second, seen.burst_seconds)
    assert found == ((None, None) if burst is None else pytest.approx(burst, rel=1e-4))


def test_a_burst_across_a_raise_is_one_burst() -> None:
    """What the old limit refused is wanted under the new one, too; the drops show nothing about the new one."""
    growth = looks((0.0, 1000, 0, 0), (0.1, 1000, 400, 0))
    growth.look(0.2, 1100, 450, 0, 2000)
    assert growth.demand_per_second == pytest.approx(1500.0)  # 100 entries and 50 refused in 100 ms
    assert growth.dropped == 0


@pytest.mark.parametrize(
    ("drops", "dropped"),
    [
        ((0,), 0),
        ((7,), 0),  # nobody knows when
        ((7, 7), 0),
        ((7, 9), 2),
        ((7, 9, None, 12), 5),
        ((500, 400), 0),  # another namespace under a reused number
        ((500, 400, 405), 5),
        ((U32 - 2, 3), 5),  # the counter wrapped
    ],
)
def test_dropped(drops: tuple[int | None, ...], dropped: int) -> None:
    """Drops at the limit count from the first look on; those before it have no time."""
    assert looks(*((0.25 * at, 1000, drop, 0) for at, drop in enumerate(drops))).dropped == dropped


@pytest.mark.parametrize(
    ("seen", "dropped"),
    [
        (looks((0.0, 50, 0, 0), (0.25, 50, 60, 0)), 0),  # lost races at 5 %
        (looks((0.0, 50, 0, 0), (0.25, 799, 60, 0)), 0),
        (looks((0.0, 50, 0, 0), (0.25, 800, 60, 0)), 60),  # filled and dropped between two looks
        (looks((0.0, 1000, 0, 0), (0.25, 850, 60, 0)), 60),  # it falls a little while entries expire
        (looks((0.0, 1000, 0, 0), (0.25, 1000, 60, 0), (0.5, 700, 60, 0), (0.75, 1000, 60, 0)), 0),  # it was emptied
        (looks((0.0, 50, 0, 0), (60.0, 850, 60, 0)), 0),  # in a minute without a look, nobody knows when
        (looks((0.0, 1000, 0, 0), (0.25, 1000, 60, 0), limit=None), 0),  # no limit that could be reached
        (looks((0.0, 1000, 0, 0), (0.25, 1000, 60, 0), limit=0), 0),
    ],
)
def test_drops_count_near_the_limit_alone(seen: Growth, dropped: int) -> None:
    """`drop` also counts lost races and failed allocations: only at the limit it shows a full table."""
    assert (seen.dropped, seen.dropped_since_raise) == (dropped, dropped)


@pytest.mark.parametrize("limit", [1100, 900, 0, None])
def test_every_change_of_the_limit_ends_what_drops_show(limit: int | None) -> None:
    """Whoever made it, up or down; a table that is full at the new limit shows it by its count and by new drops."""
    growth = looks((0.0, 1000, 0, 0), (0.25, 1000, 60, 0))
    assert growth.dropped == 60
    growth.look(0.5, 1000, 65, 0, limit)
    assert (growth.dropped, growth.dropped_since_raise) == (0, 0)
    growth.look(0.75, 1000, 65, 0, 1000)
    assert growth.dropped == 0


def test_drops_are_over_after_ten_quiet_seconds() -> None:
    """Or with a raise; a dry run counts on until its next raise."""
    growth = looks((0.0, 1000, 0, 0), (1.0, 1000, 4, 0), (10.9, 1000, 4, 0))
    assert (growth.dropped, growth.dropped_since_raise) == (4, 4)
    growth.look(11.0, 1000, 4, 0, 1000)
    assert (growth.dropped, growth.dropped_since_raise) == (0, 4)
    growth.look(12.0, 1000, 6, 0, 1000)
    growth.restart()
    growth.look(12.25, 1000, 7, 0, 1000)
    assert (growth.dropped, growth.dropped_since_raise) == (1, 1)


@pytest.mark.parametrize(
    ("count", "dropped", "threshold", "full"),
    [
        (900, 0, 0.8, True),
        (899, 0, 0.8, False),
        (100_000, 0, 0.8, True),  # the limit was lowered under it
        (800, 1, 0.8, True),
        (799, 1, 0.8, False),
        (949, 1, 0.95, False),  # under the threshold nothing makes it full
        (950, 0, 0.95, True),
    ],
)
def test_is_full(count: int, dropped: int, threshold: float, *, full: bool) -> None:
    """A count near the limit then and there; a little less if it dropped at that limit."""
    table = Table(namespace=1, label="web", count=count, dropped=dropped)
    assert is_full(table, 1000, Policy(threshold=threshold)) is full


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
