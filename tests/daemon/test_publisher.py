"""The daemon's status document: what it says when a raise is needed and can't be made."""

from __future__ import annotations

import os
from pathlib import Path

from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core import health
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.health import Level
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.paths import Paths


def level_of(guarded: Guarded) -> tuple[Level, list[str]]:
    """Return the health by the published status, and the codes of its reasons."""
    found = health.of_document(guarded.runtime_dir.status() or {})
    return found.level, [reason.code for reason in found.reasons]


def test_a_full_table_that_cannot_be_raised_needs_an_operator(host: Host) -> None:
    """At `max_limit` the published status says so while the table is full, and no longer once it isn't."""
    guarded = Guarded(host, policy=Policy(max_limit=LIMIT))
    host.table(LIMIT, drop=3)
    guarded.turn()
    host.table(LIMIT, drop=9)
    guarded.turn(2.5)
    assert level_of(guarded) == (Level.ACTION_REQUIRED, ["at_ceiling"])
    host.table(LIMIT // 4, drop=9)
    for _ in range(2):
        guarded.turn(2.5)
    assert level_of(guarded) == (Level.HEALTHY, [])
    guarded.stop()


def test_a_refused_write_needs_an_operator(host: Host) -> None:
    """The kernel refused the last write, and the limit is still the one that it was refused at."""
    guarded = Guarded(host)
    guarded.kernel.refusing = 13
    host.table(LIMIT, drop=3)
    guarded.turn()
    guarded.turn(2.5)
    assert level_of(guarded) == (Level.ACTION_REQUIRED, ["write_refused"])
    guarded.stop()


def test_a_write_without_effect_is_called_one(host: Host) -> None:
    """The kernel took the write without an error, and another limit is read."""
    guarded = Guarded(host)
    guarded.kernel.set_limit = lambda target: min(target, LIMIT)
    host.table(LIMIT, drop=3)
    guarded.turn()
    guarded.turn(2.5)
    assert (guarded.runtime_dir.status() or {})["write_refused"] == "the write had no effect"
    guarded.stop()


def test_a_limit_that_cannot_be_written_is_an_error_line(host: Host) -> None:
    """It is logged once, published each time, and over when the limit can be written."""
    guarded = Guarded(host)
    error = HostError("write", "/proc/x", OSError(30, "Read-only file system"), "Mount it.")
    guarded.kernel.not_writable = lambda: error
    for _ in range(2):
        guarded.controller.publish({})
    assert level_of(guarded) == (Level.ACTION_REQUIRED, ["not_writable"])
    guarded.kernel.not_writable = lambda: None
    guarded.controller.publish({})
    assert level_of(guarded) == (Level.HEALTHY, [])
    guarded.stop()
    assert sum("No raise is possible" in str(line) for line in guarded.logged("guard.error")) == 1


def test_whether_a_sysctl_can_be_written(tmp_path: Path) -> None:
    """Opened for writing, never written; one that doesn't exist yet is no fault."""
    path = Paths(tmp_path).limit
    path.parent.mkdir(parents=True)
    assert LiveKernel(Paths(tmp_path)).not_writable() is None
    path.write_text("5\n")
    assert LiveKernel(Paths(tmp_path)).not_writable() is None
    assert path.read_text() == "5\n"
    path.unlink()
    path.mkdir()
    error = LiveKernel(Paths(tmp_path)).not_writable()
    assert error is not None
    assert os.strerror(21) in str(error)
