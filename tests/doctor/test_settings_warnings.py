"""Settings that are valid, but switch the guard off or can't work."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from conntrackd_guard.doctor.settings_warnings import warnings
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.settings.settings import Entry, read_settings

LIMIT = 262_144


@pytest.fixture(name="paths")
def a_host(tmp_path: Path) -> Paths:
    """A host with 4 GiB and a limit of 262,144."""
    contents = {
        "proc/meminfo": "MemTotal: 4194304 kB\nMemAvailable: 1048576 kB\n",
        "proc/sys/net/netfilter/nf_conntrack_max": f"{LIMIT}\n",
        "proc/sys/net/netfilter/nf_conntrack_buckets": f"{LIMIT}\n",
        "sys/kernel/slab/nf_conntrack/slab_size": "256\n",
        "page": "",
        "page-on-call": "",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "page-on-call").chmod(0o755)
    (tmp_path / "g.prom").mkdir()
    return Paths(tmp_path)


def found(paths: Paths, text: str) -> list[str]:
    """Return the warnings for the lines of a settings file."""
    lines = text.format(root=paths.root).splitlines()
    pairs = [line.partition(": ")[::2] for line in lines]
    return warnings(read_settings(Entry(place=f"f:{n}", key=k, value=v) for n, (k, v) in enumerate(pairs, 1)), paths)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_limit: 262143", "f:1: max_limit: 262,143 is not above the limit in force (262,144): nothing is raised."),
        (
            "min_limit: 300001\nmax_limit: 300000",
            "f:1: min_limit: 300,001 is above max_limit (300,000), which bounds it.",
        ),
        ("min_limit: 900000", "f:1: min_limit: 900,000 is more than this host can bear: budget allows "),
        ("max_limit: 262144", "f:1: max_limit: 262,144 is not above the limit in force (262,144): nothing is raised."),
        (
            "on_flood: raise_to 100000",
            "f:1: on_flood: raise_to 100,000 is not above the limit in force (262,144): it does",
        ),
        (
            "budget: 3GiB\nmin_available: 2GiB",
            "f:2: min_available: budget (3 GiB) and min_available (2 GiB) are more than this host's 4 GiB",
        ),
        (
            "budget: 90%\nmin_available: 11%",
            "f:2: min_available: budget (3.6 GiB) and min_available (450.6 MiB) are more than this host's 4 GiB:",
        ),
        (
            "budget: 10MiB",
            "f:1: budget: allows 10,922 entries on this host, and the limit in force is 262,144: nothing is raised.",
        ),
        (
            "min_available: 4000MiB",
            "f:1: min_available: allows 174,762 entries on this host, and the limit in force is 262,144:",
        ),
        ("notify: {root}/gone --now", "f:1: notify: {root}/gone does not exist: nobody is notified."),
        ("notify: {root}/page/x", "f:1: notify: {root}/page/x does not exist: nobody is notified."),
        ("notify: {root}/page", "f:1: notify: {root}/page is no executable file: nobody is notified."),
        ("notify: {root}", "f:1: notify: {root} is no executable file: nobody is notified."),
        ("metrics_file: {root}/gone/g.prom", "f:1: metrics_file: {root}/gone does not exist: no metrics are written."),
        ("metrics_file: {root}/page/g.prom", "f:1: metrics_file: {root}/page is no folder: no metrics are written."),
        ("metrics_file: {root}/g.prom", "f:1: metrics_file: {root}/g.prom is a folder: no metrics are written."),
        ("mode: dry-run\nnotify: /bin/true", "f:2: notify: has no effect in mode dry-run."),
    ],
)
def test_a_setting_that_switches_off_or_cannot_work_is_named(paths: Paths, text: str, expected: str) -> None:
    """Each with its place and its effect."""
    expected = expected.format(root=paths.root)
    assert [warning for warning in found(paths, text) if warning.startswith(expected)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "raise_early: false",
        "max_limit: 262145",
        "min_limit: 300000\nmax_limit: 300000",
        "on_flood: raise_to 300000",
        "on_flood: hold",
        "budget: 2GiB\nmin_available: 1GiB",
        "notify: {root}/page-on-call --now",
        "metrics_file: {root}/other.prom",
        "mode: dry-run",
    ],
)
def test_settings_that_work_give_no_warning(paths: Paths, text: str) -> None:
    """Neither the defaults nor unusual ones."""
    assert found(paths, text) == []


def test_a_port_that_another_program_has(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless that is the running guard."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        server.listen()
        text = f"f:1: metrics_http: another program listens on port {port}: metrics can't be served. Set another one."
        assert found(paths, f"metrics_http: {port}") == [text]
        with monkeypatch.context() as running:
            running.setattr(RuntimeDir, "is_running", lambda _: True)
            assert found(paths, f"metrics_http: {port}") == []
    assert found(paths, f"metrics_http: {port}") == []


def test_facts_that_cannot_be_read_give_no_warning(tmp_path: Path) -> None:
    """In a chroot or as another user only what the settings say by themselves counts."""
    assert found(Paths(tmp_path), "budget: 1MiB\nmin_available: 90%\nmax_limit: 1") == []
