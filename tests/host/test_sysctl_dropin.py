"""The drop-in, read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conntrackd_guard.core.model import PersistedLimit
from conntrackd_guard.core.sysctl_precedence import Tool
from conntrackd_guard.host.dropin_lock import DropInLock
from conntrackd_guard.host.dropin_request import DropInRequest, Persisted
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import NoDropIn, SysctlDropIn

PERSISTED = Persisted(
    limit=98_304,
    limit_before=65_536,
    wall_seconds=1_761_991_200,
    decision="7",
    memory_total_bytes=8 << 30,
    budget_bytes=800 << 20,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Limit, boot, machine, memory and budget are read back."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("00ff\n")
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("5a2b-b007\n")
    drop_in = SysctlDropIn(Paths(tmp_path))
    assert drop_in.persisted() is None
    drop_in.put(PERSISTED, 1.0)
    kept = PersistedLimit(
        limit=98_304,
        decision="7",
        boot_id="5a2b-b007",
        machine_id="00ff",
        memory_total_bytes=8 << 30,
        budget_bytes=800 << 20,
    )
    assert drop_in.persisted() == kept
    assert NoDropIn(Paths(tmp_path), reads=True).persisted() == kept
    assert NoDropIn(Paths(tmp_path), reads=False).persisted() is None


def test_buckets_come_before_the_limit(tmp_path: Path) -> None:
    """No limit stands without the buckets it was judged with, not even at boot."""
    drop_in = SysctlDropIn(Paths(tmp_path))
    drop_in.put(replace(PERSISTED, buckets=65_536), 1.0)
    kept = drop_in.persisted()
    assert kept is not None
    assert (kept.limit, kept.buckets) == (98_304, 65_536)
    lines = [line for line in Paths(tmp_path).drop_in.read_text().splitlines() if not line.startswith("#")]
    assert lines == ["net.netfilter.nf_conntrack_buckets = 65536", "net.netfilter.nf_conntrack_max = 98304"]


@pytest.mark.parametrize(("in_force", "kept"), [(65_536, 65_536), (16_384, 65_536), (None, 65_536), (66_048, None)])
def test_a_raise_that_needs_no_more_buckets_keeps_those_before(
    tmp_path: Path, in_force: int | None, kept: int | None
) -> None:
    """Unless another program has more of them in force, which the file would take back at boot."""
    drop_in = SysctlDropIn(Paths(tmp_path))
    drop_in.put(replace(PERSISTED, buckets=65_536), 1.0)
    drop_in.put(replace(PERSISTED, limit=147_456), 2.0, in_force)
    found = drop_in.persisted()
    assert found is not None
    assert (found.limit, found.buckets) == (147_456, kept)


def test_an_older_raise_takes_no_buckets_along(tmp_path: Path) -> None:
    """A newer decision has the file."""
    drop_in = SysctlDropIn(Paths(tmp_path))
    drop_in.put(PERSISTED, 2.0)
    drop_in.put(replace(PERSISTED, limit=5, buckets=512), 1.0)
    found = drop_in.persisted()
    assert found is not None
    assert (found.limit, found.buckets) == (98_304, None)


def test_a_pending_revert_has_its_buckets(tmp_path: Path) -> None:
    """A revert that could not write the file yet counts as written."""
    paths = Paths(tmp_path)
    override = DropInRequest(boot_id="unknown", decided_us=1_000_000, content=replace(PERSISTED, buckets=512))
    DropInLock(paths).leave_override(override)
    found = SysctlDropIn(paths).persisted()
    assert found is not None
    assert found.buckets == 512


def test_a_handwritten_file_has_a_limit_only(tmp_path: Path) -> None:
    """Without the header only the limit is known; hostile values are ignored."""
    drop_in = SysctlDropIn(Paths(tmp_path))
    drop_in.put(PERSISTED, 1.0)
    path = Paths(tmp_path).drop_in
    path.write_text("# memory_total_bytes=abc boot_id=\u202e\nnet.netfilter.nf_conntrack_max = 5\n")
    assert drop_in.persisted() == PersistedLimit(limit=5)


@pytest.mark.parametrize(
    ("others", "overrides", "overridden_by"),
    [
        ({}, "nothing", None),
        ({"sysctl.d/50-x.conf": 5}, "{}/sysctl.d/50-x.conf:1 (5)", None),
        (
            {"sysctl.d/50-x.conf": 5, "sysctl.d/k8s.conf": 7},
            "{}/sysctl.d/50-x.conf:1 (5)",
            "{}/sysctl.d/k8s.conf:1 (7) with systemd-sysctl and sysctl --system",
        ),
        ({"sysctl.d/999-x.conf": 98_304}, "nothing", None),  # the same limit
        ({"sysctl.conf": 9}, "nothing", "{}/sysctl.conf:1 (9) with sysctl --system"),
        (
            {"sysctl.conf": 9, "sysctl.d/999-x.conf": 8},
            "nothing",
            "{0}/sysctl.d/999-x.conf:1 (8) with systemd-sysctl, {0}/sysctl.conf:1 (9) with sysctl --system",
        ),
    ],
)
def test_the_comment_claims_what_is_true(
    tmp_path: Path, others: dict[str, int], overrides: str, overridden_by: str | None
) -> None:
    """A line that is applied after the drop-in is not overridden, but overrides."""
    (tmp_path / "etc/sysctl.d").mkdir(parents=True)
    for name, value in others.items():
        (tmp_path / "etc" / name).write_text(f"net.netfilter.nf_conntrack_max = {value}\n")
    drop_in = SysctlDropIn(Paths(tmp_path))
    drop_in.put(PERSISTED, 1.0)
    rows = dict(row[2:].split(": ", 1) for row in Paths(tmp_path).drop_in.read_text().splitlines() if ": " in row)
    etc = tmp_path / "etc"
    assert rows["Overrides"] == overrides.format(etc)
    assert rows.get("Overridden by") == (overridden_by and overridden_by.format(etc))
    assert bool(drop_in.overridden_by()) is (overridden_by is not None)
    assert NoDropIn(Paths(tmp_path), reads=True).overridden_by() == []


def test_a_line_of_another_file_cannot_end_the_comment(tmp_path: Path) -> None:
    """Names and values are text of others; of many lines some are shown."""
    folder = tmp_path / "etc/sysctl.d"
    folder.mkdir(parents=True)
    (folder / "50-\n9.conf").write_text("net.netfilter.nf_conntrack_max = 7\x1b[2J\n" * 40)
    SysctlDropIn(Paths(tmp_path)).put(PERSISTED, 1.0)
    lines = Paths(tmp_path).drop_in.read_text().splitlines()
    (shown,) = [line for line in lines if line.startswith("# Overrides")]
    assert shown.endswith("and 32 more")
    assert [line for line in lines if not line.startswith("#")] == ["net.netfilter.nf_conntrack_max = 98304"]


def test_a_line_that_overrides_the_buckets_is_named(tmp_path: Path) -> None:
    """They are saved with the limit, and lost without it being lost."""
    other = tmp_path / "etc/sysctl.d/999-x.conf"
    other.parent.mkdir(parents=True)
    other.write_text("net.netfilter.nf_conntrack_max = 98304\nnet.netfilter.nf_conntrack_buckets = 4096\n")
    drop_in = SysctlDropIn(Paths(tmp_path))
    drop_in.put(replace(PERSISTED, buckets=65_536), 1.0)
    (found,) = drop_in.overridden_by()
    assert (found.what, found.saved, found.line.line, found.tools) == ("number of hash buckets", 65_536, 2, [*Tool])
    assert (
        f"# Overridden by: {other}:2 (4096) with systemd-sysctl and sysctl --system\n"
        in Paths(tmp_path).drop_in.read_text()
    )
