"""Notifications to the service manager."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from conntrackd_guard.host.systemd_notify import Service


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's socket."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(0)
        yield listener


def received(manager: socket.socket) -> list[str]:
    """Return all messages so far."""
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_the_states_of_a_service_are_sent(manager: socket.socket) -> None:
    """Ready, a reload with its time, and the end."""
    service = Service()
    service.ready()
    service.reloading()
    service.stopping()
    ready, reloading, stopping = received(manager)
    assert (ready, stopping) == ("READY=1", "STOPPING=1")
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")


def test_status_is_sent_when_it_changes_and_can_forge_no_message(manager: socket.socket) -> None:
    """A newline in text from outside does not begin another message."""
    service = Service()
    service.status("limit 65,536")
    service.status("limit 65,536")
    service.status("paused by x\nSTOPPING=1")
    assert received(manager) == ["STATUS=limit 65,536", r"STATUS=paused by x\nSTOPPING=1"]


def test_the_watchdog_is_notified_at_a_third_of_its_interval(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One may be missed, and not every turn sends one; the watchdog of another process is ignored."""
    now = [1000.0]
    monkeypatch.setattr("conntrackd_guard.host.systemd_notify.time.monotonic", lambda: now[0])
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    service = Service()
    for _ in range(25):
        service.watchdog()
        now[0] += 0.1
    assert received(manager) == ["WATCHDOG=1"] * 3
    monkeypatch.setenv("WATCHDOG_PID", "1")
    Service().watchdog()
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("WATCHDOG_USEC", "0")
    Service().watchdog()
    assert received(manager) == []


def test_without_a_manager_or_with_one_gone_nothing_happens(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the foreground there is no manager; a socket that vanished is no error."""
    service = Service()
    Path(os.environ["NOTIFY_SOCKET"]).unlink()
    service.ready()
    monkeypatch.delenv("NOTIFY_SOCKET")
    Service().ready()
    assert received(manager) == []


@pytest.mark.parametrize(("microseconds", "seconds"), [("", 30.0), ("9000000", 9.0)])
def test_the_main_loop_counts_as_alive_for_the_watchdogs_time(
    monkeypatch: pytest.MonkeyPatch, microseconds: str, seconds: float
) -> None:
    """From the last report on; without a watchdog, for the time that the unit's has."""
    now = [1000.0]
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    service = Service()
    for _ in range(2):
        now[0] += seconds - 0.1
        assert service.alive()
        service.watchdog()
    now[0] += seconds
    assert not service.alive()
