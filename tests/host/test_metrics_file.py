"""The file for node_exporter, in a folder that need not be root's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host.metrics_file import MetricsFile


@pytest.fixture
def file(tmp_path: Path) -> MetricsFile:
    """A file that is not there yet, in a folder of its own."""
    (tmp_path / "folder").mkdir()
    return MetricsFile(tmp_path / "folder/guard.prom")


def test_everyone_can_read_it_whatever_the_umask(file: MetricsFile) -> None:
    """node_exporter is no root."""
    before = os.umask(0o077)
    try:
        file.put("a 1\n")
    finally:
        os.umask(before)
    assert (file.path.read_text(), file.path.stat().st_mode & 0o777) == ("a 1\n", 0o644)


def test_a_reader_sees_the_old_file_or_the_new_one(file: MetricsFile) -> None:
    """Another file takes its place, under a name that node_exporter passes over until then."""
    file.put("a 1\n")
    with file.path.open() as reader:
        file.put("a 2\n")
        assert reader.read() == "a 1\n"
    assert [path.name for path in file.path.parent.iterdir()] == ["guard.prom"]


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo"])
def test_what_stands_in_its_way_is_not_followed(file: MetricsFile, tmp_path: Path, kind: str) -> None:
    """Who owns the folder can neither have another file overwritten nor have the guard wait for a reader."""
    other = tmp_path / "other"
    other.write_text("precious")
    beside = file.path.with_name(".guard.prom.new")
    match kind:
        case "link":
            beside.symlink_to(other)
        case "hard link":
            os.link(other, beside)
        case _:
            os.mkfifo(beside)
    file.put("a 1\n")
    assert (other.read_text(), file.path.read_text()) == ("precious", "a 1\n")


def test_what_is_put_back_at_once_is_refused(
    file: MetricsFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the write, too, nothing is followed."""
    (tmp_path / "other").write_text("precious")
    file.path.with_name(".guard.prom.new").symlink_to(tmp_path / "other")
    monkeypatch.setattr(os, "unlink", lambda _: None)
    with pytest.raises(HostError):
        file.put("a 1\n")
    assert (tmp_path / "other").read_text() == "precious"


def test_a_link_at_its_path_is_replaced(file: MetricsFile, tmp_path: Path) -> None:
    """What it leads to stays as it is."""
    (tmp_path / "other").write_text("precious")
    file.path.symlink_to(tmp_path / "other")
    file.put("a 1\n")
    assert ((tmp_path / "other").read_text(), file.path.is_symlink()) == ("precious", False)


@pytest.mark.parametrize(
    ("error", "step"),
    [(errno.EROFS, "`ReadWritePaths=`"), (errno.ENOENT, "Create the folder"), (errno.ENOSPC, "has room")],
)
def test_what_refuses_it_is_told_with_the_next_step(
    file: MetricsFile, monkeypatch: pytest.MonkeyPatch, error: int, step: str
) -> None:
    """With the path; and nothing is left beside it."""

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(HostError, match=rf"writing {file.path}: {os.strerror(error)}.*{step}"):
        file.put("a 1\n")
    assert list(file.path.parent.iterdir()) == []


def test_a_file_that_is_gone_is_removed(file: MetricsFile) -> None:
    """By whomever."""
    file.put("a 1\n")
    file.drop()
    file.drop()
    assert not file.path.exists()
