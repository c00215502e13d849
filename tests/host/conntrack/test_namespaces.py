"""Finding network namespaces and their owners, on test trees and on the real /proc."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conntrackd_guard.host.conntrack import namespaces
from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner, NetNamespace
from conntrackd_guard.host.paths import Paths

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")
HOLD = 'mkdir -p "$1" && touch "$1/$2" && mount --bind /proc/self/ns/net "$1/$2" && stat -L -c %i "$1/$2"'


def process(root: Path, pid: str, *, ended: bool = False) -> None:
    """Create a process with a namespace of its own; with `ended` only its folder is left."""
    (root / f"proc/{pid}/net/stat").mkdir(parents=True)
    if not ended:
        (root / f"proc/{pid}/ns").mkdir()
        (root / f"proc/{pid}/ns/net").touch()


def tree(root: Path) -> NamespaceScanner:
    """Return a scanner of a tree with process 1 only."""
    process(root, "1")
    (root / "proc/self").symlink_to("1")
    return NamespaceScanner(Paths(root))


def test_an_unreadable_namespace_is_not_trusted(tmp_path: Path) -> None:
    """A user who keeps forking must not pass for root because a process has just ended."""
    scanner = tree(tmp_path)
    process(tmp_path, "200", ended=True)
    places, _ = scanner.scan()
    (netns,) = [netns for netns in places if not netns.initial]
    assert (netns.namespace, netns.user_owned, netns.owner_unknown) == (None, True, True)


@NEEDS_ROOT
@pytest.mark.parametrize("leader_ends", [False, True])
def test_a_namespace_of_a_thread_alone_is_found(*, leader_ends: bool) -> None:
    """/proc/PID shows the first thread's namespace, and none once that thread has ended."""
    with a_thread_in_a_namespace(leader_ends=leader_ends) as (thread, number):
        places, complete = NamespaceScanner(Paths()).scan()
        (netns,) = [netns for netns in places if netns.namespace == number]
        assert (netns.pids, netns.label, netns.user_owned, complete) == ((thread,), f"process {thread}", False, True)


IN_A_THREAD = """
import ctypes, os, sys, threading
def enter():
    assert ctypes.CDLL(None).unshare(0x40000000) == 0
    print(threading.get_native_id(), os.stat("/proc/thread-self/ns/net").st_ino, flush=True)
    sys.stdin.read()
    os._exit(0)
thread = threading.Thread(target=enter)
thread.start()
if sys.argv[1] == "True":
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit, of this thread alone
thread.join()
"""


@contextlib.contextmanager
def a_thread_in_a_namespace(*, leader_ends: bool) -> Iterator[tuple[int, int]]:
    """Run a process whose second thread is in a namespace of its own; yield the thread's id and the number."""
    command = [sys.executable, "-c", IN_A_THREAD, str(leader_ends)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        thread, number = map(int, running.stdout.readline().split())
        if leader_ends:
            state = Path(f"/proc/{running.pid}/stat")
            while state.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.001)
        yield thread, number
        running.stdin.close()


def test_an_unreadable_process_list_is_reported(tmp_path: Path) -> None:
    """The scan is incomplete: a namespace may be missing."""
    assert NamespaceScanner(Paths(tmp_path)).scan() == ([], False)


@NEEDS_ROOT
@pytest.mark.parametrize("folder", ["/run/netns", "/run/docker/netns", "/run/odd \\one"])
def test_a_namespace_without_a_process_is_found(folder: str) -> None:
    """`ip netns add` and Docker mount namespaces; other files are ignored."""
    found = in_a_world_of_mounts(folder, "box")
    number = int(found[0])
    label = "box" if folder == "/run/netns" else f"{folder.removeprefix('/run/')}/box"
    assert found[1:] == [f"{number} {number} {folder}/box False", label]


def in_a_world_of_mounts(folder: str, name: str) -> list[str]:
    """Mount a namespace, with another file beside it, and return its number and the result of a scan."""
    scan = (
        "import sys; from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner as S; "
        "from conntrackd_guard.host.paths import Paths; "
        "p = [p for p in S(Paths()).scan()[0] if p.namespace == int(sys.argv[1])]; "
        "[print(p.key, p.namespace, p.enter, p.user_owned, p.label, sep=chr(10)) for p in p]"
    )
    script = f"""
mount -n -t tmpfs tmpfs /run
number=$(unshare --net sh -ec '{HOLD}' sh "$1" "$2")
echo stray >"$1/stray"
/usr/bin/python3 -c '{scan}' "$number"
"""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", folder, name]
    lines = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    ).stdout.splitlines()
    key, number, enter, user_owned, label = lines
    return [number, f"{key} {number} {enter} {user_owned}", label]


def test_namespaces_of_processes_can_be_entered(tmp_path: Path) -> None:
    """Without a statistics file the namespace of a process is entered."""
    scanner = tree(tmp_path)
    process(tmp_path, "200")
    (netns,) = [netns for netns in scanner.scan()[0] if not netns.initial]
    assert isinstance(netns, NetNamespace)
    assert netns.enter == str(tmp_path / "proc/200/ns/net")


def test_the_scan_finds_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real /proc this process's namespace is the initial one."""
    monkeypatch.setattr(namespaces, "_PIDS_KEPT", 1)
    (own,) = [netns for netns in NamespaceScanner(Paths()).scan()[0] if netns.initial]
    assert own.key == os.stat("/proc/self/net/stat").st_ino
