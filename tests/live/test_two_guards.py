"""Two guards on one host: only one acts, and a dry run may run beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.faults import staged
from testbed.limit_guard import LimitGuard
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

LINE_ONLY = {"raise_early": False}


@pytest.fixture(scope="module", name="limit_guard")
def borrow_the_limit() -> Iterator[LimitGuard]:
    """Hold the machine's limit for all tests of this file."""
    with LimitGuard() as limit_guard:
        yield limit_guard


@pytest.fixture(name="stage")
def set_the_stage(limit_guard: LimitGuard, tmp_path: Path) -> Iterator[Stage]:
    """Give each test a new world and a new table."""
    with staged(limit_guard, tmp_path) as stage:
        yield stage


def test_a_second_guard_refuses_to_start(stage: Stage) -> None:
    """It exits with 3 and names the first, which continues to raise; after its end another may start."""
    first = stage.start({})
    second = stage.world.guard("run")
    assert second.returncode == 3
    assert f"process {first.process.pid} " in second.stderr
    assert "guard status" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    stage.table.fill(LIMIT)
    stage.raised()
    assert first.stop() == 0
    assert stage.start({}).stop() == 0


def test_a_killed_guard_leaves_no_lock(stage: Stage) -> None:
    """After SIGKILL the next guard starts at once."""
    stage.start({}).kill()
    assert stage.start({}).stop() == 0


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "without-number"])
def test_a_dry_run_beside_an_acting_guard_keeps_its_own_history(stage: Stage, *, numbered: bool) -> None:
    """Both read the same message; each records its decision in a history of its own."""
    stage.numbered = numbered
    stage.limit_guard.set_message_cost(0)
    rehearsing = stage.start(LINE_ONLY, "--dry-run")
    assert stage.world.guard("run", "--dry-run").returncode == 3
    acting = stage.start({**LINE_ONLY, "max_limit": LIMIT})
    stage.table.fill(LIMIT)
    stage.table.overflow()
    stage.held("at_ceiling")
    rehearsed = stage.decision(lambda row: row["verdict"] == "raise", "a rehearsed raise", "--dry-run")
    assert (rehearsed["mode"], rehearsed["outcome"], rehearsed["from"]) == ("dry-run", "rehearsed", LIMIT)
    assert limit() == LIMIT
    assert {row["mode"] for row in stage.world.decisions()} == {"act"}
    assert {row["mode"] for row in stage.world.decisions("--dry-run")} == {"dry-run"}
    assert (acting.stop(), rehearsing.stop()) == (0, 0)


def test_an_audit_names_the_acting_guard(stage: Stage) -> None:
    """It sees the limit change, and whose write that was."""
    rehearsing, acting = stage.start({}, "--dry-run"), stage.start({})
    stage.table.fill(LIMIT)
    stage.raised()
    seen = stage.decision(lambda row: row["reason"] == "limit_raised", "the acting guard's raise", "--dry-run")
    assert seen["sentence"].startswith(f"The acting guard (process {acting.process.pid}) set nf_conntrack_max from")
    assert (acting.stop(), rehearsing.stop()) == (0, 0)
