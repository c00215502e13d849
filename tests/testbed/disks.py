"""Histories on disks that refuse or stall."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.history.database import History
from testbed.guarded import BARRIER_SECONDS

ADD = History.add


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Give a history that refuses every row while the event is set."""
    refuses = threading.Event()

    def add(self: History, *args: Any, **more: Any) -> int:
        if refuses.is_set():
            raise HostError("write a decision to", self.path, OSError(28, "No space left on device"), "Free space.")
        return ADD(self, *args, **more)

    monkeypatch.setattr(History, "add", add)
    return refuses


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Give a history whose `add` returns only once the event is set."""
    returns = threading.Event()

    def add(self: History, *args: Any, **more: Any) -> int:
        assert returns.wait(BARRIER_SECONDS)
        return ADD(self, *args, **more)

    monkeypatch.setattr(History, "add", add)
    yield returns
    returns.set()


def until(holds: Callable[[], object]) -> None:
    """Wait until `holds()`, in real time."""
    deadline = time.monotonic() + BARRIER_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
