"""Reading the sysctl files of a host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conntrackd_guard.core.sysctl_precedence import Tool, final_assignment
from conntrackd_guard.host.conf_dirs import MAX_BYTES, assignments, sysctl_files

SETS = "net.netfilter.nf_conntrack_max = 7\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with two sysctl folders."""
    for folder in ("etc/sysctl.d", "usr/lib/sysctl.d"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_lines_are_found_in_every_folder(root: Path) -> None:
    """Every line that sets the limit has file and line, in the order of `sysctl --system`."""
    (root / "usr/lib/sysctl.d/90-x.conf").write_text("\n" + SETS)
    (root / "etc/sysctl.d/10-y.conf").write_text(SETS)
    (root / "etc/sysctl.d/10-y.conf.dpkg-old").write_text(SETS)
    (root / "etc/sysctl.conf").write_text(SETS)
    found = [(found.path.removeprefix(f"{root}/"), found.line) for found in assignments(root)]
    assert found == [("etc/sysctl.d/10-y.conf", 1), ("usr/lib/sysctl.d/90-x.conf", 2), ("etc/sysctl.conf", 1)]


def test_debian_12s_link_is_followed(root: Path) -> None:
    """systemd-sysctl reads /etc/sysctl.conf through 99-sysctl.conf only; the link is returned with the line."""
    (root / "etc/sysctl.conf").write_text(SETS)
    assert final_assignment(sysctl_files(root), Tool.SYSTEMD) is None
    (root / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    word = final_assignment(sysctl_files(root), Tool.SYSTEMD)
    assert word is not None
    assert (word.path, word.link) == (f"{root}/etc/sysctl.d/99-sysctl.conf", "../sysctl.conf")


def test_links_to_nothing_mask(root: Path) -> None:
    """A link to /dev/null, a dangling link and a folder mask the vendor's file of the same name."""
    for name in ("1", "2", "3"):
        (root / f"usr/lib/sysctl.d/{name}.conf").write_text(SETS)
    (root / "etc/sysctl.d/1.conf").symlink_to("/dev/null")
    (root / "etc/sysctl.d/2.conf").symlink_to("nowhere")
    (root / "etc/sysctl.d/3.conf").mkdir()
    assert assignments(root) == []


def test_special_and_huge_files_are_safe(root: Path) -> None:
    """A FIFO does not block; a huge file is not read, which is not the same as empty."""
    os.mkfifo(root / "etc/sysctl.d/1.conf")
    (root / "etc/sysctl.d/2.conf").write_text("#" * (MAX_BYTES + 1))
    (root / "etc/sysctl.d/3.conf").write_bytes(b"\xff\xfe\n" + SETS.encode())
    assert [file.content is None for file in sysctl_files(root)] == [False, True, False]
    assert [found.line for found in assignments(root)] == [2]
