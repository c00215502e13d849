"""The file for node_exporter, in a folder that may belong to another user."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host.metrics_file import MetricsFile


@pytest.fixture
def file(tmp_path: Path) -> MetricsFile:
    """A metrics file that does not exist yet."""
    (tmp_path / "folder").mkdir()
    return MetricsFile(tmp_path / "folder/guard.prom")


def test_everyone_can_read_it_with_any_umask(file: MetricsFile) -> None:
    """node_exporter does not run as root."""
    before = os.umask(0o077)
    try:
        file.put("a 1\n")
    finally:
        os.umask(before)
    assert (file.path.read_text(), file.path.stat().st_mode & 0o777) == ("a 1\n", 0o644)


def test_a_reader_sees_the_old_file_or_the_new_one(file: MetricsFile) -> None:
    """The temporary file has a name that node_exporter ignores."""
    file.put("a 1\n")
    with file.path.open() as reader:
        file.put("a 2\n")
        assert reader.read() == "a 1\n"
    assert [path.name for path in file.path.parent.iterdir()] == ["guard.prom"]


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo"])
def test_a_planted_temporary_file_is_not_followed(file: MetricsFile, tmp_path: Path, kind: str) -> None:
    """The folder's owner can neither make the guard overwrite another file nor block on a FIFO."""
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


def test_a_temporary_file_planted_again_is_an_error(
    file: MetricsFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file planted between unlink and open is not followed."""
    (tmp_path / "other").write_text("precious")
    file.path.with_name(".guard.prom.new").symlink_to(tmp_path / "other")
    monkeypatch.setattr(os, "unlink", lambda _: None)
    with pytest.raises(HostError):
        file.put("a 1\n")
    assert (tmp_path / "other").read_text() == "precious"


def test_a_link_at_its_path_is_replaced(file: MetricsFile, tmp_path: Path) -> None:
    """The link's target is unchanged."""
    (tmp_path / "other").write_text("precious")
    file.path.symlink_to(tmp_path / "other")
    file.put("a 1\n")
    assert ((tmp_path / "other").read_text(), file.path.is_symlink()) == ("precious", False)


@pytest.mark.parametrize(
    ("error", "step"),
    [(errno.EROFS, "`BindPaths=`"), (errno.ENOENT, "Create the folder.*`BindPaths=`"), (errno.ENOSPC, "has room")],
)
def test_errors_have_a_next_step(file: MetricsFile, monkeypatch: pytest.MonkeyPatch, error: int, step: str) -> None:
    """The error has the path; no temporary file is left."""

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(HostError, match=rf"write {file.path}: {os.strerror(error)}.*{step}"):
        file.put("a 1\n")
    assert list(file.path.parent.iterdir()) == []


def test_removing_a_missing_file_is_no_error(file: MetricsFile) -> None:
    """Someone else may have removed it."""
    file.put("a 1\n")
    file.drop()
    file.drop()
    assert not file.path.exists()
