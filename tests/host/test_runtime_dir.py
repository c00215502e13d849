"""The lock of the running guard."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.another_user import run_as_another
from testbed.bad_files import KINDS, replace

from conntrackd_guard.core.errors import AnswerIsNo
from conntrackd_guard.core.model import Pause
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir, acting_guard

HOLDS = """
import sys, time
from pathlib import Path
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
runtime_dir = RuntimeDir(Paths(Path(sys.argv[1])))
runtime_dir.take_lock()
print("held", flush=True)
time.sleep(60)
"""
LOOKS = """
import sys
from pathlib import Path
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
print(RuntimeDir(Paths(Path(sys.argv[1]))).is_running())
"""


@pytest.fixture(name="paths")
def a_host(tmp_path: Path) -> Paths:
    """A tree with the kernel's list of locks."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/locks").symlink_to("/proc/locks")
    (tmp_path / "run").mkdir()
    RuntimeDir(Paths(tmp_path)).prepare()
    return Paths(tmp_path)


@pytest.fixture(name="guard")
def a_running_guard(paths: Paths) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    command = [sys.executable, "-c", HOLDS, str(paths.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_running_guard_is_detected_until_it_is_killed(paths: Paths, guard: subprocess.Popen[str]) -> None:
    """Its pid is known, a second guard is refused with it, and after kill -9 the lock is free."""
    runtime_dir = RuntimeDir(paths)
    assert (runtime_dir.is_running(), runtime_dir.holder()) == (True, guard.pid)
    with pytest.raises(AnswerIsNo, match=f"process {guard.pid} holds"):
        runtime_dir.take_lock()
    guard.send_signal(signal.SIGKILL)
    guard.wait()
    assert runtime_dir.is_running() is False
    runtime_dir.take_lock()


@pytest.mark.parametrize(
    ("cgroup", "where"),
    [
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{'1a' * 32}.scope", " in container 1a1a1a1a1a1a"),
        (f"4:memory:/kubepods/besteffort/pod1/{'1a' * 32}\n0::/", " in container 1a1a1a1a1a1a"),
        (f"0::/machine.slice/libpod-{'1a' * 32}.scope/container", " in container 1a1a1a1a1a1a"),
        ("0::/../../system.slice/conntrackd-guard.service", " in conntrackd-guard.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope", " in session-3.scope"),
        ("0::/", ""),
        (None, ""),
    ],
)
def test_a_second_guard_is_refused_with_where_the_first_runs(
    tmp_path: Path, paths: Paths, guard: subprocess.Popen[str], cgroup: str | None, where: str
) -> None:
    """One from the package and one in a pod share the lock; the cgroup of its holder shows which it is."""
    if cgroup is not None:
        (tmp_path / f"proc/{guard.pid}").mkdir()
        (tmp_path / f"proc/{guard.pid}/cgroup").write_text(f"{cgroup}\n")
    with pytest.raises(AnswerIsNo) as refused:
        RuntimeDir(paths).take_lock()
    assert str(refused.value) == (
        f"A guard is already running (process {guard.pid}{where} holds {paths.lock}). Stop it first, or see `guard status`."
    )


def test_an_intent_that_a_kill_left_half_written_is_removed(paths: Paths) -> None:
    """Its key never comes again, so nothing would replace it until the next boot."""
    runtime_dir = RuntimeDir(paths)
    runtime_dir.prepare()
    runtime_dir.intents.put("1-2-3", {"key": "1-2-3"})
    (paths.intents / ".1-2-4.json.new").write_text('{"key": ')
    runtime_dir.take_lock()
    assert [path.name for path in paths.intents.iterdir()] == ["1-2-3.json"]


def test_a_container_notes_the_hosts_pid(tmp_path: Path, paths: Paths) -> None:
    """Its own pid means nothing to other processes of the host; /proc/self of the host's procfs has the other."""
    (tmp_path / "proc/self").symlink_to("4711")
    inside = RuntimeDir(Paths(tmp_path, own=Path("/")))
    inside.take_lock()
    assert (paths.lock.read_text(), inside.pid) == ("4711\n", 4711)
    assert RuntimeDir(paths).pid == os.getpid()


def test_a_host_without_a_guard(tmp_path: Path, paths: Paths) -> None:
    """A lock file that nobody holds is no running guard; without /proc/locks it is unknown."""
    runtime_dir = RuntimeDir(paths)
    assert runtime_dir.is_running() is False
    paths.lock.touch()
    assert runtime_dir.is_running() is False
    (tmp_path / "proc/locks").unlink()
    assert runtime_dir.is_running() is None


def test_detection_takes_no_lock(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that starts at that moment would find the lock taken."""
    paths.lock.touch()
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("a lock was taken"))
    RuntimeDir(paths).is_running()


@pytest.mark.parametrize("left_by_an_older_guard", [False, True])
def test_only_root_may_open_the_lock(paths: Paths, *, left_by_an_older_guard: bool) -> None:
    """Anyone who can open the file could lock it and keep the guard from starting."""
    if left_by_an_older_guard:
        paths.lock.touch(mode=0o644)
    RuntimeDir(paths).take_lock()
    assert paths.lock.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
@pytest.mark.usefixtures("guard")
def test_any_user_can_detect_a_running_guard(paths: Paths, tmp_path: Path) -> None:
    """No rights are needed."""
    found = run_as_another(LOOKS, str(paths.root), tmp_path=tmp_path)
    assert (found.stdout, found.stderr) == ("True\n", "")


def test_a_dry_run_knows_whose_write_it_sees(tmp_path: Path) -> None:
    """An open intent or the status of the acting guard has the limit, or an operator's revert does; else it is not known."""
    (tmp_path / "run").mkdir()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/locks").symlink_to("/proc/locks")
    runtime_dir = RuntimeDir(Paths(tmp_path))
    runtime_dir.prepare()
    runtime_dir.put_status({"limit": 98_304})
    runtime_dir.intents.put("a", {"decision": {"target": 147_456}})
    runtime_dir.intents.put("b", {"decision": None})
    runtime_dir.overrides.put("c", {"outcome": {"limit_after": 65_536}})
    assert [acting_guard(tmp_path, limit) for limit in (98_304, 147_456)] == ["", ""]  # it has ended
    runtime_dir.take_lock()
    ours = f"the acting guard (process {os.getpid()})"
    assert [acting_guard(tmp_path, limit) for limit in (98_304, 147_456)] == [ours, ours]
    assert acting_guard(tmp_path, 65_536) == "`guard revert`"
    assert acting_guard(tmp_path, 70_000) == ""


def test_a_lock_that_one_reading_skips_is_found(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of locks is read a page at a time; one that ends meanwhile hides another's row."""
    paths.lock.parent.mkdir(parents=True, exist_ok=True)
    paths.lock.touch()
    found = paths.lock.stat()
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    readings = [b"\n", f"\n1: FLOCK  ADVISORY  WRITE 4711 {place} 0 EOF\n".encode()]
    monkeypatch.setattr(files, "read", lambda _: readings.pop(0))
    assert RuntimeDir(paths).holder() == 4711
    readings = [b"1: POSIX  ADVISORY  WRITE 1 00:1a:1 0 EOF\n"] * 2
    assert RuntimeDir(paths).holder() == 0


def test_a_pause_written_by_hand_has_a_length(tmp_path: Path) -> None:
    """Its words are in every record while it lasts."""
    runtime_dir = RuntimeDir(Paths(tmp_path))
    (tmp_path / "run").mkdir()
    runtime_dir.prepare()
    runtime_dir.put_pause(Pause(by="b" * 9999, reason="r" * 9999))
    assert runtime_dir.operator_pause(1.0) == Pause(by="b" * 200, reason="r" * 200)


@pytest.mark.parametrize("kind", KINDS)
def test_resume_ends_any_pause(tmp_path: Path, kind: str) -> None:
    """What can't be read counts as a pause, until it is removed or moved away."""
    runtime_dir = RuntimeDir(Paths(tmp_path))
    (tmp_path / "run").mkdir()
    runtime_dir.prepare()
    replace(tmp_path / "run/conntrackd-guard/pause", kind)
    assert runtime_dir.operator_pause(1.0) is not None
    runtime_dir.drop_pause()
    assert runtime_dir.operator_pause(1.0) is None
