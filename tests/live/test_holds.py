"""Every reason to hold that a real kernel can give: the limit stays, and history says why."""

from __future__ import annotations

import signal
import time

import pytest
from testbed.scratch_namespace import ScratchNamespace
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

LINE_ONLY = {"raise_early": False}
ON_FLOOD = {**LINE_ONLY, "on_flood": "hold"}
LOOKS_SECONDS = 1.0
"""Four looks, one of which takes a sample."""
SMALL_STEPS = {"MIN_STEP": 64, "growth_factor": 1.05, "conflict_limit": 0}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_limit": LIMIT}, "at_ceiling"),
        ({"budget": "1MiB"}, "over_budget"),
        ({"min_available": "1023GiB"}, "reserve"),
        ({"kernel_message": False}, "trigger_off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_hold_a_raise_that_a_line_asks_for(stage: Stage, settings: dict[str, object], reason: str) -> None:
    """A dropped packet asks for a raise, a setting forbids it, and the limit stays."""
    stage.table.fill(LIMIT)
    stage.start({**LINE_ONLY, **settings})
    stage.table.overflow(3)
    row = stage.held(reason)
    assert (row["trigger"], row["outcome"], limit()) == ("kernel_message", "none", LIMIT)


def test_a_flood_is_held(stage: Stage) -> None:
    """With `on_flood: hold`, packets that nobody answers fill the table and raise nothing."""
    stage.start(ON_FLOOD)
    stage.table.overflow(LIMIT * 3 // 4)
    time.sleep(LOOKS_SECONDS)
    stage.table.overflow(LIMIT // 2)
    held = stage.held("flood")
    assert (held["arithmetic"]["on_flood"]["action"], held["outcome"], limit()) == ("hold", "none", LIMIT)
    assert "on_flood" in stage.world.guard("show", str(held["id"])).stdout


def test_flows_that_are_answered_are_no_flood(stage: Stage) -> None:
    """With the same setting, as many streams are raised for."""
    stage.start(ON_FLOOD)
    stage.table.fill(LIMIT * 3 // 4)
    time.sleep(LOOKS_SECONDS)
    stage.table.fill(LIMIT // 4)
    stage.table.overflow(3)
    stage.raised()


def test_a_pause_holds_and_its_end_raises_without_a_new_line(stage: Stage) -> None:
    """Paused by order, nothing is raised; on resume the table that is still full is raised for."""
    stage.table.fill(LIMIT)
    stage.start(LINE_ONLY)
    assert stage.world.guard("pause", "--reason", "a test").returncode == 0
    stage.table.overflow()
    stage.held("paused")
    assert limit() == LIMIT
    assert stage.world.guard("resume").returncode == 0
    stage.raised()


def test_within_settle_it_holds_and_afterwards_raises_without_a_new_line(stage: Stage) -> None:
    """Too soon after a raise it holds, and decides again by itself when settle is over."""
    stage.table.fill(LIMIT)
    stage.start({**LINE_ONLY, **SMALL_STEPS, "cooldown": "3s", "COOLDOWN_FULL_SECONDS": 3})
    stage.table.overflow()
    reached = stage.raised()
    stage.table.fill(reached - stage.table.count())
    stage.table.overflow()
    stage.held("cooldown")
    stage.raised(reached)


def test_a_spent_allowance_holds_pressure_but_not_a_table_that_drops(stage: Stage) -> None:
    """With one raise allowed, growth alone is not raised for a second time; a drop is."""
    stage.start({**SMALL_STEPS, "MAX_RAISES": 1, "cooldown": "100ms"})
    stage.table.fill(LIMIT * 9 // 10)
    reached = stage.raised()
    stage.table.fill(reached - stage.table.count() - 8)
    stage.held("rate_limited")
    stage.table.fill(64)
    stage.table.overflow(5)
    stage.raised(reached)


def test_a_line_that_no_table_bears_out_is_contradicted(stage: Stage) -> None:
    """When every table can be read and none is full or dropped, a real line is held: somebody else has raised meanwhile."""
    guard = stage.start({**LINE_ONLY, "kernel_message": True})
    guard.signal(signal.SIGSTOP)
    stage.table.fill(LIMIT + 8)  # refused through netlink: a line, but no drop counted
    stage.keeper.set_limit(LIMIT * 50)
    guard.signal(signal.SIGCONT)
    stage.held("contradicted")
    assert limit() == LIMIT * 50


def test_another_writer_is_recorded_and_after_standoff_left_alone(stage: Stage) -> None:
    """Whoever lowers the guard's value is recorded; once too often, and the guard stops raising."""
    stage.table.fill(LIMIT)
    stage.start({**LINE_ONLY, "conflict_limit": 1, "cooldown": "100ms"})
    stage.table.overflow()
    reached = stage.raised()
    stage.raises()
    stage.keeper.set_limit(LIMIT)
    row = stage.held("limit_lowered")
    assert (row["trigger"], row["from"]) == ("other_writer", LIMIT) or row["from"] == reached
    stage.table.overflow()
    stage.held("conflict")
    assert limit() == LIMIT


def test_another_writers_raise_is_recorded(stage: Stage) -> None:
    """A limit that somebody else raises is news, not a reason to act."""
    stage.start({})
    stage.keeper.set_limit(LIMIT * 2)
    assert stage.held("limit_raised")["trigger"] == "other_writer"
    assert limit() == LIMIT * 2


def test_a_table_that_stands_still_above_the_threshold_is_stable(stage: Stage) -> None:
    """85 % full and not growing is no reason to spend memory."""
    stage.table.fill(LIMIT * 85 // 100)
    stage.start({})
    stage.held("stable")
    assert limit() == LIMIT


def test_long_chains_hold(stage: Stage) -> None:
    """Where the buckets are too few for what the limit allows already, raising would make packets drop without a line."""
    stage.keeper.set_buckets(512)
    stage.keeper.set_limit(8192)
    stage.table.fill(8192)
    stage.start(LINE_ONLY)
    stage.table.overflow()
    stage.held("chains")
    assert limit() == 8192


def test_a_refused_write_is_rejected_and_tried_again(stage: Stage) -> None:
    """Where /proc/sys is read-only the write's errno is recorded, and the guard tries again when it can."""
    stage.world.run(
        ["sh", "-ec", "mount -n --bind /proc/sys /proc/sys; mount -n -o remount,ro,bind /proc/sys"]
    ).check_returncode()
    stage.table.fill(LIMIT)
    stage.start(LINE_ONLY)
    stage.table.overflow()
    row = stage.decision(lambda row: row["outcome"] == "rejected", "a rejected raise")
    assert (row["verdict"], limit()) == ("raise", LIMIT)
    stage.world.run(["mount", "-n", "-o", "remount,rw,bind", "/proc/sys"]).check_returncode()
    stage.raised()


def test_a_namespace_of_a_user_is_not_raised_for(stage: Stage) -> None:
    """Any user can make a user namespace and fill a table in it: recorded, and raised for only when trusted."""
    with ScratchNamespace(user_owned=True) as table:
        stage.keeper.own(table.number)
        stage.start(LINE_ONLY)
        table.fill(LIMIT)
        table.overflow()
        stage.held("untrusted_namespace")
        assert limit() == LIMIT
