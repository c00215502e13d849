"""A program is known by its user ids, its network namespace and who started it, never by its name alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from testbed.programs import IDENTITY, IN_A_POD, POD, process

from conntrackd_guard.host import programs
from conntrackd_guard.host.other_writers import attribute_change, other_writers
from conntrackd_guard.host.programs import Program

NAMES = {"kube-proxy": "kube-proxy", "k3s-server": "k3s"}
SESSION = "/user.slice/user-1000.slice/session-3.scope"


@pytest.mark.parametrize(
    ("name", "cgroup", "found"),
    [
        ("kube-proxy", IN_A_POD, Program("kube-proxy", 701, IDENTITY, POD)),
        ("kube-proxy", f"/kubelet/kubepods/pod{POD}/{IDENTITY}", Program("kube-proxy", 701, IDENTITY, POD)),
        ("kube-proxy", f"/system.slice/docker-{IDENTITY}.scope", Program("kube-proxy", 701, IDENTITY)),
        ("kube-proxy", "/system.slice/kube-proxy.service", Program("kube-proxy", 701)),
        ("k3s-server", "/system.slice/k3s-two.service", Program("k3s-server", 701)),
    ],
)
def test_a_program_in_its_unit_or_a_container(tmp_path: Path, name: str, cgroup: str, found: Program) -> None:
    """It is root's, in the initial network namespace, and root's cgroup shows who started it."""
    process(tmp_path, name, cgroup=cgroup)
    assert programs.find(tmp_path / "proc", NAMES) == [found]


@pytest.mark.parametrize(
    "forged",
    [
        {"uids": "1000 1000 1000 1000"},
        {"uids": "1000 0 0 0"},  # a set-user-ID program by another name
        {"uids": "100000 100000 100000 100000"},  # root of a user namespace
        {"network": "999"},  # a pod with a network namespace of its own can't write the limit
        {"cgroup": SESSION},
        {"cgroup": "/user.slice/user-1000.slice/user@1000.service/app.slice/kube-proxy.service"},
        {"cgroup": f"/user.slice/user-1000.slice/user@1000.service{IN_A_POD}"},
        {"cgroup": "/system.slice/cron.service"},  # a user's crontab, and sudo under that name
        {"cgroup": "/"},
    ],
)  # fmt: skip
def test_a_name_alone_proves_nothing(tmp_path: Path, forged: dict[str, Any]) -> None:
    """Whatever a user's process calls itself: no check of doctor names it, and a change at that moment stays unknown."""
    folder = process(tmp_path, "kube-proxy", "kube-proxy", "--conntrack-min=77777", started=100.0, **forged)
    assert programs.find(tmp_path / "proc", NAMES) == []
    assert other_writers(tmp_path, 1) == []
    assert attribute_change(tmp_path, 77_777, 101.0, was=100_000) == ("unknown", False)
    for part in ("cgroup", "status", "net"):
        (folder / part).unlink()
        assert programs.find(tmp_path / "proc", NAMES) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose executables count")
@pytest.mark.parametrize(
    ("target", "mode", "owner", "known"),
    [
        ("kube-proxy", 0o755, 0, True),
        ("kube-proxy", 0o4755, 0, False),
        ("kube-proxy", 0o775, 0, False),
        ("kube-proxy", 0o755, 1000, False),
        ("sudo", 0o755, 0, False),
    ],
)
def test_an_executable_of_root(tmp_path: Path, target: str, mode: int, owner: int, *, known: bool) -> None:
    """Without a unit or a container, as on a host without systemd."""
    folder = process(tmp_path, "kube-proxy", cgroup=SESSION)
    program = tmp_path / "bin" / target
    program.parent.mkdir()
    program.touch()
    program.chmod(mode)
    os.chown(program, owner, -1)
    program.chmod(mode)
    (folder / "exe").symlink_to(program)
    assert bool(programs.find(tmp_path / "proc", NAMES)) is known


@pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: runs a set-user-ID program of another user's, and root's own"
)
def test_real_processes() -> None:
    """A user may run any set-user-ID program by that name: /proc shows it as root's. An executable of root's is known."""
    with tempfile.TemporaryDirectory() as folder:
        forged, genuine = Path(folder) / "forged/kube-proxy", Path(folder) / "genuine/kube-proxy"
        for program, mode in ((forged, 0o4755), (genuine, 0o755)):
            program.parent.mkdir()
            shutil.copy("/bin/sleep", program)
            program.chmod(mode)
        Path(folder).chmod(0o755)
        ours, theirs = subprocess.Popen([genuine, "60"]), subprocess.Popen([forged, "60"], user=65534)
        try:
            while not all(Path(f"/proc/{one.pid}/comm").read_text() == "kube-proxy\n" for one in (ours, theirs)):
                time.sleep(0.01)
            assert Path(f"/proc/{theirs.pid}").stat().st_uid == 0
            found = {one.pid for one in programs.find(Path("/proc"), NAMES)}
            assert theirs.pid not in found
            assert (ours.pid in found) is (
                Path("/proc/self/net/stat").stat().st_ino == Path("/proc/1/net/stat").stat().st_ino
            )
        finally:
            for one in (ours, theirs):
                one.kill()
                one.wait()
