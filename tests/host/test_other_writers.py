"""Other programs that may write the limit, found by their traces, and which of them changed it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conntrackd_guard.host.other_writers import attribute_change, other_writers, sees_processes

SETS = "net.netfilter.nf_conntrack_max"
TICKS = os.sysconf("SC_CLK_TCK")
SEEN = 5_000.0
"""Seconds since boot at which the change was seen."""
LIMIT = 262_144


def put(path: Path, content: str) -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def evidence(root: Path) -> list[str]:
    """Return the evidence on a host with 8 cores, without the root of its tree."""
    return [writer.evidence.replace(str(root), "") for writer in other_writers(root, 8)]


def test_a_bare_host_has_none(tmp_path: Path) -> None:
    """Without traces, and without /proc, there is no writer."""
    assert other_writers(tmp_path, 8) == []
    assert not sees_processes(tmp_path)


@pytest.mark.parametrize(
    ("name", "command", "text"),
    [
        ("kube-proxy", "--v=2", "sets 262,144 at each start, unless its configuration overrides that"),
        ("kube-proxy", "--conntrack-max-per-core=65536", "sets 524,288 at each start, by its flags"),
        ("kube-proxy", "--conntrack-max-per-core=1\0--conntrack-min\x00900000", "sets 900,000 at each start"),
        ("kube-proxy", "--conntrack-max-per-core=many", "sets 262,144"),
        ("k3s-server", "server", "k3s-server is running (pid 812) and sets 262,144"),
    ],
)
def test_kube_proxy(tmp_path: Path, name: str, command: str, text: str) -> None:
    """A running kube-proxy is reported with the value from its flags or its defaults."""
    put(tmp_path / "proc/812/comm", f"{name}\n")
    put(tmp_path / "proc/812/cmdline", f"/usr/bin/{name}\0{command}\0")
    put(tmp_path / "proc/813/comm", "kube-proxies\n")
    (found,) = evidence(tmp_path)
    assert text in found


def test_a_kube_proxy_that_leaves_the_limit_alone(tmp_path: Path) -> None:
    """A kube-proxy whose flags disable setting the limit is not reported."""
    put(tmp_path / "proc/812/comm", "kube-proxy\n")
    put(tmp_path / "proc/812/cmdline", "kube-proxy\0--conntrack-max-per-core\x000\0")
    assert evidence(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change an owner: other users' processes were NOT tried")
def test_a_kube_proxy_of_another_user_is_ignored(tmp_path: Path) -> None:
    """Any user may call a process kube-proxy; only root's could write the limit."""
    put(tmp_path / "proc/812/comm", "kube-proxy\n")
    assert len(evidence(tmp_path)) == 1
    os.chown(tmp_path / "proc/812", 65534, 65534)
    assert evidence(tmp_path) == []


@pytest.mark.parametrize(
    ("main", "over"), [("", False), ("reapply_sysctl = 1\n", False), ("#x\nreapply_sysctl=0\n", True)]
)
def test_tuned(tmp_path: Path, main: str, over: bool) -> None:  # noqa: FBT001
    """The active profile and its includes are read; without reapply_sysctl the profile's value is final."""
    put(tmp_path / "etc/tuned/active_profile", "mine ../../escape\n")
    put(tmp_path / "etc/tuned/tuned-main.conf", main)
    put(tmp_path / "etc/tuned/mine/tuned.conf", "[main]\ninclude=mine, base\n[sysctl]\nvm.swappiness=1\n")
    put(tmp_path / "usr/lib/tuned/base/tuned.conf", f"[sysctl]\n{SETS}=1048576\n")
    put(tmp_path / "usr/lib/tuned/other/tuned.conf", f"[sysctl]\n{SETS}=5\n")
    (writer,) = other_writers(tmp_path, 8)
    assert "tuned (not running, profile base) sets 1048576" in writer.evidence
    assert f"{tmp_path}/usr/lib/tuned/base/tuned.conf:2" in writer.evidence
    assert writer.number == (1048576 if over else None)


