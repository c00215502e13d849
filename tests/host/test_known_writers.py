"""Who else may write the limit, by what they leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conntrackd_guard.host.other_writers import other_writers, sees_processes

SETS = "net.netfilter.nf_conntrack_max"


def put(path: Path, content: str) -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def evidence(root: Path) -> list[str]:
    """Return what is told of a host with 8 cores, without the root of its tree."""
    return [writer.evidence.replace(str(root), "") for writer in other_writers(root, 8)]


def test_a_bare_host_has_none(tmp_path: Path) -> None:
    """Nothing found is nothing told, also without /proc."""
    assert other_writers(tmp_path, 8) == []
    assert not sees_processes(tmp_path)


@pytest.mark.parametrize(
    ("name", "command", "says"),
    [
        ("kube-proxy", "--v=2", "sets 262,144 at each start, unless its configuration says otherwise"),
        ("kube-proxy", "--conntrack-max-per-core=65536", "sets 524,288 at each start, by its flags"),
        ("kube-proxy", "--conntrack-max-per-core=1\0--conntrack-min\x00900000", "sets 900,000 at each start"),
        ("kube-proxy", "--conntrack-max-per-core=many", "sets 262,144"),
        ("k3s-server", "server", "k3s-server runs (process 812) and sets 262,144"),
    ],
)
def test_kube_proxy(tmp_path: Path, name: str, command: str, says: str) -> None:
    """A running kube-proxy is told with what it sets, from its flags or its defaults."""
    put(tmp_path / "proc/812/comm", f"{name}\n")
    put(tmp_path / "proc/812/cmdline", f"/usr/bin/{name}\0{command}\0")
    put(tmp_path / "proc/813/comm", "kube-proxies\n")
    (told,) = evidence(tmp_path)
    assert says in told


def test_a_kube_proxy_that_leaves_the_limit_alone(tmp_path: Path) -> None:
    """DecisionDetail by its flags to set nothing, it is no other writer."""
    put(tmp_path / "proc/812/comm", "kube-proxy\n")
    put(tmp_path / "proc/812/cmdline", "kube-proxy\0--conntrack-max-per-core\x000\0")
    assert evidence(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a process away: foreign processes were NOT tried")
def test_a_foreign_process_is_no_kube_proxy(tmp_path: Path) -> None:
    """Any user may call a process kube-proxy; only root's could write the limit."""
    put(tmp_path / "proc/812/comm", "kube-proxy\n")
    assert len(evidence(tmp_path)) == 1
    os.chown(tmp_path / "proc/812", 65534, 65534)
    assert evidence(tmp_path) == []


@pytest.mark.parametrize(
    ("main", "over"), [("", False), ("reapply_sysctl = 1\n", False), ("#x\nreapply_sysctl=0\n", True)]
)
def test_tuned(tmp_path: Path, main: str, over: bool) -> None:  # noqa: FBT001
    """The active profile and what it includes are read; only without reapply_sysctl does its value stay."""
    put(tmp_path / "etc/tuned/active_profile", "mine ../../escape\n")
    put(tmp_path / "etc/tuned/tuned-main.conf", main)
    put(tmp_path / "etc/tuned/mine/tuned.conf", "[main]\ninclude=mine, base\n[sysctl]\nvm.swappiness=1\n")
    put(tmp_path / "usr/lib/tuned/base/tuned.conf", f"[sysctl]\n{SETS}=1048576\n")
    put(tmp_path / "usr/lib/tuned/other/tuned.conf", f"[sysctl]\n{SETS}=5\n")
    (writer,) = other_writers(tmp_path, 8)
    assert "tuned's profile base (not running now) sets 1048576" in writer.evidence
    assert f"{tmp_path}/usr/lib/tuned/base/tuned.conf:2" in writer.evidence
    assert writer.number == (1048576 if over else None)


def test_ufw(tmp_path: Path) -> None:
    """Ufw applies its own sysctl file at each start, once it is enabled."""
    put(tmp_path / "etc/default/ufw", 'IPT_SYSCTL="/etc/ufw/sysctl.conf"\n')
    put(tmp_path / "etc/ufw/sysctl.conf", "#x\nnet/netfilter/nf_conntrack_max=65536\n")
    put(tmp_path / "etc/ufw/ufw.conf", "ENABLED=no\n")
    assert other_writers(tmp_path, 8) == []
    put(tmp_path / "etc/ufw/ufw.conf", "ENABLED=yes\n")
    (writer,) = other_writers(tmp_path, 8)
    assert (writer.number, "/etc/ufw/sysctl.conf:2" in writer.evidence) == (65536, True)


def test_scripts(tmp_path: Path) -> None:
    """Start scripts, rules and timetables that name the limit are told, comments and the guard's own files are not."""
    put(tmp_path / "etc/rc.local", f"#!/bin/sh\n# {SETS}\nsysctl -w {SETS}=65536\nsysctl -w {SETS}=5\n")
    put(tmp_path / "etc/modprobe.d/x.conf", f"install nf_conntrack sysctl {SETS}=9\n")
    put(tmp_path / "etc/modprobe.d/x.conf.bak", f"install nf_conntrack sysctl {SETS}=9\n")
    put(tmp_path / "etc/udev/rules.d/60-conntrackd-guard.rules", f"{SETS}\n")
    assert evidence(tmp_path) == [
        f"/etc/rc.local:3 names it: sysctl -w {SETS}=65536",
        f"/etc/modprobe.d/x.conf:1 names it: install nf_conntrack sysctl {SETS}=9",
    ]
