"""The time series: thinned with age, with a point each for the fullest tables, bounded on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conntrackd_guard.core.model import Table
from conntrackd_guard.history import series
from conntrackd_guard.history.database import History
from conntrackd_guard.history.series import OTHERS, Point
from conntrackd_guard.recording import series_collector
from conntrackd_guard.recording.series_collector import SeriesCollector

HOUR = 3600
DAY = 24 * HOUR
NOW = 1_798_167_600
"""A full hour."""
LIMIT = 65_536


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    """Give an empty history."""
    with History(tmp_path / "history.db", mode="writer") as opened:
        yield opened


def point(at: int, count: int, name: str = "web", dropped: int = 0, evicted: int = 0) -> Point:
    """Return one table's point of one second."""
    return Point(
        at=at, namespace=sum(map(ord, name)), label=name, limit=LIMIT, count=count, dropped=dropped, evicted=evicted
    )


def table(count: int, drop: int | None = 0, early_drop: int | None = 0, namespace: int = 1) -> Table:
    """Return a table as a reading has it."""
    return Table(namespace=namespace, label="web", count=count, drop=drop, early_drop=early_drop)


def read(gathered: SeriesCollector, tables: list[Table], at: float) -> None:
    """Add a reading of all tables."""
    gathered.note(tables, frozenset(table.namespace for table in tables), LIMIT, at)


def everything(history: History, step: int = 1) -> list[Point]:
    """Return all points."""
    return history.points(0, 2 * NOW, step)


def test_a_second_is_one_point_with_its_peak_and_its_drops() -> None:
    """Twenty readings a second are one point: the most entries, and the whole rise of the counters."""
    gathered = SeriesCollector()
    for at, count, drop, early in [
        (0.0, 10, 5, 1),
        (0.3, 90, 7, 1),
        (0.6, 40, 9, 4),
        (1.1, 41, 10, 4),
        (2.0, 42, 10, 4),
    ]:
        read(gathered, [table(count, drop, early)], NOW + at)
    first, second = gathered.take()
    assert (first.at, first.count, first.dropped, first.evicted) == (NOW, 90, 4, 3)
    assert (second.at, second.count, second.dropped, second.evicted) == (NOW + 1, 41, 1, 0)
    assert gathered.take() == []


def test_a_counter_that_is_missing_or_reset_is_no_drop() -> None:
    """Another namespace under a reused number, and a kernel without the file."""
    gathered = SeriesCollector()
    for at, drop in enumerate([500, 3, None, 4, 5, 5]):
        read(gathered, [table(1, drop, drop)], NOW + at)
    assert [found.dropped for found in gathered.take()] == [0, 0, 0, 0, 1]


def test_an_idle_host_has_one_reading_a_minute() -> None:
    """A reading is due after a minute without any, also on a host without tables."""
    gathered = SeriesCollector()
    assert gathered.is_due(NOW)
    read(gathered, [], NOW)
    assert not gathered.is_due(NOW + 59)
    assert gathered.is_due(NOW + 60)
    read(gathered, [table(1)], NOW + 60)
    read(gathered, [], NOW + 90)
    assert not gathered.is_due(NOW + 119)
    assert gathered.is_due(NOW + 120)
    assert gathered.is_due(NOW - 5)  # the clock was set back


def test_a_stalled_disk_costs_points_and_no_memory() -> None:
    """If nobody takes them for hours, the newest are kept."""
    gathered = SeriesCollector()
    for at in range(2 * series_collector.MOST_POINTS):
        read(gathered, [table(at)], NOW + at)
    taken = gathered.take()
    assert len(taken) == series_collector.MOST_POINTS
    assert taken[-1].count == 2 * series_collector.MOST_POINTS - 2


def test_points_come_back_as_they_went_in(history: History) -> None:
    """A fresh point has its second."""
    points = [point(NOW, 10, dropped=2, evicted=3), point(NOW + 1, 11)]
    history.add_points(points)
    assert everything(history) == points


def test_the_fullest_twenty_have_points_and_the_others_a_sum(history: History) -> None:
    """A host with thousands of namespaces has a series of 21."""
    history.add_points([point(NOW, 100 + number, f"n{number:02}", dropped=1) for number in range(25)])
    found = {point.label: point for point in everything(history)}
    assert len(found) == series.MOST_TABLES + 1
    assert "n04" not in found
    assert found["n05"].count == 105
    assert (found[OTHERS].count, found[OTHERS].dropped) == (100 + 101 + 102 + 103 + 104, 5)


def test_points_are_thinned_with_age(history: History) -> None:
    """After an hour a minute is one point, after a week an hour is, after a year it is gone; no drop is lost."""
    for second in range(120):
        history.add_points([point(NOW + second, second, dropped=1)])
    assert len(everything(history)) == 120
    history.add_points([point(NOW + HOUR + 120, 7)])
    found = [(p.step, p.at - NOW, p.count, p.dropped) for p in everything(history)]
    assert found == [(60, 0, 59, 60), (60, 60, 119, 60), (1, HOUR + 120, 7, 0)]
    history.add_points([point(NOW + 8 * DAY, 8)])
    found = [(p.step, p.at - NOW, p.count, p.dropped) for p in everything(history)]
    assert found == [(3600, 0, 119, 120), (3600, HOUR, 7, 0), (1, 8 * DAY, 8, 0)]
    history.add_points([point(NOW + 366 * DAY, 9)])
    assert [p.at - NOW for p in everything(history)] == [8 * DAY, 366 * DAY]


