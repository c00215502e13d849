"""Hold reasons that a real kernel can cause: the limit stays, and the history has the reason."""

from __future__ import annotations

import os
import signal
import time

import pytest
from testbed.scratch_namespace import ScratchNamespace
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

LINE_ONLY = {"raise_early": False}
ON_FLOOD = {**LINE_ONLY, "on_flood": "hold"}
READINGS_SECONDS = 1.0
"""Four readings, one of them with a sample."""
SMALL_STEPS = {"MIN_STEP": 64, "growth_factor": 1.05, "conflict_limit": 0}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_limit": LIMIT}, "at_ceiling"),
        ({"budget": "1MiB"}, "over_budget"),
        ({"min_available": "1023GiB"}, "reserve"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_prevent_a_raise_for_a_message(stage: Stage, settings: dict[str, object], reason: str) -> None:
    """A packet is dropped, a setting prevents the raise, and the limit stays."""
    stage.table.fill(LIMIT)
    stage.start({**LINE_ONLY, **settings})
    stage.table.overflow(3)
    row = stage.held(reason)
    assert (row["trigger"], row["outcome"], limit()) == ("kernel_message", "none", LIMIT)


def test_a_flood_is_held(stage: Stage) -> None:
    """With `on_flood: hold`, unanswered packets fill the table without a raise."""
    stage.start(ON_FLOOD)
    stage.table.overflow(LIMIT * 3 // 4)
    time.sleep(READINGS_SECONDS)
    stage.table.overflow(LIMIT // 2)
    held = stage.held("flood")
    assert (held["arithmetic"]["on_flood"]["action"], held["outcome"], limit()) == ("hold", "none", LIMIT)
    assert "on_flood" in stage.world.guard("show", str(held["id"])).stdout


def test_answered_flows_are_no_flood(stage: Stage) -> None:
    """With the same setting, as many answered flows cause a raise."""
    stage.start(ON_FLOOD)
    stage.table.fill(LIMIT * 3 // 4)
    time.sleep(READINGS_SECONDS)
    stage.table.fill(LIMIT // 4)
    stage.table.overflow(3)
    stage.raised()


def test_a_pause_holds_and_its_end_raises_without_a_new_message(stage: Stage) -> None:
    """During a pause nothing is raised; after `guard resume` the full table is raised for."""
    stage.table.fill(LIMIT)
    stage.start(LINE_ONLY)
    assert stage.world.guard("pause", "--reason", "a test").returncode == 0
    stage.table.overflow()
    stage.held("paused")
    assert limit() == LIMIT
    assert stage.world.guard("resume").returncode == 0
    stage.raised()


def test_the_cooldown_holds_and_its_end_raises_without_a_new_message(stage: Stage) -> None:
    """Within the cooldown the guard holds; at its end it decides again without a new message."""
    stage.table.fill(LIMIT)
    stage.start({**LINE_ONLY, **SMALL_STEPS, "cooldown": "3s", "COOLDOWN_FULL_SECONDS": 3})
    stage.table.overflow()
    reached = stage.raised()
    stage.table.fill(reached - stage.table.count())
    stage.table.overflow()
    stage.held("cooldown")
    stage.raised(reached)


def test_the_rate_limit_holds_growth_but_no_table_that_drops(stage: Stage) -> None:
    """With one raise allowed, growth alone causes no second one; a dropped packet does."""
    stage.start({**SMALL_STEPS, "MAX_RAISES": 1, "cooldown": "100ms"})
    stage.table.fill(LIMIT * 9 // 10)
    reached = stage.raised()
    stage.table.fill(reached - stage.table.count() - 8)
    stage.held("rate_limited")
    stage.table.fill(64)
    stage.table.overflow(5)
    stage.raised(reached)


def test_a_message_that_no_table_confirms_is_contradicted(stage: Stage) -> None:
    """All tables are readable and none is full, as another program raised the limit: the guard holds."""
    guard = stage.start(LINE_ONLY)
    guard.signal(signal.SIGSTOP)
    stage.table.fill(LIMIT + 8)  # refused through netlink: a message, but no drop counted
    stage.limit_guard.set_limit(LIMIT * 50)
    guard.signal(signal.SIGCONT)
    stage.held("contradicted")
    assert limit() == LIMIT * 50


def test_lowerings_are_recorded_and_at_conflict_limit_raising_stops(stage: Stage) -> None:
    """Each lowering by another program is recorded; at `conflict_limit` the guard stops raising."""
    stage.table.fill(LIMIT)
    stage.start({**LINE_ONLY, "conflict_limit": 1, "cooldown": "100ms"})
    stage.table.overflow()
    reached = stage.raised()
    stage.raises()
    stage.limit_guard.set_limit(LIMIT)
    row = stage.held("limit_lowered")
    assert (row["trigger"], row["from"]) == ("other_writer", LIMIT) or row["from"] == reached
    stage.table.overflow()
    stage.held("conflict")
    assert limit() == LIMIT


def test_a_raise_by_another_program_is_recorded(stage: Stage) -> None:
    """It is recorded and needs no action."""
    stage.start({})
    stage.limit_guard.set_limit(LIMIT * 2)
    assert stage.held("limit_raised")["trigger"] == "other_writer"
    assert limit() == LIMIT * 2


def test_a_table_above_the_threshold_without_growth_is_stable(stage: Stage) -> None:
    """85 % full without growth is no reason to commit memory."""
    stage.table.fill(LIMIT * 85 // 100)
    stage.start({})
    stage.held("stable")
    assert limit() == LIMIT


def test_long_chains_hold(stage: Stage) -> None:
    """With too few buckets for the limit, a raise would make the kernel drop packets without a message."""
    limit_here = 6_000  # 23 a chain: from 32 on some are too long for the kernel already
    stage.limit_guard.set_buckets(512)
    stage.limit_guard.set_limit(limit_here)
    stage.table.fill(limit_here)
    stage.start(LINE_ONLY)
    stage.table.overflow()
    stage.held("chains")
    assert limit() == limit_here


def test_a_refused_write_is_rejected_and_retried(stage: Stage) -> None:
    """With a read-only /proc/sys the errno is recorded; the guard retries and succeeds later."""
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


def test_a_namespace_that_only_a_descriptor_keeps_is_not_raised_for(stage: Stage) -> None:
    """A user fills a table, keeps the namespace by a descriptor and a socket, and ends every process in it."""
    with ScratchNamespace(user_owned=True) as table:
        stage.limit_guard.own(table.number)
        kept = os.open(f"/proc/{table.pid}/ns/net", os.O_RDONLY)
        senders = [table._socket() for _ in range(3)]
        try:
            table.fill(LIMIT)
            table.leave()
            stage.start(LINE_ONLY)
            for sender in senders:
                with sender, pytest.raises(PermissionError):  # EPERM: dropped by the full table
                    sender.sendto(b"x", ("127.0.0.1", 9))
            row = stage.held("unreachable_namespace")
            assert (row["trigger"], limit()) == ("kernel_message", LIMIT)
            time.sleep(6.0)  # the next decision about it comes after 5 s
        finally:
            os.close(kept)
    assert {row["verdict"] for row in stage.world.decisions()} == {"hold"}
    assert limit() == LIMIT


def test_a_user_namespace_is_not_raised_for(stage: Stage) -> None:
    """Any user can create a user namespace, fill its table and leave: it is only recorded unless trusted."""
    with ScratchNamespace(user_owned=True) as table:
        stage.limit_guard.own(table.number)
        stage.start(LINE_ONLY)
        table.fill(LIMIT)
        table.overflow()
        stage.held("untrusted_namespace")
        assert limit() == LIMIT
    # 5 s later the message is decided again, and its namespace is gone.
    over = stage.decision(lambda row: row["reason"] in {"resolved", "contradicted"}, "the end of it")
    assert over["trigger"] == "kernel_message"
    assert limit() == LIMIT
    assert not [row for row in stage.world.decisions() if row["verdict"] == "raise"]
