"""Whom our own scripts would hurt is found out, and then nothing is lowered. Nothing here touches the limit itself."""

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
    """A guard's own lock, in a folder of the test, where the scripts look for it."""
    assert Paths(Path("/")).lock == bystanders.GUARD_LOCK
    paths = Paths(tmp_path)
    paths.lock.parent.parent.mkdir(parents=True)
    monkeypatch.setattr(bystanders, "GUARD_LOCK", paths.lock)
    return RuntimeDir(paths)


@pytest.fixture(name="limit")
def fake_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for the limit, on a host whose tables are all empty."""
    path = tmp_path / "nf_conntrack_max"
    path.write_text(f"{SAVED}\n")
    monkeypatch.setattr(limit_guard, "_VALUES", {"limit": path})
    monkeypatch.setattr(limit_guard, "LOCK", tmp_path / "limit.lock")
    monkeypatch.setattr(limit_guard, "foreign_entries", lambda *_: None)
    monkeypatch.setattr(limit_guard, "unseen_entries", lambda: None)
    return path


def start(guard: RuntimeDir) -> None:
    """Start the guard as far as its lock."""
    guard.prepare()
    guard.take_lock()


def end(guard: RuntimeDir) -> None:
    """End the guard: the kernel gives its lock back."""
    assert guard._lock is not None
    os.close(guard._lock)


def test_no_guard_is_one_that_never_ran_or_has_ended(guard: RuntimeDir) -> None:
    """Neither a host without the file nor the file that an ended guard leaves is a guard at work."""
    assert bystanders.acting_guard() is None
    start(guard)
    end(guard)
    assert bystanders.acting_guard() is None


def test_who_asks_keeps_no_guard_from_starting(guard: RuntimeDir) -> None:
    """The lock is free again after the question."""
    start(guard)
    end(guard)
    assert bystanders.acting_guard() is None
    start(guard)
    end(guard)


@pytest.mark.skipif(os.geteuid() != 0, reason="the keeper says first that it needs root")
def test_nothing_is_lent_while_a_guard_acts(guard: RuntimeDir, limit: Path) -> None:
    """The refusal names the process and the way to stop it, and nothing was written."""
    start(guard)
    with pytest.raises(RefusedError, match=rf"a guard acts on this host \(process {os.getpid()} .*systemctl stop"):
        limit_guard._begin(1.0)
    assert int(limit.read_text()) == SAVED


def test_no_guard_starts_while_the_limit_is_lent(guard: RuntimeDir, limit: Path) -> None:
    """It declines and names the keeper; once everything was put back it starts, and no file of ours is left."""
    keeper = limit_guard._LimitProcess()
    assert keeper.obey("limit 4096") == "ok"
    with pytest.raises(AnswerIsNo, match=f"process {os.getpid()} holds"):
        guard.take_lock()
    keeper.look()
    assert int(limit.read_text()) == 4096
    keeper.restore()
    keeper.let_guards_start()
    assert int(limit.read_text()) == SAVED
    assert not bystanders.GUARD_LOCK.parent.exists()


def test_the_file_of_a_guard_that_ran_before_is_left(guard: RuntimeDir, limit: Path) -> None:
    """Another guard may be just about to lock it."""
    start(guard)
    end(guard)
    limit_guard._LimitProcess().let_guards_start()
    assert int(limit.read_text()) == SAVED
    assert bystanders.GUARD_LOCK.exists()
    start(guard)
    end(guard)


def test_a_loan_that_ends_early_lets_a_guard_start(
    guard: RuntimeDir, limit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody begins to track: the limit is put back, can't be lowered again, and the host may have its guard."""
    keeper = limit_guard._LimitProcess()
    assert keeper.obey("limit 4096") == "ok"
    monkeypatch.setattr(limit_guard, "foreign_entries", lambda *_: "somebody holds 1 conntrack entries")
    keeper.look()
    assert int(limit.read_text()) == SAVED
    assert keeper.obey("check") == "refused the limit was put back early: somebody holds 1 conntrack entries"
    start(guard)
    end(guard)


