"""A real guard, killed by SIGKILL at each step of a raise, and the recovery by the next one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.faults import (
    DROP_IN,
    LIMIT_PATH,
    STATE,
    fill_to,
    injected,
    open_intents,
    persisted,
    reset,
    staged,
)
from testbed.limit_guard import LimitGuard
from testbed.private_world import Guard, eventually
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

SETTINGS = {"DEAF": True, "conflict_limit": 0, "LOOKAHEAD_SECONDS": 0}
LINE_ONLY = {"raise_early": False, "conflict_limit": 0}
REACHED = LIMIT + 8192
"""The limit after one uninterrupted run with a table of LIMIT entries: MIN_STEP more, below the threshold."""
_DROP_IN_PATHS = (f"/{DROP_IN.replace('/99', '/.99')}.new", f"/{DROP_IN}", "/etc/sysctl.d")
STEPS = {
    "intent": ("rename", ()),
    "limit: re-read, write, read back": ("openat", (LIMIT_PATH,)),
    "limit: the write": ("write", (LIMIT_PATH,)),
    "drop-in: open": ("openat", _DROP_IN_PATHS),
    "drop-in: content": ("write", _DROP_IN_PATHS),
    "drop-in: fsync": ("fsync", _DROP_IN_PATHS),
    "drop-in: rename": ("rename", _DROP_IN_PATHS),
    "history: pages": ("pwrite64", (f"/{STATE}/history.db-wal",)),
    "history: sync": ("fdatasync", (f"/{STATE}/history.db-wal",)),
    "log line": ("write", ("LOG",)),
    "intent closed": ("unlink", ()),
}
MOST_CALLS = 60


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Give one stage for all kills; each test resets it."""
    with LimitGuard() as limit_guard, staged(limit_guard, tmp_path_factory.mktemp("kill")) as stage:
        yield stage


@pytest.mark.parametrize("step", STEPS)
def test_the_next_guard_explains_a_kill_at_any_step(stage: Stage, step: str, tmp_path: Path) -> None:
    """After whichever system call the kill comes, the next guard closes the intent; nothing is doubled or lost."""
    syscall, paths = STEPS[step]
    kills = 0
    for number in range(1, MOST_CALLS):
        reset(stage)
        if not killed(stage, syscall, number, paths, tmp_path / "strace"):
            break
        kills += 1
        check_the_next_guard(stage)
    else:
        pytest.fail(f"{syscall} came {MOST_CALLS} times and more in one raise")
    assert kills


def killed(stage: Stage, syscall: str, number: int, paths: tuple[str, ...], log: Path) -> bool:
    """Kill a raising guard at its `number`th call of that kind; return False if it never gets there."""
    guard = stage.start(SETTINGS)
    paths = tuple(str(guard.log) if path == "LOG" else path for path in paths)
    with injected(guard, syscall, f"signal=SIGKILL:when={number}", paths, log):
        stage.table.fill(LIMIT)
        eventually(lambda: guard.process.poll() is not None or has_raised(stage, guard), "a raise or a kill", guard.log)
    if guard.process.poll() is None:
        guard.kill()
        return False
    assert guard.process.returncode == -9
    return True


def has_raised(stage: Stage, guard: Guard) -> bool:
    """Return whether a raise has completed all steps."""
    return any(event["event"] == "guard.raise" for event in guard.events()) and not open_intents(stage)


def check_the_next_guard(stage: Stage) -> None:
    """Start a guard after a kill: it explains every write and ends at the limit of an uninterrupted run."""
    left, at_kill, was_open = persisted(stage), limit(), bool(open_intents(stage))
    assert at_kill in {LIMIT, REACHED}
    assert left in {None, REACHED}
    guard = stage.start(SETTINGS)
    eventually(lambda: limit() == REACHED and not open_intents(stage), "the raise, and the intents closed", guard.log)
    raises = stage.raises()
    assert guard.stop() == 0
    outcomes = [row["outcome"] for row in raises]
    if was_open and at_kill == LIMIT:
        assert outcomes == ["not_applied", "applied"], raises
        assert raises[0]["detail"].startswith("not applied")
    else:
        assert outcomes == ["applied"], raises
    assert {(row["from"], row["to"]) for row in raises} == {(LIMIT, REACHED)}
    assert limit() == persisted(stage) == REACHED


def test_a_guard_killed_after_every_write_raises_no_further_than_one_run(stage: Stage, tmp_path: Path) -> None:
    """A guard killed 20 times in a row between write and read-back keeps its rate limit."""
    settings = {
        **SETTINGS,
        "growth_factor": "1.1",  # 92 % of before is 84 % then, below the release at 85 %: each filling is one raise
        "MIN_STEP": 64,
        "threshold": "90%",
        "cooldown": "0s",
    }
    reset(stage)
    guard = stage.start(settings)
    while raised_times(stage) < 20:  # a slow filling may be two raises
        raise_once(stage, guard)
    refuse_once(stage)
    reached = limit()
    assert guard.stop() == 0

    reset(stage)
    for _ in range(20):
        guard = stage.start(settings)
        with injected(guard, "write", "delay_exit=300000", (LIMIT_PATH,), tmp_path / "strace"):
            raise_once(stage, guard)
            guard.kill()
    guard = stage.start(settings)
    refuse_once(stage)
    assert limit() <= reached
    rows = stage.raises()
    assert len(rows) == 20
    assert {row["outcome"] for row in rows} == {"applied"}
    assert "completed: found in force at start" in {row["detail"] for row in rows}
    assert guard.stop() == 0


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "without-number"])
def test_a_raise_for_a_message_is_explained_with_the_message(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, numbered: bool
) -> None:
    """After a kill right after the write, with or without a namespace number, the next guard records that raise once."""
    reset(stage)
    monkeypatch.setattr(stage, "numbered", numbered)
    stage.limit_guard.set_message_cost(0)
    guard = stage.start(LINE_ONLY)
    stage.table.fill(LIMIT)
    with injected(guard, "write", "delay_exit=300000", (LIMIT_PATH,), tmp_path / "strace"):
        stage.table.overflow()
        reached = stage.raised()
        guard.kill()
    guard = stage.start(LINE_ONLY)
    (row,) = stage.raises()
    assert (row["trigger"], row["outcome"], row["to"]) == ("kernel_message", "applied", reached)
    assert row["detail"] == "completed: found in force at start"
    named = f"in netns {stage.table.number}," in row["message"]  # not before Linux 6.17
    assert row["namespace"] == (stage.table.number if named else None)
    assert not named or numbered
    assert limit() == reached
    assert guard.stop() == 0


def raised_times(stage: Stage) -> int:
    """Return the number of raises in the history, once the last one is there."""

    def recorded() -> list[int]:
        reached = [row["to"] for row in stage.world.decisions() if row["verdict"] == "raise"]
        return [len(reached)] if limit() == (reached[-1] if reached else LIMIT) else []

    (times,) = eventually(recorded, "the row of the last raise")
    return int(times)


def raise_once(stage: Stage, guard: Guard) -> None:
    """Fill the table above the threshold and wait for the raise."""
    before = limit()
    fill_to(stage, 0.92)
    eventually(lambda: limit() > before, f"a limit above {before}", guard.log)


def refuse_once(stage: Stage) -> None:
    """Fill the table above the threshold once more: the rate limit is reached."""
    before = limit()
    fill_to(stage, 0.92)
    stage.held("rate_limited")
    assert limit() == before
