"""What may be opened and written, tried without a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conntrackd_guard.doctor import reach


def test_opening_changes_nothing(tmp_path: Path) -> None:
    """A file opened for writing keeps content and time; a missing one is not made."""
    file = tmp_path / "x"
    file.write_text("7")
    before = file.stat()
    assert reach.refusal(file, os.O_WRONLY) is None
    assert (file.read_text(), file.stat().st_mtime_ns) == ("7", before.st_mtime_ns)
    refused = reach.refusal(tmp_path / "y", os.O_WRONLY)
    assert refused is not None
    assert refused.strerror == "No such file or directory"
    assert not (tmp_path / "y").exists()


def test_room_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    """Before the state folder exists, its file system is that of the folder it will be made in."""
    there = reach.room(tmp_path / "var/lib/conntrackd-guard")
    assert there.free_bytes == pytest.approx(reach.room(tmp_path).free_bytes, rel=0.5)
    assert there.writable


def test_a_file_system_without_a_number_of_inodes_has_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Btrfs counts no inodes; ext4 may run out of them."""
    real = list(os.statvfs(tmp_path))
    for total, left, expected in ((0, 0, True), (100, 0, False), (100, 1, True)):
        real[5], real[7] = total, left
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(real))
        assert reach.room(tmp_path).inodes_left is expected
