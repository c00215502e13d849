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
    assert (writer.sets, writer.is_final) == ((1048576,), over)


def test_ufw(tmp_path: Path) -> None:
    """Ufw is reported if it is enabled and its sysctl file sets the limit."""
    put(tmp_path / "etc/default/ufw", 'IPT_SYSCTL="/etc/ufw/sysctl.conf"\n')
    put(tmp_path / "etc/ufw/sysctl.conf", "#x\nnet/netfilter/nf_conntrack_max=65536\n")
    put(tmp_path / "etc/ufw/ufw.conf", "ENABLED=no\n")
    assert other_writers(tmp_path, 8) == []
    put(tmp_path / "etc/ufw/ufw.conf", "ENABLED=yes\n")
    (writer,) = other_writers(tmp_path, 8)
    assert (writer.sets, writer.is_final, "/etc/ufw/sysctl.conf:2" in writer.evidence) == ((65536,), True, True)
    assert attribute_change(tmp_path, 65536, SEEN).startswith("ufw is enabled and sets 65536")
    assert attribute_change(tmp_path, 65537, SEEN) == "unknown"


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


MANY = 2_097_152 // 8
"""Entries per core with which 8 cores make 2,097,152."""
IDENTITY = "0123456789abcdef" * 4
TASKS = "run/containerd/io.containerd.runtime.v2.task/k8s.io"


def process(root: Path, name: str, *words: str, pid: int = 701, started: float = 1.0) -> None:
    """Make a running process of root with this command line."""
    put(root / f"proc/{pid}/comm", f"{name}\n")
    put(root / f"proc/{pid}/cmdline", "".join(f"{word}\0" for word in words))
    put(root / f"proc/{pid}/stat", f"{pid} ({name}) S {' '.join('0' * 18)} {int(started * TICKS)} 0 0\n")


@pytest.mark.parametrize(
    ("name", "words", "files"),
    [
        ("kube-proxy", ["--conntrack-max-per-core=0"], {}),
        ("kube-proxy", ["--conntrack-max-per-core", "0"], {}),
        ("kube-proxy", ["--config=/k/config.conf"], {"proc/701/root/k/config.conf": "conntrack:\n  maxPerCore: 0\n  min: 9\n"}),
        ("kube-proxy", ["--config", "/c"], {"proc/701/root/c": '{"conntrack": {"maxPerCore": 0}}'}),
        ("k3s-server", ["server", "--kube-proxy-arg=conntrack-max-per-core=0"], {}),
        ("k3s-agent", ["agent", "--kube-proxy-arg", "conntrack-max-per-core=0"], {}),
        ("k3s-server", ["server"], {"etc/rancher/k3s/config.yaml": "kube-proxy-arg:\n  - conntrack-max-per-core=0\n"}),
        ("k3s-server", ["server"], {"etc/rancher/k3s/config.yaml.d/9.yaml": 'kube-proxy-arg+: ["conntrack-max-per-core=0"]\n'}),
        ("k3s-server", ["server", "--disable-kube-proxy"], {}),
        ("k3s-server", ["server"], {"etc/rancher/k3s/config.yaml": "disable-kube-proxy: true\n"}),
        ("kubelite", ["kubelite"], {"var/snap/microk8s/current/args/kube-proxy": "--x=1\n--conntrack-max-per-core=0\n"}),
    ],
)  # fmt: skip
def test_a_kube_proxy_that_is_switched_off(tmp_path: Path, name: str, words: list[str], files: dict[str, str]) -> None:
    """Wherever that is set, it is no writer."""
    process(tmp_path, name, name, *words)
    for path, content in files.items():
        put(tmp_path / path, content)
    assert evidence(tmp_path) == []


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("kube-proxy-arg:\n  - conntrack-max-per-core=7\n  - conntrack-min=900000\n", "sets 900,000 at each start, by its flags"),
        ("#  - conntrack-max-per-core=0\ndisable-kube-proxy: false\n", "sets 262,144 at each start, unless its configuration"),
        ("kube-proxy-arg: [conntrack-max-per-core=many]\n", "sets 262,144"),
    ],
)  # fmt: skip
def test_a_configured_k3s(tmp_path: Path, config: str, text: str) -> None:
    """Its file counts like its flags; comments don't, and what is no number doesn't."""
    put(tmp_path / "etc/rancher/k3s/config.yaml", config)
    process(tmp_path, "k3s-server", "k3s", "server")
    (found,) = evidence(tmp_path)
    assert text in found


