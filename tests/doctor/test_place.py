"""Where `guard doctor` runs, and what it says of memory and of what can't be read."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.fake_host import FakeHost
from testbed.hosts import GIB, MIB, host, table

from conntrackd_guard.core.configuration import Policy, Share
from conntrackd_guard.core.model import Observation
from conntrackd_guard.doctor import checks, place, verdicts
from conntrackd_guard.doctor.place import Place, find_place

LIMIT = "proc/sys/net/netfilter/nf_conntrack_max"
ON_HOST = Place(initial=True, writable=True, tracks=True)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A healthy host."""
    monkeypatch.setattr(checks, "JOURNAL_SECONDS", 0.0)
    return FakeHost(tmp_path)


def in_container(fake: FakeHost) -> None:
    """Give this process a user namespace."""
    fake.put("proc/1/uid_map", "0 100000 65536\n")


@pytest.mark.parametrize(
    ("sysctls", "mode", "expected"),
    [
        ([], 0o644, (True, True)),  # nothing but the mode shows it
        (["somaxconn", "netdev_max_backlog"], 0o644, (True, True)),
        (["somaxconn"], 0o444, (False, False)),
        (["somaxconn"], 0o644, (False, True)),  # before 5.12.2
        ([], 0o444, (False, False)),
    ],
)
def test_the_initial_namespace_is_known(
    fake: FakeHost, sysctls: list[str], mode: int, expected: tuple[bool, bool]
) -> None:
    """A sysctl that only the initial namespace has shows it; else the mode of the limit's file."""
    for name in sysctls:
        fake.put(f"proc/sys/net/core/{name}", "1000\n")
    (fake.root / LIMIT).chmod(mode)
    found = find_place(fake.paths)
    assert (found.initial, found.writable) == expected


def test_a_hidden_limit_is_a_container(fake: FakeHost) -> None:
    """Connections are tracked but the limit's file is missing: loading a module would be the wrong advice."""
    (fake.root / LIMIT).unlink()
    (fake.root / "proc/sys/net/netfilter/nf_conntrack_buckets").unlink()
    in_container(fake)
    found = fake.examine()
    assert found["conntrack"].verdict.value == found["namespace"].verdict.value == "wrong"
    assert "nf_conntrack_max is hidden" in found["conntrack"].evidence
    assert "(this is a container: a user namespace)" in found["conntrack"].evidence
    assert "modprobe" not in found["conntrack"].next_step
    assert "on the host itself" in found["conntrack"].next_step
    (fake.root / "proc/1/net/stat/nf_conntrack").unlink()
    found = fake.examine()
    assert (found["conntrack"].verdict.value, found["namespace"].verdict.value) == ("note", "unknown")
    assert "modprobe nf_conntrack" in found["conntrack"].next_step
    fake.put("proc/sys/net/netfilter/nf_conntrack_count", "7\n")  # a kernel without statistics files
    assert fake.examine()["conntrack"].verdict.value == "wrong"


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("run/systemd/container", "lxc\n", "lxc"),
        ("run/systemd/container", "\x1b[31m\n", "\\x1b[31m"),
        ("run/.containerenv", "", "podman"),
        (".dockerenv", "", "docker"),
        ("proc/1/uid_map", "0 0 4294967295\n", ""),
        ("proc/1/uid_map", "0 1000 1\n", "a user namespace"),
        ("proc/1/ns/pid", "", "a PID namespace"),
    ],
)
def test_containers_are_recognised(fake: FakeHost, path: str, content: str, kind: str) -> None:
    """By the files of their managers, or by a namespace."""
    assert find_place(fake.paths).container == ""
    fake.put(path, content)
    assert find_place(fake.paths).container == kind