def test_thinning_keeps_points_of_the_fullest(history: History) -> None:
    """Forty tables of one minute, never more than twenty at once, are twenty and the others in the end."""
    history.add_points([point(NOW, 1000 + number, f"a{number}", dropped=1) for number in range(20)])
    history.add_points([point(NOW + 30, number, f"b{number}", dropped=1) for number in range(20)])
    history.add_points([point(NOW + 2 * HOUR, 1)])
    minute = [point for point in everything(history) if point.step == 60]
    assert len(minute) == series.MOST_TABLES + 1
    assert sum(point.dropped for point in minute) == 40
    assert [point.count for point in minute if point.label == OTHERS] == [sum(range(20))]


def test_a_reader_gets_steps_as_wide_as_asked_for(history: History) -> None:
    """A chart of a week needs no seconds; the peak stays in it."""
    history.add_points([point(NOW + second, second) for second in range(100)])
    assert [(point.at - NOW, point.count, point.step) for point in history.points(NOW, NOW + 99, 60)] == [
        (0, 59, 60),
        (60, 99, 60),
    ]
    assert [point.at - NOW for point in history.points(NOW + 98, NOW + 200, 1)] == [98, 99]


def test_a_clock_that_was_ahead_leaves_nothing_behind(history: History) -> None:
    """Else points of the future would stay until it comes."""
    history.add_points([point(NOW + DAY, 5)])
    history.add_points([point(NOW, 6)])
    assert [point.count for point in everything(history)] == [6]


def test_names_without_points_are_forgotten(history: History) -> None:
    """A host that creates a namespace a minute does not keep their names forever; `others` stays."""
    history.add_points([point(NOW, 5, "old")])
    history.add_points([point(NOW + 400 * DAY, 5, "new")])
    history.prune(NOW + 400 * DAY, 1e9, 1000)
    names = history._all("SELECT label FROM series_names ORDER BY id")
    assert names == [(OTHERS,), ("new",)]


def test_more_names_than_there_is_room_for_are_others(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user can create namespaces with ever new names."""
    monkeypatch.setattr(series, "MOST_NAMES", 2)
    history.add_points([point(NOW, 5, "a")])
    history.add_points([point(NOW + 1, 6, "b")])
    history.add_points([point(NOW + 2, 7, "a")])
    assert [point.label for point in everything(history)] == ["a", OTHERS, "a"]


def test_the_newest_names_outlive_the_oldest(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that starts a hundred containers a day has today's by name, and the sum of those of months ago."""
    monkeypatch.setattr(series, "MOST_NAMES", 5)
    monkeypatch.setattr(series, "NAMES_LEFT", 3)
    history.add_points([Point(at=NOW, namespace=0, label=OTHERS, limit=LIMIT, count=100, dropped=2)])
    for at, name in enumerate("abc"):
        history.add_points([point(NOW + at, 10, name, dropped=1), point(NOW + at, 3, "lasting")])
    history.prune(NOW, 1e9, 1000)
    history.add_points([point(NOW + 3, 5, "new")])
    points = {(found.at - NOW, found.label): (found.count, found.dropped) for found in everything(history)}
    assert points == {
        (0, OTHERS): (110, 3),
        (0, "lasting"): (3, 0),
        (1, OTHERS): (10, 1),
        (1, "lasting"): (3, 0),
        (2, "c"): (10, 1),
        (2, "lasting"): (3, 0),
        (3, "new"): (5, 0),
    }


def test_all_of_it_fits_in_64_mib(tmp_path: Path) -> None:
    """A year with 21 tables at every step, large figures and long names."""
    path = tmp_path / "history.db"
    with History(path, mode="writer") as history:
        database = history._database
        database.execute("BEGIN")
        names = ((number, 10 * number, f"{number:0>60}") for number in range(1, series.MOST_NAMES))
        database.executemany("INSERT INTO series_names VALUES (?, ?, ?)", names)
        for step, kept, _ in series.KEPT:
            rows = (
                (step, at, (at // step * 7 + place) % series.MOST_NAMES, 2**31, 2**31, 2**32, 2**32)
                for at in range(NOW - kept, NOW + 1, step)
                for place in range(series.MOST_TABLES + 1)
            )
            database.executemany("INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        database.execute("COMMIT")
        rows_full = database.execute("SELECT count(*) FROM series").fetchone()[0]
        for minute in range(1, 4):  # what comes now pushes as much out
            at = NOW + 60 * minute
            history.add_points([point(at + second, second, f"t{n}") for second in range(60) for n in range(25)])
        assert database.execute("SELECT count(*) FROM series").fetchone()[0] <= rows_full + 3 * 60 * 21
    assert path.stat().st_size < 64 << 20


def test_tables_that_followed_each_other_are_not_added_up(history: History) -> None:
    """Sixty containers of a minute each have one container's entries, however wide the step."""
    for n in range(60):
        history.add_points([point(NOW + 60 * n, 1000 + n, f"job {n}")])
    assert history.held(NOW, NOW + HOUR, HOUR) == [(NOW, 1059)]
    assert sum(found.count for found in history.points(NOW, NOW + HOUR, HOUR)) > 60_000
    assert len(history.held(NOW, NOW + HOUR, 60)) == 60