@pytest.mark.parametrize(
    ("image", "sets", "lowers", "text"),
    [
        ("", (2_097_152, 1_048_576), True, "sets 2,097,152 (1,048,576 from version 1.36 on) at each start"),
        ("registry.k8s.io/kube-proxy:v1.28.15", (2_097_152,), False, "kube-proxy 1.28 is running (pid 701) and sets 2,097,152"),
        ("registry.k8s.io/kube-proxy:v1.29.0", (2_097_152,), True, "it lowers a higher limit"),
        ("registry.k8s.io/kube-proxy:v1.36.2", (1_048_576,), True, "sets 1,048,576 at each start"),
        ("registry.k8s.io/kube-proxy:v1.38.0", (1_048_576,), False, "it leaves a higher limit alone"),
        ("registry.k8s.io/kube-proxy:v1.19.3", (2_097_152,), True, "it lowers"),
        ("registry.k8s.io/kube-proxy@sha256:00", (2_097_152, 1_048_576), True, "versions 1.29 to 1.37 lower"),
    ],
)  # fmt: skip
def test_kube_proxy_by_its_version(
    tmp_path: Path, image: str, sets: tuple[int, ...], text: str, *, lowers: bool
) -> None:
    """Its container's image shows the version, and that the cap and whether it lowers."""
    process(tmp_path, "kube-proxy", "kube-proxy", f"--conntrack-max-per-core={MANY}")
    put(tmp_path / "proc/701/cgroup", f"0::/kubepods.slice/cri-containerd-{IDENTITY}.scope\n")
    put(tmp_path / TASKS / IDENTITY / "config.json", f'{{"annotations":{{"io.kubernetes.cri.image-name":"{image}"}}}}')
    (writer,) = other_writers(tmp_path, 8)
    assert (writer.sets, writer.lowers) == (sets, lowers)
    assert text in writer.evidence


def test_microk8s_by_its_snap(tmp_path: Path) -> None:
    """Kubelite's version is that of its snap."""
    process(tmp_path, "kubelite", "kubelite")
    put(tmp_path / "snap/microk8s/current/meta/snap.yaml", "name: microk8s\nversion: v1.28.3\n")
    (found,) = evidence(tmp_path)
    assert found.startswith("kubelite 1.28 is running")


def test_a_kube_proxy_that_never_lowers_is_not_blamed(tmp_path: Path) -> None:
    """It sets that value over a lower one only."""
    cores = os.cpu_count() or 1
    process(
        tmp_path,
        "kube-proxy",
        "kube-proxy",
        f"--conntrack-max-per-core={LIMIT // cores}",
        "--conntrack-min=1",
        started=SEEN,
    )
    put(tmp_path / "proc/701/cgroup", f"0::/{IDENTITY}\n")
    put(tmp_path / TASKS / IDENTITY / "config.json", '"io.kubernetes.cri.image-name":"x/kube-proxy:v1.25.1"')
    assert attribute_change(tmp_path, LIMIT, SEEN, was=2 * LIMIT) == "unknown"
    assert "kube-proxy 1.25" in attribute_change(tmp_path, LIMIT, SEEN, was=LIMIT // 2)


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
    assert "pve-firewall" in attribute_change(tmp_path, 262_144, SEEN, was=300_000)
    assert attribute_change(tmp_path, 262_143, SEEN, was=300_000) == "unknown"
    assert "pve-firewall" in attribute_change(tmp_path, 300_000, SEEN, buckets=65_536)
    assert attribute_change(tmp_path, 262_144, SEEN, buckets=65_537) == "unknown"
    process(tmp_path, "pve-firewall", "pve-firewall", pid=900, started=SEEN + 30)
    assert attribute_change(tmp_path, 262_144, SEEN, was=300_000) == "unknown"


def test_a_sysctl_line_for_the_buckets_is_named(tmp_path: Path) -> None:
    """A line with the number of buckets, for a change of the buckets alone."""
    put(tmp_path / "etc/sysctl.d/x.conf", f"{SETS} = 5\nnet.netfilter.nf_conntrack_buckets = 4096\n")
    assert attribute_change(tmp_path, 5, SEEN, buckets=4096) == f"{tmp_path}/etc/sysctl.d/x.conf:2 has this value"
    assert attribute_change(tmp_path, 5, SEEN, buckets=4097) == "unknown"
