"""`guard recommend --write`: in place of nothing that another file sets, in one step, with a way back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conntrackd_guard.actions.recommended_files import MARK, write_module_options, write_sysctl
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import AnswerIsNo, HostError
from conntrackd_guard.core.recommendation import Recommendation, describe
from conntrackd_guard.host.paths import Paths

GIB = 1 << 30
FOUND = describe(Policy(), 8 * GIB, 65_536, None, 300_000)
CONTENT = f"{MARK}\nnet.netfilter.nf_conntrack_buckets = 112640\nnet.netfilter.nf_conntrack_max = 450000\n"
MODULE = f"{MARK}\noptions nf_conntrack hashsize=112640\n"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Give a host without any sysctl file."""
    return Paths(tmp_path)


def put(paths: Paths, name: str, content: str) -> Path:
    """Write another program's file."""
    path = paths.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def undo(command: str) -> None:
    """Paste the command."""
    subprocess.run(command.split(), check=True)


def test_it_writes_and_its_undo_removes(paths: Paths) -> None:
    """The folder may be missing."""
    written = write_sysctl(FOUND, paths)
    assert written.path.read_text() == CONTENT
    assert written.left_out == ()
    undo(written.undo)
    assert not written.path.exists()


def test_the_second_time_changes_nothing(paths: Paths) -> None:
    """No file is touched."""
    before = write_sysctl(FOUND, paths).path.stat().st_mtime_ns
    again = write_sysctl(FOUND, paths)
    assert not again.is_new
    assert again.path.stat().st_mtime_ns == before
    undo(again.undo)
    assert not again.path.exists()


def test_an_earlier_recommendation_comes_back(paths: Paths) -> None:
    """It stays beside the new one, under a name that no program reads."""
    earlier = write_sysctl(describe(Policy(), 8 * GIB, None, None, 500_000), paths).path.read_text()
    written = write_sysctl(FOUND, paths)
    assert written.path.read_text() == CONTENT
    undo(written.undo)
    assert written.path.read_text() == earlier


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("etc/sysctl.d/10-site.conf", "net.netfilter.nf_conntrack_max = 99"),
        ("etc/sysctl.d/99-zz-conntrackd-guard.conf", "net.netfilter.nf_conntrack_max = 99"),
        ("usr/lib/sysctl.d/10-site.conf", "-net/nf_conntrack_max = 99"),
        ("etc/sysctl.conf", "net.nf_conntrack_max=99"),
        ("etc/sysctl.d/10-site.conf", "net.netfilter.nf_conntrack_m* = 99"),
        ("etc/sysctl.d/10-site.conf", "-net.netfilter.nf_conntrack_max"),
    ],
)
def test_what_another_file_sets_is_left_out(paths: Paths, name: str, line: str) -> None:
    """By whatever spelling; the rest is written."""
    put(paths, name, f"# ours\n{line}\n")
    written = write_sysctl(FOUND, paths)
    assert written.left_out == (f"{paths.root / name}:2 sets net.netfilter.nf_conntrack_max already.",)
    assert written.path.read_text() == f"{MARK}\nnet.netfilter.nf_conntrack_buckets = 112640\n"


def test_nothing_left_is_refused(paths: Paths) -> None:
    """Nothing is written, and the answer names each place."""
    put(paths, "etc/sysctl.d/10-site.conf", "net.netfilter.nf_conntrack_* = 99\n")
    with pytest.raises(
        AnswerIsNo, match=r"Nothing was written: .*10-site.conf:1 sets .*buckets already\. .* Change it"
    ):
        write_sysctl(FOUND, paths)
    assert not paths.recommended_sysctl.exists()


def test_a_masked_file_sets_nothing(paths: Paths) -> None:
    """As for systemd-sysctl and procps."""
    put(paths, "usr/lib/sysctl.d/10-site.conf", "net.netfilter.nf_conntrack_max = 99\n")
    put(paths, "etc/sysctl.d/10-site.conf", "")
    assert write_sysctl(FOUND, paths).path.read_text() == CONTENT


@pytest.mark.parametrize("content", ["net.ipv4.ip_forward = 1\n", "x"])
def test_a_file_of_others_in_its_place_stays(paths: Paths, content: str) -> None:
    """Nobody's lines are lost."""
    path = put(paths, "etc/sysctl.d/90-conntrackd-guard-recommend.conf", content)
    with pytest.raises(AnswerIsNo, match="Move it away first"):
        write_sysctl(FOUND, paths)
    assert path.read_text() == content


def test_a_link_in_its_place_is_not_followed(paths: Paths, tmp_path: Path) -> None:
    """It may lead anywhere."""
    path = put(paths, "etc/sysctl.d/90-conntrackd-guard-recommend.conf", "")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AnswerIsNo):
        write_sysctl(FOUND, paths)


def test_a_file_that_can_not_be_read_may_set_the_same(paths: Paths) -> None:
    """Larger than any such file."""
    put(paths, "etc/sysctl.d/10-site.conf", "#" * (2 << 20))
    with pytest.raises(AnswerIsNo, match=r"10-site\.conf can't be read"):
        write_sysctl(FOUND, paths)


def test_a_disk_that_refuses_leaves_everything(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so."""
    write_sysctl(describe(Policy(), 8 * GIB, None, None, 500_000), paths)
    before = paths.recommended_sysctl.read_text()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.rename", refuse)
    with pytest.raises(HostError, match="No space left"):
        write_sysctl(FOUND, paths)
    assert paths.recommended_sysctl.read_text() == before


def test_module_options_are_written_unless_another_file_has_them(paths: Paths) -> None:
    """Also on the kernel's command line."""
    assert write_module_options(FOUND, paths).path.read_text() == MODULE
    assert not write_module_options(FOUND, paths).is_new
    put(paths, "proc/cmdline", "quiet nf_conntrack.hashsize=4096\n")
    with pytest.raises(AnswerIsNo, match="cmdline has hashsize=4096"):
        write_module_options(FOUND, paths)


def test_a_host_without_advice_on_buckets_still_has_a_limit() -> None:
    """All values come in the order in which they have to be set: buckets first."""
    found: Recommendation = FOUND
    assert [*found.values()] == ["net.netfilter.nf_conntrack_buckets", "net.netfilter.nf_conntrack_max"]
