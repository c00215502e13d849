"""A ramp on the real kernel: the replay of the series that the guard recorded makes the same raises."""

from __future__ import annotations

import shutil
import time
from datetime import datetime
from pathlib import Path

import pytest
from testbed.stage import LIMIT, Stage

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.replay.engine import replay
from conntrackd_guard.replay.model import Grade, HostInput, Span
from conntrackd_guard.replay.sources.history import HistoryFile

pytestmark = pytest.mark.live


def test_the_replay_of_a_real_ramp_makes_the_same_raises(stage: Stage, tmp_path: Path) -> None:
    """Same targets, within two samples of a second each. Other tables of this machine are in the series too."""
    guard = stage.start({})
    while stage.table.count() < 2 * LIMIT:
        stage.table.fill(10)
        time.sleep(0.1)
    assert guard.stop() == 0
    rows = [row for row in stage.world.decisions() if row["verdict"] == "raise"][::-1]
    # SQLite follows links: below /proc/PID/root it would open this machine's own history.
    history = shutil.copy(stage.world.root / "var/lib/conntrackd-guard/history.db", tmp_path)
    (found,) = [
        replay(one, Policy())
        for one in HistoryFile(Path(history)).read(Span())
        if isinstance(one, HostInput) and one.grade is Grade.SIMULATED
    ]
    assert len(rows) >= 1
    assert [(step.before, step.target) for step in found.steps] == [(row["from"], row["to"]) for row in rows]
    for step, row in zip(found.steps, rows, strict=True):
        assert step.at == pytest.approx(datetime.fromisoformat(row["at"]).timestamp(), abs=2)
