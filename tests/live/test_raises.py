"""The guard raises the real limit for real events, and packets pass again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

LINE_ONLY = {"raise_early": False}
FILLING_UP_ONLY = {"DEAF": True}


def test_a_kernel_message_alone_raises_the_limit_and_packets_pass(stage: Stage) -> None:
    """One dropped packet is enough: the limit is raised, packets pass, and the history has the kernel message."""
    stage.table.fill(LIMIT)
    stage.start(LINE_ONLY)
    assert stage.table.overflow() == 0
    after = stage.raised()
    assert stage.table.overflow(20) == 20
    (row,) = stage.raises()
    assert (row["trigger"], row["outcome"], row["from"], row["to"]) == ("kernel_message", "applied", LIMIT, after)
    assert row["message"].startswith("nf_conntrack: nf_conntrack: table full")
    named = f"in netns {stage.table.number}," in row["message"]  # not before Linux 6.17
    assert row["namespace"] == (stage.table.number if named else None)
    assert not named or stage.numbered


def test_a_table_that_fills_up_is_raised_for_before_packets_are_dropped(stage: Stage) -> None:
    """The raise comes while packets still pass."""
    stage.start(FILLING_UP_ONLY)
    stage.table.fill(LIMIT * 9 // 10)
    stage.raised()
    assert stage.table.overflow(20) == 20
    assert stage.table.dropped() == 0
    assert {row["trigger"] for row in stage.raises()} == {"filling_up"}


def test_the_raise_survives_a_reboot(stage: Stage) -> None:
    """The raised limit is in the drop-in that the next boot reads."""
    stage.table.fill(LIMIT)
    stage.start(LINE_ONLY)
    stage.table.overflow()
    after = stage.raised()
    stage.raises()
    text = (stage.world.root / "etc/sysctl.d/99-zz-conntrackd-guard.conf").read_text()
    values = [line.replace(" ", "") for line in text.splitlines() if line and not line.startswith("#")]
    assert f"net.netfilter.nf_conntrack_max={after}" in [value.lstrip("-") for value in values]


def test_min_limit_is_raised_to_at_start_and_after_another_program(stage: Stage) -> None:
    """An almost empty table is enough; the other program's value stands for seconds at most, and counts as a conflict."""
    least = 2 * LIMIT
    stage.start({"min_limit": least})
    assert stage.raised() == least
    Path("/proc/sys/net/netfilter/nf_conntrack_max").write_text(f"{LIMIT}\n", encoding="ascii")
    assert stage.raised() == least
    rows = [row for row in stage.raises() if row["trigger"] == "min_limit"]
    assert [(row["outcome"], row["to"]) for row in rows] == [("applied", least)] * 2
    lowered = stage.decision(lambda row: row["reason"] == "limit_lowered", "the other program's lowering")
    assert "1 of 3 in 24 h" in lowered["sentence"]


def test_recommend_reads_the_real_tables_and_changes_nothing(stage: Stage) -> None:
    """Its file is applied by the real sysctl as printed; nothing is in force before."""
    stage.table.fill(LIMIT * 9 // 10)
    etc = stage.world.root / "etc/sysctl.d"
    before, size = {path.name for path in etc.iterdir()}, limit()
    answer = stage.world.guard("recommend", "--format", "json")
    found = json.loads(answer.stdout)
    assert found["peak"]["entries"] >= LIMIT * 9 // 10
    assert found["limit"] == found["arithmetic"]["needed"]["wanted"] > LIMIT
    assert found["causes"]
    assert (limit(), {path.name for path in etc.iterdir()}) == (size, before)
    assert stage.world.guard("recommend", "--write").returncode == 0
    assert limit() == size
    added = {path.name for path in etc.iterdir()} - before
    assert added == {"90-conntrackd-guard-recommend.conf"}
    assert f"nf_conntrack_max = {found['limit']}\n" in (etc / added.pop()).read_text()


def test_a_dry_run_changes_nothing(stage: Stage) -> None:
    """A dry run records what it would have done; neither the limit nor /etc changes."""
    stage.table.fill(LIMIT)
    stage.start({}, "--dry-run")
    stage.table.overflow()
    row = stage.decision(lambda row: row["verdict"] == "raise", "a rehearsed raise", "--dry-run")
    assert (row["mode"], row["outcome"], row["from"]) == ("dry-run", "rehearsed", LIMIT)
    assert limit() == LIMIT
    assert stage.table.overflow() == 0
    written = (stage.world.root / "etc").rglob("*conntrackd-guard*")
    assert [path.name for path in written] == ["conntrackd-guard"]
    assert not list((stage.world.root / "etc/conntrackd-guard").glob("[!g]*"))
