"""The limit that a kube-proxy sets, by its version and settings, and whether it lowers a higher one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from testbed.programs import IDENTITY, POD, TASKS, process, put

from conntrackd_guard.host.other_writers import Cause, attribute_change, other_writers

SEEN = 5_000.0
"""Seconds since boot at which the change was seen."""
LIMIT = 262_144
MANY = 2_097_152 // 8
"""Entries per core with which 8 cores make 2,097,152."""


def evidence(root: Path) -> list[str]:
    """Return the evidence on a host with 8 cores."""
    return [writer.evidence for writer in other_writers(root, 8)]


@pytest.mark.parametrize(
    ("name", "command", "text"),
    [
        ("kube-proxy", "--v=2", "sets 262,144 at each start, unless its configuration overrides that"),
        ("kube-proxy", "--conntrack-max-per-core=65536", "sets 524,288 at each start, by its flags"),
        ("kube-proxy", "--conntrack-max-per-core=1\0--conntrack-min\x00900000", "sets 900,000 at each start"),
        ("kube-proxy", "--conntrack-max-per-core=many", "sets 262,144"),
        ("k3s-server", "server", "k3s-server is running (pid 701) and sets 262,144"),
    ],
)
def test_kube_proxy(tmp_path: Path, name: str, command: str, text: str) -> None:
    """A running kube-proxy is reported with the value from its flags or its defaults."""
    process(tmp_path, name, f"/usr/bin/{name}", *command.split("\0"))
    process(tmp_path, "kube-proxies", pid=813)
    (found,) = evidence(tmp_path)
    assert text in found


def test_a_kube_proxy_that_leaves_the_limit_alone(tmp_path: Path) -> None:
    """A kube-proxy whose flags disable setting the limit is not reported."""
    process(tmp_path, "kube-proxy", "kube-proxy", "--conntrack-max-per-core", "0")
    assert evidence(tmp_path) == []


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
        ("k3s-server", ["server", "--disable-agent"], {}),
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
    put(tmp_path / TASKS / IDENTITY / "config.json", '"io.kubernetes.cri.image-name":"x/kube-proxy:v1.25.1"')
    assert attribute_change(tmp_path, LIMIT, SEEN, was=2 * LIMIT).text == "unknown"
    assert "kube-proxy 1.25" in attribute_change(tmp_path, LIMIT, SEEN, was=LIMIT // 2).text


@pytest.mark.parametrize("readable", [True, False])
def test_a_pods_configuration_without_the_right_to_enter_it(tmp_path: Path, *, readable: bool) -> None:
    """Kubelet's own copy has the same; where that is hidden too, both possibilities are given."""
    process(tmp_path, "kube-proxy", "kube-proxy", "--config=/var/lib/kube-proxy/config.conf")
    if readable:
        volume = f"var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~configmap/kube-proxy"
        put(tmp_path / volume / "config.conf", "conntrack:\n  maxPerCore: 100000\n  min: null\n")
    (found,) = evidence(tmp_path)
    assert ("sets 800,000 at each start, by its configuration" in found) is readable
    assert ("sets 262,144 at each start, unless its configuration overrides that" in found) is not readable


@pytest.mark.parametrize(
    ("version", "started", "limit", "was", "restart"),
    [
        ("1.31", SEEN - 3, LIMIT, 2 * LIMIT, True),
        ("", SEEN - 29, LIMIT, 2 * LIMIT, True),
        ("1.31", SEEN - 31, LIMIT, 2 * LIMIT, False),  # long ago
        ("1.31", SEEN + 3, LIMIT, 2 * LIMIT, False),  # started after the write
        ("1.31", SEEN - 3, LIMIT + 1, 2 * LIMIT, False),  # sets another value
        ("1.31", SEEN - 3, LIMIT, LIMIT // 2, False),  # raised
        ("1.28", SEEN - 3, LIMIT, 2 * LIMIT, False),  # never lowers
        ("1.38", SEEN - 3, LIMIT, 2 * LIMIT, False),
        ("1.37", SEEN - 3, LIMIT, 2 * LIMIT, True),
    ],
)
def test_a_restart(tmp_path: Path, version: str, started: float, limit: int, was: int, *, restart: bool) -> None:  # noqa: PLR0913
    """A lowering within 30 s of its start, to the value that its version and flags give for this host."""
    per_core = LIMIT // (os.cpu_count() or 1)
    process(
        tmp_path, "kube-proxy", "x", f"--conntrack-max-per-core={per_core}", f"--conntrack-min={LIMIT}", started=started
    )
    if version:
        put(tmp_path / TASKS / IDENTITY / "config.json", f'"io.kubernetes.cri.image-name":"x/kube-proxy:v{version}.1"')
    found = attribute_change(tmp_path, limit, SEEN, was=was)
    assert found.is_restart is restart
    assert restart or was < limit or found == Cause("unknown")


def test_other_programs_do_not_restart(tmp_path: Path) -> None:
    """pve-firewall's own value, every 10 s, is a fight."""
    process(tmp_path, "pve-firewall", cgroup="/system.slice/pve-firewall.service", started=SEEN - 3)
    found = attribute_change(tmp_path, LIMIT, SEEN, was=2 * LIMIT)
    assert "pve-firewall" in found.text
    assert not found.is_restart
