"""The scripts detect whom a lower limit would hurt, and lower nothing then. These tests don't touch the real limit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from testbed import bystanders, limit_guard
from testbed.limit_guard import RefusedError

from conntrackd_guard.core.errors import AnswerIsNo
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

SAVED = 262_144
ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from testbed import bystanders
print(bystanders.foreign_entries())
"""
LIST = """
import sys
sys.path.insert(0, sys.argv[1])
from testbed import bystanders
print([(place, count) for _, place, count in bystanders._tables() if "kept" in place])
"""
TESTS = str(Path(bystanders.__file__).parents[1])


@pytest.fixture(name="guard")
def make_the_lock_of_a_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RuntimeDir:
    """Give a guard's lock in a temporary folder, where the scripts look for it."""
    assert Paths(Path("/")).lock == bystanders.GUARD_LOCK
    paths = Paths(tmp_path)
    paths.lock.parent.parent.mkdir(parents=True)
    monkeypatch.setattr(bystanders, "GUARD_LOCK", paths.lock)
    return RuntimeDir(paths)


@pytest.fixture(name="limit")
def fake_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a file in place of the limit, on a host whose tables are all empty."""
    path = tmp_path / "nf_conntrack_max"
    path.write_text(f"{SAVED}\n")
    monkeypatch.setattr(limit_guard, "_VALUES", {"limit": path})
    monkeypatch.setattr(limit_guard, "LOCK", tmp_path / "limit.lock")
    monkeypatch.setattr(limit_guard, "foreign_entries", lambda *_: None)
    monkeypatch.setattr(limit_guard, "unseen_entries", lambda: None)
    return path


def start(guard: RuntimeDir) -> None:
    """Take the lock as a starting guard does."""
    guard.prepare()
    guard.take_lock()


def end(guard: RuntimeDir) -> None:
    """End the guard: the kernel releases its lock."""
    assert guard._lock is not None
    os.close(guard._lock)


def test_a_guard_that_never_ran_or_has_ended_does_not_act(guard: RuntimeDir) -> None:
    """Without the lock file, or with one that nobody holds, no guard acts."""
    assert bystanders.acting_guard() is None
    start(guard)
    end(guard)
    assert bystanders.acting_guard() is None


def test_checking_for_a_guard_lets_one_start(guard: RuntimeDir) -> None:
    """The lock is free again after the check."""
    start(guard)
    end(guard)
    assert bystanders.acting_guard() is None
    start(guard)
    end(guard)


@pytest.mark.skipif(os.geteuid() != 0, reason="without root it fails before the check: the refusal was NOT tested")
def test_the_limit_is_refused_while_a_guard_acts(guard: RuntimeDir, limit: Path) -> None:
    """The refusal names the process and how to stop it. Nothing is written."""
    start(guard)
    with pytest.raises(RefusedError, match=rf"a guard acts on this host \(process {os.getpid()} .*systemctl stop"):
        limit_guard._begin(1.0)
    assert int(limit.read_text()) == SAVED


def test_no_guard_starts_while_a_test_has_the_limit(guard: RuntimeDir, limit: Path) -> None:
    """It refuses and names the process; after the restore it starts, and no file is left."""
    process = limit_guard._LimitProcess()
    assert process.obey("limit 4096") == "ok"
    with pytest.raises(AnswerIsNo, match=f"process {os.getpid()} holds"):
        guard.take_lock()
    process.check()
    assert int(limit.read_text()) == 4096
    process.restore()
    process.let_guards_start()
    assert int(limit.read_text()) == SAVED
    assert not bystanders.GUARD_LOCK.parent.exists()


def test_the_lock_file_of_an_earlier_guard_stays(guard: RuntimeDir, limit: Path) -> None:
    """Another guard may be about to lock it."""
    start(guard)
    end(guard)
    limit_guard._LimitProcess().let_guards_start()
    assert int(limit.read_text()) == SAVED
    assert bystanders.GUARD_LOCK.exists()
    start(guard)
    end(guard)


def test_an_early_restore_lets_a_guard_start(guard: RuntimeDir, limit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another namespace starts to track: the limit is restored, stays, and a guard may start."""
    process = limit_guard._LimitProcess()
    assert process.obey("limit 4096") == "ok"
    monkeypatch.setattr(limit_guard, "foreign_entries", lambda *_: "somebody holds 1 conntrack entries")
    process.check()
    assert int(limit.read_text()) == SAVED
    assert process.obey("check") == "refused the limit was restored early: somebody holds 1 conntrack entries"
    start(guard)
    end(guard)


