"""Verification of a raise: whether the drops ended, and when the new limit would be full."""

from __future__ import annotations

from dataclasses import replace

import pytest
from testbed.records import raised

from conntrackd_guard.core import explain, verification
from conntrackd_guard.core.model import Table
from conntrackd_guard.core.verification import Drops, End, Verification

LIMIT = 98_304
TABLE = Table(namespace=4026532316, label="web", count=65_536, drop=3, early_drop=0)
"""As in the record of `raised`, at 50 s."""
GONE = "The table is full again."
SHORT = "Watched too briefly for a forecast."


def watched(*looks: tuple[float, int, int | None], end: End = End.WATCHED, until: float = 10.0) -> Verification:
    """Return a verification from readings of (seconds after the raise, count, drops since)."""
    after = verification.begin(raised("r", tables=(TABLE,)), LIMIT, [TABLE])
    for seconds, count, dropped in looks:
        table = replace(TABLE, count=count, drop=None if dropped is None else 3 + dropped, dropped=dropped)
        after = verification.seen(after, [table], 50.0 + seconds)
    return verification.conclude(after, end, 50.0 + until)


@pytest.mark.parametrize(
    ("looks", "drops", "dropped"),
    [
        ([(0.1, 65_540, 0), (9.9, 66_000, 0)], Drops.NONE, 0),
        ([(0.1, 65_540, 4), (9.9, 66_000, 4)], Drops.ENDED, 4),
        ([(0.1, 65_540, 4), (5.0, 66_000, 9), (9.9, 66_000, 9)], Drops.ENDED, 9),
        ([(0.1, 65_540, 4), (5.1, 98_304, 9)], Drops.CONTINUING, 9),
        ([(0.1, 65_540, 4), (0.2, 5, 0), (9.9, 66_000, 3)], Drops.CONTINUING, 7),  # another namespace
        ([(0.1, 65_540, 4), (0.2, 65_540, None), (9.9, 66_000, 4)], Drops.ENDED, 4),
        ([(0.1, 65_540, None)], Drops.UNKNOWN, None),
        ([], Drops.UNKNOWN, None),
    ],
)
def test_drops_end_or_continue(looks: list[tuple[float, int, int | None]], drops: Drops, dropped: int | None) -> None:
    """Drops in the later half of the time continue; missing counters prove nothing."""
    found = watched(*looks)
    assert (found.drops, found.dropped) == (drops, dropped)


def test_other_tables_prove_nothing_about_the_one_raised_for() -> None:
    """Its counter can't be read, or it is gone before the first reading: the others don't count."""
    other = replace(TABLE, namespace=7, dropped=0)
    for looks in ([replace(TABLE, drop=None), other], [other]):
        after = verification.begin(raised("r", tables=(TABLE, other)), LIMIT, [TABLE, other])
        assert verification.conclude(verification.seen(after, looks, 60.0), End.WATCHED, 60.0).drops is Drops.UNKNOWN


def test_drops_of_several_tables_are_added() -> None:
    """Each namespace has a counter of its own."""
    after = verification.begin(raised("r", tables=(TABLE,)), LIMIT, [TABLE])
    other = replace(TABLE, namespace=7, dropped=5)
    after = verification.seen(after, [replace(TABLE, drop=5), other], 50.2)
    assert verification.conclude(after, End.WATCHED, 60.0).dropped == 7


def test_the_forecast_is_from_the_growth_after_the_raise() -> None:
    """14,000 entries and 100 drops in 10 s are 1,410 a second; the table that would be full first counts."""
    found = watched((10.0, 79_536, 100))  # 81 %
    assert found.growth_per_second == 1410.0
    assert found.seconds_to_full == pytest.approx((LIMIT - 79_536) / 1410, abs=0.1)


def test_drops_far_from_the_limit_are_no_growth() -> None:
    """Lost races and failed allocations fill no table; they are drops all the same."""
    found = watched((10.0, 66_536, 100))
    assert (found.growth_per_second, found.dropped) == (100.0, 100)


def test_the_last_second_stands_beside_the_average() -> None:
    """A burst that is over makes an average that nothing goes on with."""
    found = watched((1.0, 85_536, 0), (9.0, 85_536, 0), (10.0, 85_536, 0))
    assert (found.growth_per_second, found.last_growth_per_second) == (2000.0, 0.0)
    found = watched((9.0, 65_536, 0), (9.5, 75_536, 0), (10.0, 85_536, 0))
    assert (found.growth_per_second, found.last_growth_per_second) == (2000.0, 20_000.0)
    assert watched((1.0, 75_536, 0), (10.0, 85_536, 0)).last_growth_per_second is None


def test_evicted_entries_are_growth() -> None:
    """A table of unanswered entries overflows by eviction, at a constant count."""
    full = replace(TABLE, count=LIMIT)
    after = verification.begin(raised("r", tables=(full,)), LIMIT, [full])
    after = verification.seen(after, [replace(full, early_drop=500)], 60.0)
    assert verification.conclude(after, End.WATCHED, 60.0).growth_per_second == 50.0


