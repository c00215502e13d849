"""Opening files and measuring free space without a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conntrackd_guard.doctor import facts


def test_opening_changes_nothing(tmp_path: Path) -> None:
    """A file opened for writing keeps content and time; a missing one is not created."""
    file = tmp_path / "x"
    file.write_text("7")
    before = file.stat()
    assert facts.open_error(file, os.O_WRONLY) is None
    assert (file.read_text(), file.stat().st_mtime_ns) == ("7", before.st_mtime_ns)
    refused = facts.open_error(tmp_path / "y", os.O_WRONLY)
    assert refused is not None
    assert refused.strerror == "No such file or directory"
    assert not (tmp_path / "y").exists()


def test_free_space_is_that_of_the_nearest_parent(tmp_path: Path) -> None:
    """Until the state folder exists, its nearest existing parent counts."""
    there = facts.free_space(tmp_path / "var/lib/conntrackd-guard")
    assert there.free_bytes == pytest.approx(facts.free_space(tmp_path).free_bytes, rel=0.5)
    assert there.writable


def test_inodes_are_left_unless_a_fixed_number_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Btrfs has no fixed number of inodes; ext4 may run out of them."""
    real = list(os.statvfs(tmp_path))
    for total, left, expected in ((0, 0, True), (100, 0, False), (100, 1, True)):
        real[5], real[7] = total, left
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(real))
        assert facts.free_space(tmp_path).inodes_left is expected
