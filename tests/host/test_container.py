"""What a container lacks of its host: each thing is named with the field of the pod's specification that gives it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from testbed.fake_host import FakeHost

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.doctor import checks
from conntrackd_guard.host import container
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.container import JOURNALS, MOUNTS, gaps
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

POINTS = [mount.path for mount in (*MOUNTS, JOURNALS[0])]
INITIAL_ONLY = "proc/sys/net/core/netdev_max_backlog"


class Pod:
    """A container whose host is mounted below /host."""

    def __init__(self, folder: Path) -> None:
        self.host = FakeHost(folder / "host")
        self.paths = Paths(self.host.root, own=folder)
        self.host.put(INITIAL_ONLY, "1000\n")
        self.host.put("var/log/journal/x", "")
        self.host.put("run/netns/x", "")
        self.host.put("etc/machine-id", "1\n")
        (folder / "proc/self").mkdir(parents=True)
        (folder / "proc/self/uid_map").write_text("0 0 4294967295\n")
        self.mount(POINTS)

    def mount(self, points: list[str]) -> None:
        """Have these paths of the host mounted."""
        rows = [f"{number} 1 0:4 / {self.host.root}{point} ro - ext4 x rw\n" for number, point in enumerate(points)]
        (self.paths.own / "proc/self/mountinfo").write_text("1 0 0:1 / / ro - overlay x ro\n" + "".join(rows))

    def gaps(self, *, persist: bool = False) -> list[tuple[str, str, bool]]:
        """Return what is missing."""
        return [(gap.text, gap.field, gap.is_needed) for gap in gaps(self.paths, persist=persist)]


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    """A pod that has everything."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Pod(tmp_path)


def test_a_whole_pod_lacks_nothing(pod: Pod) -> None:
    """Nor does a host, or a container that has all of the host's root."""
    assert pod.gaps() == []
    assert gaps(Paths(pod.host.root), persist=True) == []
    pod.mount([""])
    assert pod.gaps(persist=True) == []


@pytest.mark.parametrize("mount", [*MOUNTS[:1], *MOUNTS[2:], JOURNALS[0]], ids=lambda mount: str(mount.path))
def test_a_missing_mount_is_named_with_its_volume(pod: Pod, mount: container.Mount) -> None:
    """An empty folder in the image, which no mount covers, is no mount."""
    pod.mount([point for point in POINTS if not point.startswith(mount.path)])
    found = {field: (text, needed) for text, field, needed in pod.gaps()}
    text, needed = next(value for field, value in found.items() if mount.field(pod.paths) in field)
    assert "mounted" in text
    assert needed is mount.is_needed


def test_the_saved_limit_needs_a_mount_only_if_it_is_saved(pod: Pod) -> None:
    """With `persist: false` /etc/sysctl.d is left alone."""
    ((text, field, needed),) = pod.gaps(persist=True)
    assert text.startswith("/etc/sysctl.d of the host is not mounted: no limit is saved for the next boot")
    assert field == (
        f"a hostPath volume of /etc/sysctl.d with mountPath: {pod.host.root}/etc/sysctl.d, readOnly: false"
    )
    assert needed is False


def test_a_read_only_mount_is_named(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the limit, when only /proc is mounted or it is mounted read-only."""
    monkeypatch.setattr(container, "_is_read_only", lambda path: path == pod.paths.sysctl)
    pod.mount([point for point in POINTS if point != container.LIMIT_FOLDER])
    ((text, field, needed),) = pod.gaps()
    assert text == f"{pod.paths.sysctl} is mounted read-only: the limit can't be written"
    assert (field.endswith("readOnly: false"), needed) == (True, True)


def test_writable_mounts_within_proc_are_named(pod: Pod) -> None:
    """A read-only volume of /proc leaves what is mounted inside it as it is: binfmt_misc makes its writer root."""
    rows = (pod.paths.own / "proc/self/mountinfo").read_text()
    within = f"{pod.host.root}/proc/sys/fs/binfmt_misc"
    (pod.paths.own / "proc/self/mountinfo").write_text(f"{rows}99 1 0:9 / {within} rw,nosuid - binfmt_misc x rw\n")
    assert pod.gaps() == []  # hidden by an empty volume above it
    pod.host.put("proc/sys/fs/binfmt_misc/register", "")
    ((text, field, needed),) = pod.gaps()
    assert text.startswith(f"{within} can be written here")
    assert "recursiveReadOnly: Enabled" in field
    assert not needed
    (pod.paths.own / "proc/self/mountinfo").write_text(f"{rows}99 1 0:9 / {within} ro,nosuid - binfmt_misc x rw\n")
    assert pod.gaps() == []


def test_other_namespaces_and_users_are_named(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network, user and PID namespace, and the user; each has its own field."""
    (pod.host.root / INITIAL_ONLY).unlink()
    (pod.paths.own / "proc/self/uid_map").write_text("0 100000 65536\n")
    (pod.host.root / "proc/self").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    fields = [field for _, field, needed in pod.gaps() if needed]
    assert fields == [
        "hostNetwork: true",
        "securityContext.runAsUser: 0",
        "hostUsers: true (the default)",
        MOUNTS[0].field(pod.paths),
    ]


def test_refusals_name_the_field_too(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the limit, for as long as it can't be written; and of /run, without which no guard starts."""
    kernel = LiveKernel(pod.paths)

    def refuse(number: int) -> None:
        raise OSError(number, os.strerror(number))

    for number in (errno.EROFS, errno.EACCES):
        monkeypatch.setattr(os, "open", lambda *_, number=number: refuse(number))
        error = kernel.not_writable()
        assert error is not None
        assert {errno.EROFS: "netfilter, readOnly: false", errno.EACCES: "hostNetwork: true"}[number] in error.next_step
    monkeypatch.undo()
    bare = Paths(pod.paths.own / "none", own=pod.paths.own)
    with pytest.raises(HostError, match=r"The pod needs a hostPath volume of /run/conntrackd-guard with mountPath: "):
        RuntimeDir(bare).prepare()


def test_doctor_shows_it_in_a_container_only(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in folders that a pod doesn't mount is unknown, not absent."""
    monkeypatch.setattr(checks, "JOURNAL_SECONDS", 0.0)
    assert pod.host.examine(running=False)["container"].verdict.value == "good"
    found = {check.name: check for check in checks.examine(pod.paths).checks}
    assert found["container"].verdict.value == "note"
    assert "/etc/sysctl.d" in found["container"].evidence
    assert found["at_boot"].verdict.value == found["boot_trap"].verdict.value == "unknown"
    assert "privileged: true" in found["ring_buffer"].next_step
    (pod.host.root / INITIAL_ONLY).unlink()
    found = {check.name: check for check in checks.examine(pod.paths).checks}
    assert found["container"].verdict.value == found["namespace"].verdict.value == "wrong"
    assert found["namespace"].next_step == "The pod needs hostNetwork: true."
