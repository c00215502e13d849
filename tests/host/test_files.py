"""Replacing files atomically, also in folders of other users."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conntrackd_guard.host import files


@pytest.mark.parametrize("waiting", ["file", "link", "pipe"])
def test_a_planted_temporary_file_is_not_used(tmp_path: Path, waiting: str) -> None:
    """Its mode, owner and target are ignored: in a shared folder anyone could have created it."""
    temporary, elsewhere = tmp_path / ".page.new", tmp_path / "elsewhere"
    elsewhere.write_text("theirs")
    if waiting == "file":
        temporary.write_text("left by a kill")
        temporary.chmod(0o666)
        keeper = temporary.open()
    elif waiting == "link":
        temporary.symlink_to(elsewhere)
    else:
        os.mkfifo(temporary)
    files.replace(tmp_path / "page", b"ours", mode=0o640, durable=False)
    assert (tmp_path / "page").read_bytes() == b"ours"
    assert (tmp_path / "page").stat().st_mode & 0o777 == 0o640
    assert elsewhere.read_text() == "theirs"
    if waiting == "file":
        assert keeper.read() == "left by a kill"
        keeper.close()
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "page"]
