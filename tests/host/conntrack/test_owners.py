"""Owners of namespaces: paths of systemd, container runtimes and kubelet, and forged ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conntrackd_guard.core.traffic.analysis import Owner
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.owners import by_cgroup, find_owner
from conntrackd_guard.host.conntrack.setns import nsenter_prefix
from conntrackd_guard.host.paths import Paths

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
POD = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
SLICE = f"kubepods-burstable-pod{POD.replace('-', '_')}.slice"
HASH = "a" * 32


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/", Owner()),
        ("/system.slice/nginx.service", Owner(unit="nginx.service")),
        ("/system.slice/system-getty.slice/getty@tty1.service", Owner(unit="getty@tty1.service")),
        ("/user.slice/user-1000.slice/session-3.scope", Owner(unit="session-3.scope")),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.service",
            Owner(unit="user@1000.service"),
        ),
        (f"/system.slice/docker-{ID}.scope", Owner(runtime="docker", container=ID)),
        (f"/docker/{ID}", Owner(runtime="docker", container=ID)),
        (f"/docker/{ID}/docker/{OTHER}", Owner(runtime="docker", container=ID)),
        (f"/machine.slice/libpod-{ID}.scope/container", Owner(runtime="podman", container=ID)),
        (f"/libpod_parent/libpod-{ID}", Owner(runtime="podman", container=ID)),
        (f"/machine.slice/libpod-conmon-{ID}.scope", Owner(unit=f"libpod-conmon-{ID}.scope")),
        (
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
            Owner(unit="user@1000.service", runtime="podman", container=ID),
        ),
        (f"/system.slice/nerdctl-{ID}.scope", Owner(runtime="containerd", container=ID)),
        (f"/default/{ID}", Owner(runtime="containerd", container=ID)),
        (
            f"/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope",
            Owner(pod=POD, runtime="containerd", container=ID),
        ),
        (f"/kubepods.slice/{SLICE}/crio-{ID}.scope", Owner(pod=POD, runtime="cri-o", container=ID)),
        (f"/kubepods.slice/{SLICE}", Owner(pod=POD)),
        (f"/kubepods/besteffort/pod{POD}/{ID}", Owner(pod=POD, container=ID)),
        (f"/kubepods/pod{HASH}/{ID}", Owner(pod=HASH, container=ID)),
        (
            f"/system.slice/containerd.service/{SLICE}:cri-containerd:{ID}",
            Owner(unit="containerd.service", pod=POD, runtime="containerd", container=ID),
        ),
        (f"/system.slice/docker-{ID}.scope (deleted)", Owner(runtime="docker", container=ID)),
        # what a container's root makes within it: neither another container nor a pod is believed
        (
            f"/system.slice/docker-{ID}.scope/kubelet.slice/{SLICE}/cri-containerd-{OTHER}.scope",
            Owner(runtime="docker", container=ID),
        ),
        (f"/system.slice/docker-{ID[:-1]}.scope", Owner(unit=f"docker-{ID[:-1]}.scope")),
        ("/system.slice/\x1b[2J\u202e.service", Owner(unit="\\x1b[2J\\u202e.service")),
    ],
)
def test_a_path_of_version_2(path: str, owner: Owner) -> None:
    """Each naming scheme is parsed, from the outside in."""
    assert by_cgroup(f"0::{path}\n".encode()) == owner


def test_paths_of_version_1() -> None:
    """Units come from systemd's hierarchy, containers from any."""
    plain = "12:pids:/system.slice/nginx.service\n1:name=systemd:/system.slice/nginx.service\n0::/\n"
    assert by_cgroup(plain.encode()) == Owner(unit="nginx.service")
    mixed = f"5:memory:/docker/{ID}\n1:name=systemd:/system.slice/docker.service\n0::/system.slice/docker.service\n"
    assert by_cgroup(mixed.encode()) == Owner(runtime="docker", container=ID)


@given(st.binary(max_size=200))
def test_any_content_gives_printable_text(content: bytes) -> None:
    """Any content gives printable text."""
    owner = by_cgroup(b"0::/" + content)
    assert owner.text.isprintable()


def a_tree(root: Path, pid: int, *, cgroup: str | None, name: bytes = b"nginx\n") -> NetNamespace:
    """Return a namespace with process 199, which has ended, and this one."""
    folder = root / f"proc/{pid}"
    (folder / "net/stat").mkdir(parents=True)
    (folder / "comm").write_bytes(name)
    if cgroup is not None:
        (folder / "cgroup").write_text(cgroup)
    return NetNamespace(key=(folder / "net/stat").stat().st_ino, namespace=7, label="web", pids=(199, pid))


def test_a_process_and_its_pod(tmp_path: Path) -> None:
    """The text for people goes from the pod to the process."""
    netns = a_tree(tmp_path, 4242, cgroup=f"0::/kubepods.slice/{SLICE}/cri-containerd-{ID}.scope\n")
    owner = find_owner(netns, Paths(tmp_path))
    assert owner.text == f"pod {POD}, container 0123456789ab (containerd), process nginx (4242)"


@pytest.mark.parametrize(
    ("name", "shown"), [(b"\x1b]0;x\x07\n", "\\x1b]0;x\\x07"), (b"\xff\xfe\n", "\ufffd\ufffd"), (b"a\nb", "a\\nb")]
)
def test_a_hostile_name_is_made_printable(tmp_path: Path, name: bytes, shown: str) -> None:
    """A process can choose its name; without cgroups only the process is returned."""
    owner = find_owner(a_tree(tmp_path, 5, cgroup=None, name=name), Paths(tmp_path))
    assert owner.text == f"process {shown} (5)"


def test_a_process_in_another_namespace_is_not_the_owner(tmp_path: Path) -> None:
    """An ended namespace, a reused pid and a namespace without a process have no owner."""
    netns = a_tree(tmp_path, 5, cgroup="0::/system.slice/nginx.service\n")
    assert find_owner(NetNamespace(key=netns.key + 1, namespace=7, label="web", pids=(5,)), Paths(tmp_path)) == Owner()
    assert find_owner(NetNamespace(key=7, namespace=7, label="web", enter="/run/netns/web"), Paths(tmp_path)) == Owner()
    assert Owner().text == ""


def test_a_live_process() -> None:
    """A child of this test is found by its name in the real /proc."""
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            key = os.stat(f"/proc/{child.pid}/net/stat").st_ino
            owner = find_owner(NetNamespace(key=key, namespace=None, label="", pids=(child.pid,)), Paths())
        finally:
            child.kill()
    assert (owner.pid, owner.process in {"sleep", "python3"}) == (child.pid, True)


@pytest.mark.parametrize(
    ("netns", "words"),
    [
        (NetNamespace(key=1, namespace=1, label="initial", initial=True, enter="/proc/1/ns/net"), ""),
        (NetNamespace(key=1, namespace=1, label="web", enter="/run/netns/web"), "ip netns exec web "),
        (NetNamespace(key=1, namespace=1, label="", enter="/run/netns/a b;\x1b"), "ip netns exec 'a b;\\x1b' "),
        (
            NetNamespace(key=1, namespace=1, label="", pids=(5,), enter="/proc/5/ns/net"),
            "nsenter --net=/proc/5/ns/net ",
        ),
    ],
)
def test_the_prefix_that_enters_a_namespace(netns: NetNamespace, words: str) -> None:
    """A name may contain any character of a file name: it stays one argument on one line."""
    assert nsenter_prefix(netns, Paths()) == words