def test_a_file_left_behind_is_no_container(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host made from a container's image: PID 1 is the host's, and its files are these; in a container they are not."""
    fake.put(".dockerenv", "")
    monkeypatch.setattr(place, "_INITIAL_PID_NAMESPACE", fake.put("proc/1/ns/pid", "").stat().st_ino)
    (fake.root / "proc/1/root").mkdir()
    assert find_place(fake.paths).container == "docker"
    (fake.root / "proc/1/root").rmdir()
    (fake.root / "proc/1/root").symlink_to(fake.root)
    assert find_place(fake.paths).container == ""


@pytest.mark.parametrize(
    ("where", "verdict", "text"),
    [
        (ON_HOST, "good", "the initial network namespace"),
        (Place(initial=None), "unknown", "known once"),
        (Place(initial=False), "wrong", "not the initial network namespace: the limit can't be written here"),
        (Place(initial=False, writable=True), "wrong", "this kernel (before 5.12.2) lets it write the limit"),
        (Place(initial=False, container="lxc"), "wrong", "namespace (this is a container: lxc): the limit"),
    ],
)
def test_namespace(where: Place, verdict: str, text: str) -> None:
    """In another network namespace the limit is read-only or the host's; on the host all is well."""
    found = verdicts.namespace(where, guard_beside=None)
    assert found.verdict.value == verdict
    assert text in found.evidence


@pytest.mark.parametrize(
    ("number", "where", "is_here", "step"),
    [
        (errno.EACCES, Place(initial=False), True, "`nsenter -t 1 -n`"),
        (errno.EACCES, Place(initial=False, container="lxc"), True, "Run the guard on the host itself"),
        (errno.EROFS, replace(ON_HOST, container="docker"), True, "The container's /proc/sys is read-only: start it privileged"),
        (errno.EROFS, ON_HOST, True, "/proc/sys is mounted read-only here"),
        (errno.EROFS, ON_HOST, False, "ReadWritePaths=+/proc/sys/net/netfilter"),
        (errno.EACCES, ON_HOST, False, "ReadWritePaths=+/proc/sys/net/netfilter"),
    ],
)  # fmt: skip
def test_each_unwritable_limit_has_its_cure(number: int, where: Place, step: str, *, is_here: bool) -> None:
    """A container, a read-only mount and a unit's sandbox each have another one."""
    found = verdicts.unwritable("/limit", OSError(number, os.strerror(number)), where, is_here=is_here)
    assert found.verdict.value == "wrong"
    assert found.evidence.startswith(f"the guard can't write /limit: {os.strerror(number)}")
    assert step in found.next_step


@pytest.mark.parametrize(
    ("seen", "policy", "verdict", "text"),
    [
        # 576 × 262,144 + 16 × 262,144
        (host(table(10)), Policy(), "good", "576 × 262,144 + 4,194,304 = 155,189,248 (148 MiB) of a budget of 2.4 GiB"),
        # 1 GiB: 155,189,248 is more than a tenth; (107,374,182 − 4,194,304) ÷ 576 = 179,131.7
        (
            host(table(10), memory_total_bytes=GIB, memory_available_bytes=900 * MIB), Policy(), "wrong",
            "over the budget of 107,374,182 (102.4 MiB) -> 179,131 fits: `sysctl -w net.netfilter.nf_conntrack_max=179131`",
        ),
        # 576 × (262,144 − 10) = 150,989,184; (200 MiB − 107,374,182) ÷ 576 = 177,675.4, beside the 10 that exist
        (
            host(table(10), memory_total_bytes=GIB, memory_available_bytes=200 * MIB),
            Policy(budget=Share(fraction=0.5)), "wrong",
            "would leave 209,715,200 − 150,989,184 = 58,726,016 available, less than `min_available` (107,374,182) -> 177,685 fits",
        ),
        (
            host(table(10), memory_total_bytes=GIB, memory_available_bytes=20 * MIB),
            Policy(budget=Share(fraction=0.5)), "wrong", "20,971,520 − 150,989,184 = -130,017,664 available",
        ),
        (host(table(10), limit=None), Policy(), "unknown", "needs a limit"),
        (host(table(10), limit=0), Policy(), "unknown", "needs a limit"),
    ],
)  # fmt: skip
def test_a_limit_that_the_host_cannot_bear(seen: Observation, policy: Policy, verdict: str, text: str) -> None:
    """Whoever set it: the check has the sum, and the limit that fits."""
    found = verdicts.memory(seen, policy)
    assert found.verdict.value == verdict
    assert text in f"{found.evidence} -> {found.next_step}"


def test_memory_is_checked_on_the_host(fake: FakeHost) -> None:
    """Nobody but a person set this limit; 576 × 4,000,000 is over a tenth of 8 GiB."""
    assert fake.examine()["memory"].verdict.value == "good"
    fake.put(LIMIT, "4000000\n")
    assert "576 × 4,000,000 + 1,048,576 = 2,305,048,576" in fake.examine()["memory"].evidence


def test_what_cannot_be_read_is_named(fake: FakeHost) -> None:
    """A kernel without statistics files, a slab's leftovers that may be a namespace, and tables that the unit can't enter."""
    assert fake.examine()["figures"].verdict.value == "good"
    (fake.root / "proc/1/net/stat/nf_conntrack").unlink()
    fake.put("proc/sys/net/netfilter/nf_conntrack_count", "7\n")
    found = fake.examine()["figures"]
    assert found.verdict.value == "note"
    assert "CONFIG_NF_CONNTRACK_PROCFS" in found.evidence
    fake.put("proc/1/net/stat/nf_conntrack", "entries drop early_drop\n00000001 00000000 00000000\n")
    fake.put("sys/kernel/slab/nf_conntrack/total_objects", "98304 N0=98304\n")
    found = fake.examine()["figures"]
    assert "no process or name leads to" in found.evidence
    assert "ip netns attach" in found.next_step
    fake.put("sys/kernel/slab/nf_conntrack/objects", "392 N0=392\n")  # free objects that sheaves pin
    assert fake.examine()["figures"].verdict.value == "good"
    entered = host(table(3, source="statistics file, entered"), table(4, 2, source="sysctl, entered"))
    found = verdicts.figures(entered, as_root=True)
    assert "the guard can't enter 2 network namespaces as this command does" in found.evidence
