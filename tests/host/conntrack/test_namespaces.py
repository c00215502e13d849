"""Where network namespaces are found, and whose they are: on made-up trees, and on the real /proc."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from conntrackd_guard.host.conntrack import namespaces
from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner, NetNamespace
from conntrackd_guard.host.paths import Paths

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")
HOLD = 'mkdir -p "$1" && touch "$1/$2" && mount --bind /proc/self/ns/net "$1/$2" && stat -L -c %i "$1/$2"'


def process(root: Path, pid: str, *, ended: bool = False) -> None:
    """Make a process of its own namespace; `ended`: all but its folder is gone."""
    (root / f"proc/{pid}/net/stat").mkdir(parents=True)
    if not ended:
        (root / f"proc/{pid}/ns").mkdir()
        (root / f"proc/{pid}/ns/net").touch()


def tree(root: Path) -> NamespaceScanner:
    """Return a scanner of a tree with process 1 alone."""
    process(root, "1")
    (root / "proc/self").symlink_to("1")
    return NamespaceScanner(Paths(root))


def test_what_nobody_can_tell_of_is_not_trusted(tmp_path: Path) -> None:
    """A user who keeps forking must not pass for root because the process asked has just ended."""
    scanner = tree(tmp_path)
    process(tmp_path, "200", ended=True)
    places, _ = scanner.scan()
    assert [(place.namespace, place.user_owned) for place in places if not place.initial] == [(None, True)]


def test_the_user_namespace_tells_where_the_namespace_may_not_be_asked(tmp_path: Path) -> None:
    """Without ptrace rights the id map of a process inside says whose it is."""
    scanner = tree(tmp_path)
    for pid, ids in (("200", "0 0 4294967295\n"), ("201", "0 1000 1\n")):
        process(tmp_path, pid, ended=True)
        (tmp_path / f"proc/{pid}/uid_map").write_text(ids)
    places, _ = scanner.scan()
    assert {place.label: place.user_owned for place in places if not place.initial} == {
        "process 200": False,
        "process 201": True,
    }


def test_a_process_list_that_can_not_be_read_is_said(tmp_path: Path) -> None:
    """Something may track out of sight."""
    assert NamespaceScanner(Paths(tmp_path)).scan() == ([], False)


@NEEDS_ROOT
@pytest.mark.parametrize("folder", ["/run/netns", "/run/docker/netns", "/run/odd \\one"])
def test_a_namespace_that_only_a_mount_holds_is_found(folder: str) -> None:
    """`ip netns add` and Docker keep namespaces without a process; files that are none are passed over."""
    found = in_a_world_of_mounts(folder, "box")
    number = int(found[0])
    label = "box" if folder == "/run/netns" else f"{folder.removeprefix('/run/')}/box"
    assert found[1:] == [f"{number} {number} {folder}/box False", label]


def in_a_world_of_mounts(folder: str, name: str) -> list[str]:
    """Hold a namespace by a mount alone, with a stray file beside it, and return its number and what a scan tells of it."""
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
    told = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    ).stdout.splitlines()
    key, number, enter, user_owned, label = told
    return [number, f"{key} {number} {enter} {user_owned}", label]


def test_places_of_processes_can_be_entered(tmp_path: Path) -> None:
    """Where the kernel has no statistics file, the namespace of a process is entered instead."""
    scanner = tree(tmp_path)
    process(tmp_path, "200")
    (place,) = [place for place in scanner.scan()[0] if not place.initial]
    assert isinstance(place, NetNamespace)
    assert place.enter == str(tmp_path / "proc/200/ns/net")


def test_the_scan_finds_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real /proc, the own namespace is the initial one of the scan."""
    monkeypatch.setattr(namespaces, "_PIDS_KEPT", 1)
    (own,) = [place for place in NamespaceScanner(Paths()).scan()[0] if place.initial]
    assert own.key == os.stat("/proc/self/net/stat").st_ino
