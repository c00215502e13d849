"""Other programs that may write the limit, found by their traces, and which of them changed it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from testbed.programs import IDENTITY, process, put

from conntrackd_guard.host.other_writers import attribute_change, other_writers
from conntrackd_guard.host.programs import sees_processes

SETS = "net.netfilter.nf_conntrack_max"
SEEN = 5_000.0
"""Seconds since boot at which the change was seen."""
LIMIT = 262_144


def evidence(root: Path) -> list[str]:
    """Return the evidence on a host with 8 cores, without the root of its tree."""
    return [writer.evidence.replace(str(root), "") for writer in other_writers(root, 8)]


def test_a_bare_host_has_none(tmp_path: Path) -> None:
    """Without traces, and without /proc, there is no writer."""
    assert other_writers(tmp_path, 8) == []
    assert not sees_processes(tmp_path)


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
    assert (writer.sets, writer.is_final) == ((1048576,), over)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_folder_that_cannot_be_read_hides_no_other_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk that fails below /etc raises nothing: what else is found is named."""
    put(tmp_path / "etc/tuned/active_profile", "mine\n")
    put(tmp_path / "etc/tuned/mine/tuned.conf", f"[sysctl]\n{SETS}=1048576\n")
    put(tmp_path / "etc/cron.d/x", f"{SETS}\n")
    put(tmp_path / "etc/rc.local", f"sysctl -w {SETS}=65536\n")
    real_stat, real_glob = os.stat, Path.glob

    def stat(path: Any, *args: Any, **more: Any) -> os.stat_result:
        if str(path).endswith("tuned.conf"):
            raise OSError(number, os.strerror(number), path)
        return real_stat(path, *args, **more)

    def glob(path: Path, pattern: str) -> Any:
        if "cron" in pattern:
            raise OSError(number, os.strerror(number), pattern)
        return real_glob(path, pattern)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(Path, "glob", glob)
    assert evidence(tmp_path) == [f"/etc/rc.local:1 mentions the limit: sysctl -w {SETS}=65536"]


def test_ufw(tmp_path: Path) -> None:
    """Ufw is reported if it is enabled and its sysctl file sets the limit."""
    put(tmp_path / "etc/default/ufw", 'IPT_SYSCTL="/etc/ufw/sysctl.conf"\n')
    put(tmp_path / "etc/ufw/sysctl.conf", "#x\nnet/netfilter/nf_conntrack_max=65536\n")
    put(tmp_path / "etc/ufw/ufw.conf", "ENABLED=no\n")
    assert other_writers(tmp_path, 8) == []
    put(tmp_path / "etc/ufw/ufw.conf", "ENABLED=yes\n")
    (writer,) = other_writers(tmp_path, 8)
    assert (writer.sets, writer.is_final, "/etc/ufw/sysctl.conf:2" in writer.evidence) == ((65536,), True, True)
    assert attribute_change(tmp_path, 65536, SEEN).text.startswith("ufw is enabled and sets 65536")
    assert attribute_change(tmp_path, 65537, SEEN).text == "unknown"


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


@pytest.mark.parametrize(
    ("started", "value", "named"),
    [
        (SEEN - 3, LIMIT, True),
        (SEEN - 29, LIMIT, True),
        (SEEN - 31, LIMIT, False),  # too long ago
        (SEEN + 30, LIMIT, False),  # started after the change
        (SEEN - 3, LIMIT + (os.cpu_count() or 1), False),  # sets another value
    ],
)
def test_a_program_is_named_on_time_and_value(tmp_path: Path, started: float, value: int, *, named: bool) -> None:
    """A program is named only if it started just before the change and sets this value."""
    cores = os.cpu_count() or 1
    process(tmp_path, "kube-proxy", f"--conntrack-max-per-core={value // cores}", "--conntrack-min=1", started=started)
    found = attribute_change(tmp_path, LIMIT, SEEN).text
    assert ("kube-proxy is running (pid 701)" in found) is named
    assert (found == "unknown") is not named


def test_a_sysctl_file_is_named_on_its_value(tmp_path: Path) -> None:
    """A sysctl file with the value is named with its line; our own file and one with another value are not."""
    folder = tmp_path / "etc/sysctl.d"
    folder.mkdir(parents=True)
    (folder / "50-old.conf").write_text("net.netfilter.nf_conntrack_max = 1\n")
    (folder / "99-zz-conntrackd-guard.conf").write_text(f"net.netfilter.nf_conntrack_max = {LIMIT}\n")
    assert attribute_change(tmp_path, LIMIT, SEEN).text == "unknown"
    (folder / "90-net\x1b[2J.conf").write_text(f"# ours\nnet.nf_conntrack_max={LIMIT}\n")
    assert (
        attribute_change(tmp_path, LIMIT, SEEN).text == f"{tmp_path}/etc/sysctl.d/90-net\\x1b[2J.conf:2 has this value"
    )


def test_nothing_found_is_unknown(tmp_path: Path) -> None:
    """An empty tree gives no evidence."""
    assert attribute_change(tmp_path, LIMIT, SEEN).text == "unknown"


