"""Settings belong to whoever runs the tests; a host with a container of a user."""

from __future__ import annotations

import os

import pytest
from testbed.guarded import Host
from testbed.overridden import settings_of_whoever_tests

from conntrackd_guard.host.conntrack import owner_helper

__all__ = ["settings_of_whoever_tests"]


@pytest.fixture
def rootless(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Give a host whose container belongs to a user namespace."""
    # Not by its inode: the next file may get the same one, as the next namespace may in a kernel.
    monkeypatch.setattr(owner_helper, "_user_owned", lambda at: "/200/" in os.readlink(f"/proc/self/fd/{at}"))
    return host
