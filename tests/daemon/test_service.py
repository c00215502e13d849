"""The daemon's reload: what takes effect at once, and what waits for a restart."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest
from testbed.read_files import put

from conntrackd_guard.core.configuration import LOOPBACK, Listen, Mode, Policy
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.model import PersistedLimit
from conntrackd_guard.core.sysctl_precedence import Assignment, Tool
from conntrackd_guard.daemon import service
from conntrackd_guard.daemon.service import Daemon
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import Overriding
from conntrackd_guard.recording.metrics_exporter import Outlets
from conntrackd_guard.settings import files
from conntrackd_guard.settings.files import load_settings
from conntrackd_guard.settings.keys import Settings

Reload = Callable[..., tuple[list[tuple[str, str]], Policy | None]]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's socket."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(0)
        yield listener


class Started:
    """A daemon on a tree, built with the settings in its `guard.yaml` and not yet running."""

    def __init__(self, root: Path, *, dry_run: bool = False) -> None:
        self.paths = Paths(root, Mode.DRY_RUN if dry_run else Mode.ACT)
        self._dry_run = dry_run
        self._log = io.StringIO()
        (root / "run").mkdir()
        self.paths.settings_file.parent.mkdir(parents=True, exist_ok=True)
        self.write("")
        self.daemon = Daemon(self.paths, self.settings(), self.settings, Log("json", self._log))

    def write(self, text: str) -> None:
        """Change the settings."""
        self.paths.settings_file.write_text(text + "\n")
        self.paths.settings_file.chmod(0o644)

    def settings(self) -> Settings:
        """Return the settings as `guard run` reads them."""
        settings = load_settings(self.paths.settings_file, self.paths.settings_folder)
        return replace(settings, mode=Mode.DRY_RUN) if self._dry_run else settings

    def logged(self) -> list[tuple[str, str]]:
        """End the recorder; return what was logged, as (level, message)."""
        assert self.daemon._recorder.close(5)
        lines = map(json.loads, self._log.getvalue().splitlines())
        return [(line["level"], line["message"]) for line in lines]


@pytest.fixture(autouse=True)
def without_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handlers of the process that runs the tests stay; settings belong to whoever runs them."""
    monkeypatch.setattr(service, "Signals", SimpleNamespace)
    monkeypatch.setattr(files, "_ROOT", os.geteuid())


@pytest.mark.parametrize(
    ("changed", "dry_run", "waits"),
    [
        ("budget: 5%", False, ""),
        ("persist: false", False, "`persist`"),
        (
            "mode: dry-run\nhistory_retention: 30d",
            False,
            "`mode`, `history_retention`",
        ),
        ("mode: dry-run", True, ""),
    ],
)
def test_a_reload_names_what_waits_for_a_restart(
    tmp_path: Path, manager: socket.socket, changed: str, waits: str, *, dry_run: bool
) -> None:
    """The policy is in force at once; the log names the settings that are not. The service manager sees the reload."""
    started = Started(tmp_path, dry_run=dry_run)
    started.write(changed)
    assert started.daemon.reload() == started.settings().policy
    after = f" Changed too, but in effect only after `systemctl restart conntrackd-guard`: {waits}." if waits else ""
    assert started.logged() == [("info", f"Settings reloaded.{after}")]
    assert [manager.recv(100).partition(b"=")[0] for _ in range(2)] == [b"RELOADING", b"READY"]


def test_a_reload_of_bad_settings_keeps_the_old_ones(tmp_path: Path, manager: socket.socket) -> None:
    """The error is logged with its file and line, and the policy stays."""
    started = Started(tmp_path)
    started.write("persist: perhaps")
    assert started.daemon.reload() is None
    ((level, message),) = started.logged()
    assert level == "error"
    assert "the old ones stay in effect" in message
    assert "guard.yaml:1: persist" in message
    assert [manager.recv(100).partition(b"=")[0] for _ in range(2)] == [b"RELOADING", b"READY"]


def test_a_reload_turns_notify_on_and_off(tmp_path: Path) -> None:
    """The setting is in effect from `systemctl reload` on; bad settings keep the old value."""
    started, found = Started(tmp_path), []
    for text in ("notify: /bin/x", "notify: x", "notify: none"):
        started.write(text)
        started.daemon.reload()
        found.append(started.daemon._worker.notices is not None)
    assert found == [True, True, False]
    started.logged()


@pytest.mark.parametrize("dry_run", [False, True])
def test_destinations_come_from_settings(tmp_path: Path, *, dry_run: bool) -> None:
    """There are none by default, and in a dry run only the endpoint, which a pod's probes need."""
    started = Started(tmp_path, dry_run=dry_run)
    worker = started.daemon._worker
    assert started.logged() == []
    assert (worker.notices, worker.outlets) == (None, Outlets())
    started.write("metrics_file: /var/x/guard.prom\nmetrics_http: 9786\nnotify: /bin/x")
    started.daemon._configure_worker(started.settings())
    assert worker.outlets == Outlets(file=None if dry_run else Path("/var/x/guard.prom"), http=Listen(LOOPBACK, 9786))
    assert (worker.notices is None) == dry_run