@pytest.mark.parametrize("lowered", [True, False])
def test_a_guard_that_starts_anyway_ends_the_test(guard: RuntimeDir, limit: Path, *, lowered: bool) -> None:
    """If someone removes the lock file, the next check and the next write detect the guard."""
    process = limit_guard._LimitProcess()
    assert not lowered or process.obey("limit 4096") == "ok"
    bystanders.GUARD_LOCK.unlink()
    start(guard)
    assert process.obey("limit 2048").startswith("refused a guard acts on this host")
    process.check()
    assert int(limit.read_text()) == SAVED
    assert "restored early: a guard acts on this host" in process.obey("check")
    end(guard)


@pytest.mark.live
def test_a_host_that_hides_its_processes_counts_as_in_use() -> None:
    """With hidepid and without rights over others, the answer names what is unreadable."""
    hide = "mount -n -t proc -o hidepid=1 proc /proc"
    drop = "setpriv --regid 65534 --clear-groups --bounding-set -all --inh-caps -all"
    answer = in_private_mounts(f'{hide} && exec {drop} /usr/bin/python3 -c "$1" "$2"', ASK, TESTS)
    assert "/net/stat can't be read (Operation not permitted)" in answer


def test_an_unreadable_namespace_counts_as_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An existing path that leads nowhere is no empty table; one that has ended is ignored."""
    broken = tmp_path / "broken"
    broken.touch()
    found = (broken.stat().st_ino, None, "the network namespace broken", [str(broken)])
    monkeypatch.setattr(bystanders, "_namespaces", lambda: iter([found]))
    assert bystanders.foreign_entries() == "the network namespace broken can't be read"
    broken.unlink()
    assert bystanders.foreign_entries() is None


@pytest.mark.live
def test_a_namespace_is_read_through_a_running_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first process in it has ended, the next one is used."""
    ways = ["/proc/4194305/net/stat", "/proc/self/net/stat"]  # the first is above the largest process id there can be
    monkeypatch.setattr(bystanders, "_namespaces", lambda: iter([(1, 1, "this one", ways)]))
    ((_, _, count),) = bystanders._tables()
    assert count is not None


@pytest.mark.live
def test_a_namespace_that_only_a_mount_keeps_is_read(tmp_path: Path) -> None:
    """It contains no process, and its name contains a space."""
    name = tmp_path / "kept by a mount"
    name.touch()
    answer = in_private_mounts('unshare --net="$3" true && exec /usr/bin/python3 -c "$1" "$2"', LIST, TESTS, str(name))
    assert answer.endswith("/kept by a mount'\", 0)]\n")


def in_private_mounts(script: str, *arguments: str) -> str:
    """Run a shell script in a mount namespace of its own and return its output."""
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


UNSEEN = "1 conntrack entries or more are in no network namespace that can be found"


@pytest.mark.parametrize(
    ("counted", "figures", "answer"),
    [
        (920, {}, None),
        (919, {}, UNSEEN),
        (0, {"sheaf_capacity": "1000"}, None),
        (919, {"sheaf_capacity": None}, UNSEEN),
        (967, {"slabs_cpu_partial": None}, UNSEEN),
        (0, {"objects": None}, None),
    ],
    ids=["all are found", "one is not", "kept in sheaves", "before sheaves", "nothing kept in lists", "no figures"],
)
def test_entries_of_unreachable_namespaces_are_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: int, figures: dict[str, str | None], answer: str | None
) -> None:
    """More entries are allocated than processors cache and namespaces hold. Without figures nothing is detected."""
    listed = {"objects": "1000 N0=1000", "objs_per_slab": "16", "slabs_cpu_partial": "24(3) C0=24(3)"}
    for name, text in (listed | {"sheaf_capacity": "0"} | figures).items():
        if text is not None:
            (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(bystanders, "SLAB", tmp_path)
    monkeypatch.setattr(bystanders, "_DYING_SECONDS", 0.0)
    monkeypatch.setattr(bystanders, "_tables", lambda: iter([(1, "a namespace", counted)]))
    assert bystanders.unseen_entries() == answer
