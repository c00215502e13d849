"""The guard raises the real limit for real events, and packets pass again."""

from __future__ import annotations

import pytest
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

LINE_ONLY = {"raise_early": False}
PRESSURE_ONLY = {"kernel_message": False}


def test_a_kernel_line_alone_raises_the_limit_and_packets_pass(stage: Stage) -> None:
    """One dropped packet is enough: the limit rises, the next packets pass, and history tells what the kernel said."""
    stage.table.fill(LIMIT)
    stage.start(LINE_ONLY)
    assert stage.table.overflow() == 0
    after = stage.raised()
    assert stage.table.overflow(20) == 20
    (row,) = stage.raises()
    assert (row["trigger"], row["outcome"], row["from"], row["to"]) == ("kernel_message", "applied", LIMIT, after)
    assert row["message"].startswith("nf_conntrack: nf_conntrack: table full")
    named = f"in netns {stage.table.number}," in row["message"]  # no kernel before 6.17 does that
    assert row["namespace"] == (stage.table.number if named else None)
    assert not named or stage.numbered


def test_pressure_alone_raises_the_limit_before_anything_is_dropped(stage: Stage) -> None:
    """A table that fills up is raised for while packets still pass."""
    stage.start(PRESSURE_ONLY)
    stage.table.fill(LIMIT * 9 // 10)
    stage.raised()
    assert stage.table.overflow(20) == 20
    assert stage.table.dropped() == 0
    assert {row["trigger"] for row in stage.raises()} == {"filling_up"}


def test_the_raise_survives_a_reboot(stage: Stage) -> None:
    """What was raised stands in the drop-in that the next boot reads."""
    stage.table.fill(LIMIT)
    stage.start(LINE_ONLY)
    stage.table.overflow()
    after = stage.raised()
    stage.raises()
    text = (stage.world.root / "etc/sysctl.d/99-zz-conntrackd-guard.conf").read_text()
    values = [line.replace(" ", "") for line in text.splitlines() if line and not line.startswith("#")]
    assert f"net.netfilter.nf_conntrack_max={after}" in [value.lstrip("-") for value in values]


def test_a_dry_run_touches_nothing(stage: Stage) -> None:
    """A dry run tells what it would have done, and neither the limit nor /etc changes."""
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