def test_an_address_beyond_loopback_is_warned_of_once(tmp_path: Path) -> None:
    """Not at each reload; another such address is another warning."""
    started = Started(tmp_path)
    for text in ("9786", "0.0.0.0:9786", "0.0.0.0:9786", "[::1]:9786", "'[::]:9786'"):
        started.write(f"metrics_http: {text}")
        started.daemon.reload()
    warned = [message for event, message in started.logged() if "`metrics_http` listens on" in message]
    assert [message.split(": whoever")[0] for message in warned] == [
        "`metrics_http` listens on 0.0.0.0:9786", "`metrics_http` listens on [::]:9786"
    ]  # fmt: skip


def test_the_farewell_names_the_limit_that_stays() -> None:
    """And whether the next boot begins with it."""
    kept = PersistedLimit(limit=12_288)
    other = partial(Overriding, "limit", 12_288, Assignment(path="/etc/sysctl.d/k8s.conf", line=2, value="7"))
    stays = "Stopped. nf_conntrack_max stays at"
    assert service._farewell(12_288, kept, []) == f"{stays} 12,288 (saved for the next boot)."
    assert service._farewell(12_288, kept, [other([Tool.PROCPS])]) == f"{stays} 12,288 (saved for the next boot)."
    overridden = f"{stays} 12,288 (saved, but /etc/sysctl.d/k8s.conf:2 overrides the limit at the next boot)."
    assert service._farewell(12_288, kept, [other([Tool.SYSTEMD])]) == overridden
    assert service._farewell(16_384, kept, [other([Tool.SYSTEMD])]) == f"{stays} 16,384."
    assert service._farewell(None, None, []) == "Stopped."


def test_a_start_waits_for_a_limit_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged once with its file, and the next good reading ends it; nothing is recovered before."""
    put(tmp_path, "proc/sys/kernel/random/boot_id", b"boot-1\n")
    put(tmp_path, "proc/sys/net/netfilter/nf_conntrack_max", b"\xff\n")
    started = Started(tmp_path)
    started.daemon._signals = cast("service.Signals", SimpleNamespace(descriptor=0, take=frozenset))
    waits: list[float] = []

    def select(
        _read: object, _write: object, _errors: object, seconds: float
    ) -> tuple[list[int], list[int], list[int]]:
        waits.append(seconds)
        if len(waits) == 2:
            put(tmp_path, "proc/sys/net/netfilter/nf_conntrack_max", b"65536\n")
        return [], [], []

    monkeypatch.setattr(service, "select", SimpleNamespace(select=select))
    begun = started.daemon._begin()
    assert begun is not None
    begun[0].log_sources.close()
    started.daemon._recorder.close(10.0)
    logged = [line for line in map(json.loads, started._log.getvalue().splitlines()) if line["event"] == "guard.error"]
    assert (len(waits), len(logged)) == (2, 1)
    assert f"Can't read {tmp_path}/proc/sys/net/netfilter/nf_conntrack_max" in logged[0]["message"]


def test_a_start_that_waits_can_be_stopped(tmp_path: Path) -> None:
    """A signal ends it at once."""
    put(tmp_path, "proc/sys/kernel/random/boot_id", b"boot-1\n")
    put(tmp_path, "proc/sys/net/netfilter/nf_conntrack_max", b"\n")
    started = Started(tmp_path)
    readable, writable = os.pipe()
    os.write(writable, b"x")
    signals = SimpleNamespace(descriptor=readable, take=lambda: frozenset({"stop"}))
    started.daemon._signals = cast("service.Signals", signals)
    assert started.daemon.run()


@pytest.mark.usefixtures("manager")
def test_an_error_at_the_end_keeps_nothing_from_being_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder is closed, and the log has why it does not name the limit that stays."""
    started = Started(tmp_path)
    failing = HostError("read", "the limit", OSError(23, "Too many open files in system"), "Retry.")

    def fail() -> NoReturn:
        raise failing

    parts = SimpleNamespace(log_sources=SimpleNamespace(close=fail))
    monkeypatch.setattr(service.Daemon, "_begin", lambda _: (parts, SimpleNamespace(run=lambda *_: None)))
    monkeypatch.setattr(started.daemon, "_signals", SimpleNamespace(descriptor=0))
    monkeypatch.setattr("gc.freeze", lambda: None)  # of this process
    monkeypatch.setattr("sys.setswitchinterval", lambda _: None)
    assert started.daemon.run()
    assert started.logged() == [("warning", f"Stopped: {failing}")]
