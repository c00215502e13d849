"""A wall clock that is wrong for some minutes: rows that look old, or of the future, are not deleted at once."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from testbed.records import add, raised

from conntrackd_guard.core.model import Table
from conntrackd_guard.history.database import History
from conntrackd_guard.history.series import Point
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn
from conntrackd_guard.recording import worker
from conntrackd_guard.recording.worker import Worker

NOW = 1_798_167_600.0
DAY = 86_400.0
TABLE = Table(namespace=1, label="initial", initial=True, count=5)


@dataclass
class Clocks:
    """The worker's `time`."""

    wall: float
    running: float = 100.0

    def time(self) -> float:
        """Return wall time."""
        return self.wall

    def monotonic(self) -> float:
        """Return a time that never jumps."""
        return self.running


class Recording:
    """A worker with a history that has a decision and a point of yesterday."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, began: float) -> None:
        self.paths = Paths(root)
        with History(self.paths.history, mode="writer") as history:
            add(history, raised("old", wall_seconds=NOW - DAY, boot_id="boot-0"))
            history.add_points([Point(at=int(NOW - DAY), namespace=1, label="initial", limit=10, count=3)])
        self.clocks = Clocks(began)
        monkeypatch.setattr(worker, "time", self.clocks)
        monkeypatch.setattr("conntrackd_guard.recording.history_writer.time", self.clocks)
        self.worker = Worker(
            paths=self.paths,
            drop_in=SysctlDropIn(self.paths),
            log=Log("json", io.StringIO()),
            runtime_dir=RuntimeDir(self.paths),
            retention_seconds=400 * DAY,
            max_rows=1000,
        )
        add(self.worker.history_writer.history(), raised("new", wall_seconds=began))

    def work(self, seconds: float) -> None:
        """Have the worker do its periodic work for that long, reading tables once a second."""
        for _ in range(int(seconds)):
            self.clocks.wall += 1
            self.clocks.running += 1
            self.worker.series_collector.note([TABLE], frozenset({1}), 10, self.clocks.wall)
            self.worker.run_periodic()

    def left(self) -> tuple[bool, bool]:
        """Return whether yesterday's decision and point are still there."""
        with History(self.paths.history, mode="reader") as history:
            return history.find_key("old") is not None, bool(history.points(NOW - DAY, NOW - DAY, 1))


@pytest.mark.parametrize("wrong", [-180 * DAY, 800 * DAY])
def test_nothing_is_deleted_at_boot_until_the_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    """A host without a hardware clock sets it once the network is up."""
    made = Recording(tmp_path, monkeypatch, NOW + wrong)
    made.work(150)
    made.clocks.wall -= wrong
    made.work(600)
    assert made.left() == (True, True)


@pytest.mark.parametrize("wrong", [-180 * DAY, 800 * DAY])
def test_nothing_is_deleted_until_a_wrong_clock_is_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    """Someone sets a wrong date, and corrects it."""
    made = Recording(tmp_path, monkeypatch, NOW)
    made.work(400)
    made.worker._prune_seconds = 0.0
    made.clocks.wall += wrong
    made.work(150)
    made.clocks.wall -= wrong
    made.work(600)
    assert made.left() == (True, True)


def test_a_clock_that_stays_behind_keeps_the_hourly_points(tmp_path: Path) -> None:
    """Points of its future are real: the hourly ones stay, those by the minute go."""
    with History(Paths(tmp_path).history, mode="writer") as history:
        for days_ago in (30, 20, 60):  # the third is the clock that is behind
            history.add_points([Point(at=int(NOW - days_ago * DAY), namespace=1, label="initial", limit=10, count=3)])
        found = history.points(NOW - 90 * DAY, NOW, 1)
    assert [round((NOW - point.at) / DAY) for point in found] == [60, 30]


def test_old_rows_are_deleted_once_the_clock_is_steady(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five minutes without a jump are enough."""
    made = Recording(tmp_path, monkeypatch, NOW + 800 * DAY)
    made.work(600)
    assert made.left() == (False, False)
