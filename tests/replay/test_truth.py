"""A guard that runs on a made-up host records its series; the replay of that series makes the same raises."""

from __future__ import annotations

from pathlib import Path

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.replay.engine import replay
from conntrackd_guard.replay.model import Grade, HostInput, HostResult, Span
from conntrackd_guard.replay.sources.history import HistoryFile


def simulated(path: Path, policy: Policy) -> HostResult:
    """Return the simulated row of a history file, whose decisions are read first."""
    for found in HistoryFile(path).read(Span()):
        if isinstance(found, HostInput) and found.grade is Grade.SIMULATED:
            return replay(found, policy)
    pytest.fail("the file has no time series")


def test_the_replay_of_a_recorded_ramp_makes_the_same_raises(host: Host) -> None:
    """Same targets, within two points of the series."""
    guarded = Guarded(host)
    count = 0
    while count < 4 * LIMIT:
        count += 60
        host.table(min(count, host.limit))
        guarded.turn(0.25)
    rows = [row for row in guarded.rows() if row.verdict == "raise"]
    guarded.stop()
    assert len(rows) >= 3
    steps = simulated(guarded.paths.history, guarded.policy).steps
    assert [step.target for step in steps] == [row.to_limit for row in rows]
    for step, row in zip(steps, rows, strict=True):
        assert step.at == pytest.approx(row.at_seconds, abs=2.0)