@pytest.mark.parametrize("lowered", [True, False])
def test_a_guard_that_started_in_spite_of_all_ends_the_loan(guard: RuntimeDir, limit: Path, *, lowered: bool) -> None:
    """When somebody has removed the lock under us, the next look finds the guard, and so does the next write."""
    keeper = limit_guard._LimitProcess()
    assert not lowered or keeper.obey("limit 4096") == "ok"
    bystanders.GUARD_LOCK.unlink()
    start(guard)
    assert keeper.obey("limit 2048").startswith("refused a guard acts on this host")
    keeper.look()
    assert int(limit.read_text()) == SAVED
    assert "put back early: a guard acts on this host" in keeper.obey("check")
    end(guard)


@pytest.mark.live
def test_a_host_that_hides_its_processes_counts_as_in_use() -> None:
    """Where /proc is mounted with hidepid and the caller has no rights over others, it says what it could not read."""
    hide = "mount -n -t proc -o hidepid=1 proc /proc"
    drop = "setpriv --regid 65534 --clear-groups --bounding-set -all --inh-caps -all"
    answer = in_private_mounts(f'{hide} && exec {drop} /usr/bin/python3 -c "$1" "$2"', ASK, TESTS)
    assert "/net/stat can't be read (Operation not permitted)" in answer


def test_a_namespace_that_does_not_answer_counts_as_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way in that is there and leads nowhere is no empty table; one that has ended with its namespace is nobody's."""
    broken = tmp_path / "broken"
    broken.touch()
    found = (broken.stat().st_ino, None, "the network namespace broken", [str(broken)])
    monkeypatch.setattr(bystanders, "_namespaces", lambda: iter([found]))
    assert bystanders.foreign_entries() == "the network namespace broken can't be read"
    broken.unlink()
    assert bystanders.foreign_entries() is None


@pytest.mark.live
def test_a_namespace_is_asked_through_a_process_that_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first process found in it has ended, the next one answers."""
    ways = ["/proc/4194305/net/stat", "/proc/self/net/stat"]  # the first is above the largest process id there can be
    monkeypatch.setattr(bystanders, "_namespaces", lambda: iter([(1, 1, "this one", ways)]))
    ((_, _, count),) = bystanders._tables()
    assert count is not None


@pytest.mark.live
def test_a_namespace_that_only_a_mount_keeps_is_asked(tmp_path: Path) -> None:
    """No process is in it, and its name has a blank."""
    name = tmp_path / "kept by a mount"
    name.touch()
    answer = in_private_mounts('unshare --net="$3" true && exec /usr/bin/python3 -c "$1" "$2"', LIST, TESTS, str(name))
    assert answer.endswith("/kept by a mount'\", 0)]\n")


def in_private_mounts(script: str, *arguments: str) -> str:
    """Run a shell script where mounts are its own, and return what it printed."""
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


UNSEEN = "1 conntrack entries or more are in no network namespace that can be found"


@pytest.mark.parametrize(
    ("counted", "figures", "said"),
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
def test_entries_that_no_namespace_in_reach_holds_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: int, figures: dict[str, str | None], said: str | None
) -> None:
    """What is allocated, less what the processors keep, is more than all namespaces hold; no figures say nothing."""
    listed = {"objects": "1000 N0=1000", "objs_per_slab": "16", "slabs_cpu_partial": "24(3) C0=24(3)"}
    for name, text in (listed | {"sheaf_capacity": "0"} | figures).items():
        if text is not None:
            (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(bystanders, "SLAB", tmp_path)
    monkeypatch.setattr(bystanders, "_DYING_SECONDS", 0.0)
    monkeypatch.setattr(bystanders, "_tables", lambda: iter([(1, "a namespace", counted)]))
    assert bystanders.unseen_entries() == said
