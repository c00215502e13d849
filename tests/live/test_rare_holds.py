"""Holds that need more than a full table and a setting: other tables, other programs, a changed host.

Left out, because causing them would harm the machine: `neighbour_table` (its table and `gc_thresh3` are one
for all network namespaces), `no_conntrack` (the module would have to go) and `int_max` (no host can afford it).
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import pytest
from testbed.faults import LIMIT_PATH, empty, injected
from testbed.limit_guard import RefusedError
from testbed.private_world import eventually
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

LINE_ONLY = {"raise_early": False, "conflict_limit": 0}
NUMBERED_ONLY = pytest.mark.parametrize("stage", [True], ids=["numbered"], indirect=True)
"""For messages that never name a namespace, and for holds without a message."""
EXPECTATIONS = Path("/proc/sys/net/netfilter/nf_conntrack_expect_max")
MOST_EXPECTATIONS = 20_000
EXPECT = """
table ip guard_expect {
  ct expectation later { protocol udp; dport 9; timeout 1m; size 1; l3proto ip; }
  chain output {
    type filter hook output priority 0
    udp dport 9 ct expectation set "later"
  }
}
"""
"""Every flow to port 9 makes the kernel expect another one in return."""


def test_a_limit_of_0_means_unlimited_and_stays(stage: Stage) -> None:
    """A message from before the limit became 0 causes no raise: any number would be less."""
    guard = stage.start(LINE_ONLY)
    guard.signal(signal.SIGSTOP)
    stage.table.fill(LIMIT + 8)  # refused through netlink: a message
    try:
        stage.limit_guard.set_limit(0)
    except RefusedError as error:
        if "Invalid argument" not in str(error):
            raise
        pytest.skip("this kernel does not take 0")
    guard.signal(signal.SIGCONT)
    stage.decision(
        lambda row: (row["trigger"], row["reason"]) == ("kernel_message", "unlimited"), "a hold for unlimited"
    )
    assert limit() == 0


@NUMBERED_ONLY
def test_tables_above_the_budget_are_one_error(stage: Stage) -> None:
    """The entries exceed the budget: nothing is raised, and the repeated check logs one error."""
    guard = stage.start({"DEAF": True, "raise_early": False, "budget": "1MiB"})
    stage.table.fill(LIMIT)
    row = stage.held("reserve_broken")
    assert (row["trigger"], row["outcome"], limit()) == ("memory", "none", LIMIT)
    time.sleep(2.5)  # entries and budget are compared every second
    errors = [event["reason"] for event in guard.events() if event["level"] == "error"]
    assert errors == ["reserve_broken"]


@NUMBERED_ONLY
def test_suppressed_messages_are_recorded(stage: Stage) -> None:
    """`callbacks suppressed` is a hold with a reason of its own."""
    stage.limit_guard.set_message_cost(1)
    stage.table.fill(LIMIT)
    stage.start({**LINE_ONLY, "max_limit": LIMIT})
    stage.table.overflow(20)
    time.sleep(1.5)  # the window of 1 s is over: the next message follows the count of the suppressed ones
    stage.table.overflow()
    row = stage.held("suppressed")
    assert row["trigger"] == "kernel_message"
    assert "callbacks suppressed" in row["message"]
    assert limit() == LIMIT


@NUMBERED_ONLY
def test_a_full_expectation_table_is_not_raised_for(stage: Stage) -> None:
    """It has its own limit and its own message; the connection table has room."""
    most = int(EXPECTATIONS.read_text("ascii"))
    if most > MOST_EXPECTATIONS:
        pytest.skip(f"this machine expects up to {most:,} connections, too many to make for a test")
    roomy = LIMIT + 4 * most
    stage.limit_guard.set_limit(roomy)
    command = ["nsenter", f"--net=/proc/{stage.table.pid}/ns/net", "nft", "-f", "-"]
    subprocess.run(command, input=EXPECT, text=True, check=True)
    stage.start({})
    with stage.table._socket() as sender:
        for number in range(most + 20):
            with contextlib.suppress(PermissionError):  # dropped: one more can't be expected
                sender.sendto(b"x", (f"127.1.{number // 250}.{number % 250 + 1}", 9))
    row = stage.held("expectation_table")
    assert row["trigger"] == "kernel_message"
    assert row["message"].endswith("expectation table full")
    assert limit() == roomy


def test_a_message_is_not_answered_twice(stage: Stage) -> None:
    """Within the cooldown, a message that no table confirms belongs to the burst that was already answered."""
    stage.table.fill(LIMIT)
    guard = stage.start({**LINE_ONLY, "cooldown": "60s", "COOLDOWN_FULL_SECONDS": 60})
    stage.table.overflow()
    reached = stage.raised()
    stage.raises()
    guard.signal(signal.SIGSTOP)
    stage.limit_guard.set_limit(LIMIT)
    stage.table.fill(8)  # refused through netlink: a message, but no drop counted
    stage.limit_guard.set_limit(reached)
    guard.signal(signal.SIGCONT)
    stage.held("superseded")
    assert len(stage.raises()) == 1


@NUMBERED_ONLY
def test_the_end_of_a_need_is_recorded(stage: Stage) -> None:
    """A table at `max_limit` empties: the next reading records that the need is over."""
    stage.table.fill(LIMIT * 95 // 100)
    stage.start({"DEAF": True, "max_limit": LIMIT})
    stage.held("at_ceiling")
    empty(stage)
    assert stage.held("resolved")["trigger"] == "filling_up"


def test_a_need_that_a_rehearsed_raise_covers_is_not_rehearsed_again(stage: Stage) -> None:
    """In a dry run the table stays full and keeps dropping; the rehearsed limit would have room."""
    stage.table.fill(LIMIT)
    stage.start(LINE_ONLY, "--dry-run")
    stage.table.overflow()
    stage.decision(lambda row: row["verdict"] == "raise", "a rehearsed raise", "--dry-run")
    stage.table.overflow()
    stage.decision(lambda row: row["reason"] == "dry_run_sufficient", "a hold for rehearsed_enough", "--dry-run")
    assert limit() == LIMIT


@NUMBERED_ONLY
def test_a_message_soon_after_a_refused_write_waits(stage: Stage) -> None:
    """With a read-only /proc/sys, a new message doesn't make the guard retry earlier."""
    stage.world.run(
        ["sh", "-ec", "mount -n --bind /proc/sys /proc/sys; mount -n -o remount,ro,bind /proc/sys"]
    ).check_returncode()
    stage.table.fill(LIMIT)
    stage.start(LINE_ONLY)

    def waits() -> bool:
        stage.table.overflow()
        return any(row["reason"] == "write_refused" for row in stage.world.decisions())

    eventually(waits, "a hold for write_refused")
    assert limit() == LIMIT


@NUMBERED_ONLY
def test_a_limit_that_keeps_changing_is_not_written(stage: Stage, tmp_path: Path) -> None:
    """The limit is lowered between each reading and write of the guard: it holds, and raises later."""
    guard = stage.start(LINE_ONLY, "--log-level", "debug")
    stage.table.fill(LIMIT)
    steps = iter(range(LIMIT - 1, 0, -1))

    def holds() -> bool:
        stage.limit_guard.set_limit(next(steps))
        return any(event.get("reason") == "changed_under_us" for event in guard.events())

    # Each read of the limit takes a quarter of a second, in which the test lowers it several times.
    with injected(guard, "openat", "delay_enter=250000", (LIMIT_PATH,), tmp_path / "strace"):
        stage.table.overflow()
        eventually(holds, "a hold for changed_under_us", guard.log, seconds=30.0)
        assert limit() < LIMIT
    stage.held("changed_under_us")
    stage.raised()
