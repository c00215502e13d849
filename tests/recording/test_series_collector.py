"""What the loop's looks leave in the time series."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core.model import Table
from conntrackd_guard.history.database import History
from conntrackd_guard.history.series import OTHERS, Point
from conntrackd_guard.recording import series_collector as module
from conntrackd_guard.recording import worker
from conntrackd_guard.recording.series_collector import SeriesCollector


def everything(guarded: Guarded) -> list[Point]:
    """End the guard; return all points, oldest first."""
    guarded.stop()
    with History(guarded.paths.history, mode="reader") as history:
        return history.points(0, 2e9, 1)


def series(guarded: Guarded) -> list[Point]:
    """End the guard; return the initial namespace's points, oldest first."""
    return [point for point in everything(guarded) if point.label == "initial"]


def test_readings_become_a_point_a_second(host: Host) -> None:
    """Forty readings in ten seconds are ten points, with limit and drops; the current second has none yet."""
    guarded = Guarded(host)
    for number in range(40):
        host.table(2_000 + number, drop=number)
        guarded.turn(0.25)
    points = series(guarded)
    assert [point.count for point in points] == [2_002 + 4 * second for second in range(10)]
    assert {point.limit for point in points} == {LIMIT}
    assert sum(point.dropped for point in points) == 38


def test_a_raise_shows_as_another_limit(host: Host) -> None:
    """So usage and limit over time can be drawn."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.turn(5.0)  # too long after the empty table for a growth
    for _ in range(3):
        guarded.turn(1.0)
    assert [point.limit for point in series(guarded)] == [LIMIT, 98_304, 98_304]


def test_a_table_stays_one_whichever_process_leads_to_it() -> None:
    """A process that ends changes the table's label in `status`, and does not split its series."""
    series_collector = SeriesCollector()
    for second, label in enumerate(("process 7", "process 9", "web", "process 9")):
        seen = Table(namespace=5, label=label, count=10, drop=0)
        series_collector.note((seen,), frozenset({5}), LIMIT, float(second))
    series_collector.note((seen,), frozenset({5}), LIMIT, 4.0)
    assert [point.label for point in series_collector.take()] == ["process 7", "process 7", "web", "web"]


def test_many_tables_have_points_or_are_in_the_sum(host: Host) -> None:
    """A reading has some of 60 tables; a second has the twenty fullest, and the sum of all others."""
    for number in range(60):
        host.namespace(str(1000 + number), 1000 + number)
    guarded = Guarded(host)
    for _ in range(200):
        guarded.turn(0.25)
    points = [point for point in everything(guarded) if point.at > 1.8e9 + 1020]
    for at in {point.at for point in points}:
        found = {point.label: point.count for point in points if point.at == at}
        assert sum(found.values()) == sum(range(1000, 1060))
        assert found.keys() == {OTHERS, *(f"process {1000 + number}" for number in range(40, 60))}


def test_tables_that_end_leave_the_sum(host: Host) -> None:
    """Namespaces are scanned within a minute, or once the memory of entries shows that some are missing."""
    for number in range(40):
        host.namespace(str(1000 + number), 1000)
    guarded = Guarded(host)
    for _ in range(2):
        guarded.turn(1.0)
    for number in range(40):
        shutil.rmtree(host.root / f"proc/{1000 + number}")
    for _ in range(130):
        guarded.turn(0.5)
    points = everything(guarded)
    assert sum(point.count for point in points if point.at == points[0].at) == 40_000
    assert sum(point.count for point in points if point.at == points[-1].at) == 0


def test_an_idle_host_gets_a_point_a_minute(host: Host) -> None:
    """Far below the limit no table is read but for that point."""
    guarded = Guarded(host)
    host.table(100)
    (host.root / "sys/kernel/slab/nf_conntrack/total_objects").write_text("200 N0=200\n")
    for _ in range(200):
        guarded.turn(1.0)
    assert len(series(guarded)) == 3


def test_it_is_written_once_a_minute(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a killed guard loses a minute only."""
    monkeypatch.setattr(worker, "SERIES_SECONDS", 0.0)
    guarded = Guarded(host)
    for _ in range(8):
        guarded.turn(0.5)
    guarded.written()
    guarded.written()
    with guarded.history() as history:
        assert len(history.points(0, 2e9, 1)) >= 3
    guarded.stop()


looks = st.lists(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 500), st.integers(0, 3)), max_size=12), max_size=12
)


@pytest.mark.parametrize("compared", [1, 1_000])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(looks=looks, gone=st.sets(st.integers(1, 60)))
def test_no_entry_and_no_drop_is_lost_in_the_sums(
    monkeypatch: pytest.MonkeyPatch, compared: int, looks: list[list[tuple[int, int, int]]], gone: set[int]
) -> None:
    """Each second's points add up to all tables as last read, however rarely the fullest are looked for."""
    monkeypatch.setattr(module, "_TABLES_COMPARED", compared)
    collector, drops, counts = SeriesCollector(), dict[int, int](), dict[int, int]()
    sums, present = list[tuple[int, int]](), frozenset(range(1, 61))
    for second, look in enumerate(looks):
        if second == len(looks) // 2:
            present -= gone
            counts = {name: count for name, count in counts.items() if name in present}
        rise, peaks, tables = 0, dict[int, int](), list[Table]()
        for name, count, dropped in look:
            if name not in present:
                continue
            peaks[name] = max(peaks.get(name, counts.get(name, 0)), count)
            rise += dropped if name in counts else 0
            drops[name] = drops.get(name, 0) + dropped
            counts[name] = count
            tables.append(Table(namespace=name, label="x", count=count, drop=drops[name]))
        collector.note(tables, present, 1_000, float(second))
        if tables:
            sums.append((sum((counts | peaks).values()), rise))
    collector.note((Table(namespace=1, label="x", count=1, drop=0),), present, 1_000, 1e6)
    found: dict[int, tuple[int, int]] = {}
    for point in collector.take():
        count, dropped = found.get(point.at, (0, 0))
        found[point.at] = count + point.count, dropped + point.dropped
    assert [*found.values()] == sums