def test_without_growth_or_time_there_is_no_forecast() -> None:
    """No growth is 0; half a second is no basis for a forecast."""
    shrinks = watched((10.0, 60_000, 0))
    assert (shrinks.growth_per_second, shrinks.seconds_to_full) == (0.0, None)
    stands = watched((300.0, 65_537, 0), until=300.0)  # a host that was suspended
    assert (stands.growth_per_second, stands.seconds_to_full) == (0.0, None)
    short = watched((0.5, 70_000, 0), end=End.RAISED_AGAIN, until=0.5)
    assert (short.growth_per_second, short.seconds_to_full) == (None, None)


def test_a_table_that_is_gone_is_no_forecast() -> None:
    """A container that grew fast and ended soon fills no limit."""
    tables = (TABLE, replace(TABLE, namespace=7, count=1000))
    after = verification.begin(raised("r", tables=tables), LIMIT, tables)
    after = verification.seen(after, [replace(TABLE, namespace=7, count=31_000)], 53.0)
    after = verification.seen(after, [replace(TABLE, count=66_536)], 60.0)
    assert verification.conclude(after, End.WATCHED, 60.0).growth_per_second == 100.0


def test_another_namespace_under_the_same_number_starts_from_zero() -> None:
    """Numbers are reused at once: its entries are not compared with those of the one before."""
    old, new = replace(TABLE, drop=500), replace(TABLE, count=10, drop=0)
    after = verification.begin(raised("r", tables=(old,)), LIMIT, [old])
    for seconds, table in [(0.1, replace(old, dropped=0)), (2.0, new), (10.0, replace(new, count=8_010))]:
        after = verification.seen(after, [table], 50.0 + seconds)
    assert verification.conclude(after, End.WATCHED, 60.0).growth_per_second == 1000.0


def test_a_crowd_of_quiet_tables_hides_no_drop() -> None:
    """Any user can create thousands of namespaces; memory is bounded, and the first ones read don't fill it."""
    after = verification.begin(raised("r", tables=(TABLE,)), LIMIT, [TABLE])
    crowd = [Table(namespace=n, label="x", count=n, drop=0, dropped=0) for n in range(1, 1000)]
    late = replace(TABLE, namespace=5000, dropped=9)
    for seconds in (1.0, 2.0):
        after = verification.seen(after, [TABLE, *crowd], 50.0 + seconds)
    after = verification.seen(after, [late], 59.0)
    after = verification.seen(after, [replace(TABLE, count=66_536), *crowd], 60.0)
    found = verification.conclude(after, End.WATCHED, 60.0)
    assert (found.drops, found.dropped, found.growth_per_second) == (Drops.CONTINUING, 9, 100.0)
    assert len(after.tables) < 100


def test_a_verification_ends_after_ten_seconds() -> None:
    """The episode that led to the raise is over then, too."""
    after = verification.begin(raised("r"), LIMIT, [])
    assert not verification.is_over(after, 59.9)
    assert verification.is_over(after, 60.0)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (watched((9.9, 65_536, 0)), "No packets were dropped after the raise to 98,304 within 10 s. No table grew."),
        (
            watched((0.25, 65_536, 12), (10.0, 66_536, 12)),
            (
                "Drops ended 0.25 s after the raise to 98,304 (12 more packets). "
                "At the average growth of these 10 s (100/s), the table would be full in 5min 18s."
            ),
        ),
        (
            watched((1.0, 85_536, 0), (9.0, 85_536, 0), (10.0, 85_536, 0)),
            (
                "No packets were dropped after the raise to 98,304 within 10 s. At the average growth of these 10 s "
                "(2,000/s), the table would be full in 6.4 s; in the last second it grew by 0."
            ),
        ),
        (
            watched((1.4, LIMIT, 1200), end=End.RAISED_AGAIN, until=1.5),
            f"Packets are still dropped after the raise to 98,304: 1,200 in the 1.5 s until the next raise. {GONE}",
        ),
        (
            watched(until=0.5, end=End.LIMIT_CHANGED),
            (
                "Could not verify the raise to 98,304: no drop counter of that table was readable in the 0.5 s "
                f"until the limit was changed. {SHORT}"
            ),
        ),
        (
            watched((3600.0, 65_536, 0), until=3600.0),
            "No packets were dropped after the raise to 98,304 within 1h. No table grew.",
        ),
        (
            watched((10.0, 65_538, 0)),
            (
                "No packets were dropped after the raise to 98,304 within 10 s. "
                "At the average growth of these 10 s (0.2/s), the table would be full in 1d 22h."
            ),
        ),
    ],
)
def test_the_sentence_of_a_verification(found: Verification, text: str) -> None:
    """The same text in log, history and `guard show`."""
    assert explain.verification(found) == text
