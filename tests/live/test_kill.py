"""A real guard, killed by SIGKILL at each real step of a raise, and what the next one makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.faults import (
    DROP_IN,
    LIMIT_PATH,
    STATE,
    begin_anew,
    fill_to,
    injected,
    open_intents,
    persisted,
    staged,
)
from testbed.limit_guard import LimitGuard
from testbed.private_world import Guard, eventually
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

SETTINGS = {"kernel_message": False, "conflict_limit": 0, "LOOKAHEAD_SECONDS": 0}
LINE_ONLY = {"raise_early": False, "conflict_limit": 0}
REACHED = LIMIT + 8192
"""What one uninterrupted run reaches with a table of LIMIT entries: MIN_STEP more, and all is below the threshold."""
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
    """One stage for all the kills: each begins anew on it."""
    with LimitGuard() as keeper, staged(keeper, tmp_path_factory.mktemp("kill")) as stage:
        yield stage


@pytest.mark.parametrize("step", STEPS)
def test_a_guard_killed_at_any_step_is_explained_by_the_next(stage: Stage, step: str, tmp_path: Path) -> None:
    """Whichever call of a raise is the last one, the next guard closes the intent, doubles nothing and loses nothing."""
    syscall, paths = STEPS[step]
    kills = 0
    for number in range(1, MOST_CALLS):
        begin_anew(stage)
        if not killed(stage, syscall, number, paths, tmp_path / "strace"):
            break
        kills += 1
        check_the_next_guard(stage)
    else:
        pytest.fail(f"{syscall} came {MOST_CALLS} times and more in one raise")
    assert kills


def killed(stage: Stage, syscall: str, number: int, paths: tuple[str, ...], log: Path) -> bool:
    """Let a guard raise and kill it as it makes that call for the `number`th time; False where it never gets there."""
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
    """Return whether a raise has gone through all its steps."""
    return any(event["event"] == "guard.raise" for event in guard.events()) and not open_intents(stage)


def check_the_next_guard(stage: Stage) -> None:
    """Start a guard after a kill: every write is explained, and all ends where one uninterrupted run ends."""
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


def test_killed_right_after_every_write_the_limit_passes_nothing_that_one_run_reaches(
    stage: Stage, tmp_path: Path
) -> None:
    """A guard held between its write and its read-back, and killed there 20 times in a row, keeps its allowance."""
    settings = {
        **SETTINGS,
        "growth_factor": "1.1",  # 92 % of before is 84 % then: pressure ends at 85 %, so that a filling is one raise
        "MIN_STEP": 64,
        "threshold": "90%",
        "cooldown": "0s",
    }
    begin_anew(stage)
    guard = stage.start(settings)
    while raised_times(stage) < 20:  # a filling that takes long may be two raises
        raise_once(stage, guard)
    refuse_once(stage)
    reached = limit()
    assert guard.stop() == 0

    begin_anew(stage)
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
def test_a_raise_for_a_line_is_explained_with_what_the_line_said(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, numbered: bool
) -> None:
    """Killed right after the write, with or without a number in the line: the next guard records that line's raise, once."""
    begin_anew(stage)
    monkeypatch.setattr(stage, "numbered", numbered)
    stage.keeper.set_message_cost(0)
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
    """Return how many raises history holds, once it holds the last."""

    def told() -> list[int]:
        reached = [row["to"] for row in stage.world.decisions() if row["verdict"] == "raise"]
        return [len(reached)] if limit() == (reached[-1] if reached else LIMIT) else []

    (times,) = eventually(told, "the row of the last raise")
    return int(times)


def raise_once(stage: Stage, guard: Guard) -> None:
    """Fill the table over the threshold and wait for the raise."""
    before = limit()
    fill_to(stage, 0.92)
    eventually(lambda: limit() > before, f"a limit above {before}", guard.log)


def refuse_once(stage: Stage) -> None:
    """Fill the table over the threshold once more: the allowance is spent."""
    before = limit()
    fill_to(stage, 0.92)
    stage.held("rate_limited")
    assert limit() == before