def test_ufw(tmp_path: Path) -> None:
    """Ufw is reported if it is enabled and its sysctl file sets the limit."""
    put(tmp_path / "etc/default/ufw", 'IPT_SYSCTL="/etc/ufw/sysctl.conf"\n')
    put(tmp_path / "etc/ufw/sysctl.conf", "#x\nnet/netfilter/nf_conntrack_max=65536\n")
    put(tmp_path / "etc/ufw/ufw.conf", "ENABLED=no\n")
    assert other_writers(tmp_path, 8) == []
    put(tmp_path / "etc/ufw/ufw.conf", "ENABLED=yes\n")
    (writer,) = other_writers(tmp_path, 8)
    assert (writer.number, "/etc/ufw/sysctl.conf:2" in writer.evidence) == (65536, True)


def test_scripts(tmp_path: Path) -> None:
    """Start scripts, rules and crontabs that mention the limit are reported; comments and the guard's own files are not."""
    put(tmp_path / "etc/rc.local", f"#!/bin/sh\n# {SETS}\nsysctl -w {SETS}=65536\nsysctl -w {SETS}=5\n")
    put(tmp_path / "etc/modprobe.d/x.conf", f"install nf_conntrack sysctl {SETS}=9\n")
    put(tmp_path / "etc/modprobe.d/x.conf.bak", f"install nf_conntrack sysctl {SETS}=9\n")
    put(tmp_path / "etc/udev/rules.d/60-conntrackd-guard.rules", f"{SETS}\n")
    assert evidence(tmp_path) == [
        f"/etc/rc.local:3 mentions the limit: sysctl -w {SETS}=65536",
        f"/etc/modprobe.d/x.conf:1 mentions the limit: install nf_conntrack sysctl {SETS}=9",
    ]


def kube_proxy(root: Path, started: float, per_core: int) -> None:
    """Create a kube-proxy process with that start time and that many entries per core."""
    folder = root / "proc/812"
    folder.mkdir(parents=True)
    (folder / "comm").write_text("kube-proxy\n")
    (folder / "cmdline").write_text(f"kube-proxy\0--conntrack-max-per-core={per_core}\0--conntrack-min=1\0")
    (folder / "stat").write_text(f"812 (kube) proxy) S {' '.join('0' * 18)} {int(started * TICKS)} 0 0\n")


@pytest.mark.parametrize(
    ("started", "value", "named"),
    [
        (SEEN - 3, LIMIT, True),
        (SEEN - 59, LIMIT, True),
        (SEEN - 61, LIMIT, False),  # too long ago
        (SEEN + 30, LIMIT, False),  # started after the change
        (SEEN - 3, LIMIT + (os.cpu_count() or 1), False),  # sets another value
    ],
)
def test_a_program_is_named_on_time_and_value(tmp_path: Path, started: float, value: int, *, named: bool) -> None:
    """A program is named only if it started just before the change and sets this value."""
    cores = os.cpu_count() or 1
    kube_proxy(tmp_path, started, value // cores)
    found = attribute_change(tmp_path, LIMIT, SEEN)
    assert ("kube-proxy is running (pid 812)" in found) is named
    assert (found == "unknown") is not named


def test_a_sysctl_file_is_named_on_its_value(tmp_path: Path) -> None:
    """A sysctl file with the value is named with its line; our own file and one with another value are not."""
    folder = tmp_path / "etc/sysctl.d"
    folder.mkdir(parents=True)
    (folder / "50-old.conf").write_text("net.netfilter.nf_conntrack_max = 1\n")
    (folder / "99-zz-conntrackd-guard.conf").write_text(f"net.netfilter.nf_conntrack_max = {LIMIT}\n")
    assert attribute_change(tmp_path, LIMIT, SEEN) == "unknown"
    (folder / "90-net\x1b[2J.conf").write_text(f"# ours\nnet.nf_conntrack_max={LIMIT}\n")
    assert attribute_change(tmp_path, LIMIT, SEEN) == f"{tmp_path}/etc/sysctl.d/90-net\\x1b[2J.conf:2 has this value"


def test_nothing_found_is_unknown(tmp_path: Path) -> None:
    """An empty tree gives no evidence."""
    assert attribute_change(tmp_path, LIMIT, SEEN) == "unknown"