PVE_HOST, PVE_CLUSTER = "etc/pve/local/host.fw", "etc/pve/firewall/cluster.fw"
MAX = "nf_conntrack_max:"
ON = {PVE_CLUSTER: "[OPTIONS]\nenable: 1\n"}


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, "(pid 900) and sets 262,144 (65,536 in old versions) every 10 s, and 65,536 buckets with it if the"),
        (ON, "every 10 s, and 65,536 buckets with it"),
        ({PVE_CLUSTER: "[OPTIONS]\nenable: 0\n"}, None),
        ({PVE_CLUSTER: "[RULES]\nenable: 1\n"}, None),
        (ON | {PVE_HOST: f"[OPTIONS]\n\n{MAX} 300000\n[RULES]\n{MAX} 5\n"}, "sets 303,104 every 10 s, and 75,776"),
        (ON | {PVE_HOST: "[OPTIONS]\nnf_conntrack_max: 100000\n"}, "sets 262,144 (106,496 in old versions)"),
        (ON | {PVE_HOST: "[OPTIONS]\nnf_conntrack_max: ٣\n"}, "sets 262,144 (65,536"),
        (ON | {PVE_HOST: "[OPTIONS]\nnftables: 1\n"}, None),
        (ON | {PVE_HOST: f"[OPTIONS]\nnftables: 1\n{MAX} 300000\n"}, "proxmox-firewall is running (pid 901) and sets 300,000"),
    ],
)  # fmt: skip
def test_proxmox(tmp_path: Path, files: dict[str, str], text: str | None) -> None:
    """The daemon that is in charge is named, with the limit of the node's options."""
    process(tmp_path, "pve-firewall", "pve-firewall", pid=900)
    process(tmp_path, "proxmox-firewal", "/usr/libexec/proxmox/proxmox-firewall", "start", pid=901)
    for path, content in files.items():
        put(tmp_path / path, content)
    found = evidence(tmp_path)
    assert len(found) == (text is not None)
    assert text is None or text in found[0]


def test_a_periodic_writer_is_named_however_long_it_runs(tmp_path: Path) -> None:
    """Limit or buckets have to be those that it sets, and it has to run."""
    process(tmp_path, "pve-firewall", "pve-firewall", pid=900)
    assert "pve-firewall" in attribute_change(tmp_path, 262_144, SEEN, was=300_000).text
    assert attribute_change(tmp_path, 262_143, SEEN, was=300_000).text == "unknown"
    assert "pve-firewall" in attribute_change(tmp_path, 300_000, SEEN, buckets=65_536).text
    assert attribute_change(tmp_path, 262_144, SEEN, buckets=65_537).text == "unknown"
    process(tmp_path, "pve-firewall", "pve-firewall", pid=900, started=SEEN + 30)
    assert attribute_change(tmp_path, 262_144, SEEN, was=300_000).text == "unknown"


def test_a_sysctl_line_for_the_buckets_is_named(tmp_path: Path) -> None:
    """A line with the number of buckets, for a change of the buckets alone."""
    put(tmp_path / "etc/sysctl.d/x.conf", f"{SETS} = 5\nnet.netfilter.nf_conntrack_buckets = 4096\n")
    assert attribute_change(tmp_path, 5, SEEN, buckets=4096).text == f"{tmp_path}/etc/sysctl.d/x.conf:2 has this value"
    assert attribute_change(tmp_path, 5, SEEN, buckets=4097).text == "unknown"


@pytest.mark.parametrize("readable", [True, False])
def test_tuned_on_openshift(tmp_path: Path, *, readable: bool) -> None:
    """It runs in a pod with files of its own; where they can't be read, both possibilities are given."""
    folder = process(tmp_path, "tuned", "/usr/bin/python3", "/usr/sbin/tuned", started=SEEN - 3)
    put(tmp_path / "etc/tuned/active_profile", "hosts-own\n")
    if readable:
        put(folder / "root/etc/tuned/active_profile", "openshift-node\n")
        put(folder / "root/usr/lib/tuned/openshift-node/tuned.conf", "[main]\ninclude=openshift\n")
        profile = f"[main]\ninclude=${{f:x:y}}\n[net]\nnf_conntrack_hashsize=1048576\n[sysctl]\n{SETS}=1048576\n"
        put(folder / "root/usr/lib/tuned/openshift/tuned.conf", profile)
    (writer,) = other_writers(tmp_path, 8)
    assert (writer.sets, writer.buckets) == ((1_048_576,), (1_048_576,))
    assert ("tuned (pid 701, profile openshift) sets 1048576" in writer.evidence) is readable
    assert ("`openshift` sets 1,048,576 and as many buckets" in writer.evidence) is not readable
    assert "tuned" in attribute_change(tmp_path, 1_048_576, SEEN, was=2_000_000).text
    assert "tuned" in attribute_change(tmp_path, 5, SEEN, buckets=1_048_576).text


def test_calico(tmp_path: Path) -> None:
    """`calicoctl node run` sets a constant before it starts its container; the same image in a pod sets nothing."""
    process(tmp_path, "calico-node", started=SEEN - 900)
    assert evidence(tmp_path) == []
    process(tmp_path, "calico-node", started=SEEN - 900, cgroup=f"/docker/{IDENTITY}")
    (found,) = evidence(tmp_path)
    assert "calico-node is running (pid 701): `calicoctl node run` sets 1,000,000" in found
    assert attribute_change(tmp_path, 1_000_000, SEEN, was=2_000_000).text == "unknown"
    unit = "/system.slice/calicoctl.service"
    process(tmp_path, "calicoctl", "calicoctl", "node", "run", pid=702, started=SEEN - 1, cgroup=unit)
    assert "calicoctl is running (pid 702)" in attribute_change(tmp_path, 1_000_000, SEEN, was=2_000_000).text
