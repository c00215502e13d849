"""A guard that raised once, for tests of overrides."""

from __future__ import annotations

import errno
import os

import pytest

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.history.database import History
from conntrackd_guard.settings import files
from testbed.guarded import Guarded, Host

STEP = 98_304
"""65,536 × 1.5."""


@pytest.fixture(name="guarded")
def a_guard_that_raised(host: Host) -> Guarded:
    """Give a guard that raised once, to STEP, and has an empty table since."""
    guarded = Guarded(host)
    fill_and_turn(guarded)
    host.table(10)
    guarded.written()
    return guarded


def fill_and_turn(guarded: Guarded) -> None:
    """Fill the table, and have the guard answer the message about it."""
    guarded.host.table(guarded.host.limit)
    guarded.message()
    guarded.turn(5.0)
    guarded.written()


def refuse_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the disk under the history."""

    def full(*_: object, **__: object) -> int:
        raise HostError("write a decision to", "history.db", OSError(errno.ENOSPC, "disk is full"), "Free space.")

    monkeypatch.setattr(History, "add", full)


@pytest.fixture(autouse=True)
def settings_of_whoever_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings belong to root on a host, and here to whoever runs the tests."""
    monkeypatch.setattr(files, "_ROOT", os.geteuid())
