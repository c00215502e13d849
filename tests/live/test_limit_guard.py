"""Tests that lower the limit restore it in every case."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from testbed import bystanders, limit_guard
from testbed.limit_guard import LimitGuard, RefusedError
from testbed.private_world import eventually
from testbed.scratch_namespace import ScratchNamespace
from testbed.stage import limit

pytestmark = pytest.mark.live

LOWER_AND_DIE = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from testbed.limit_guard import LimitGuard
guard = LimitGuard()
guard.set_limit(guard.saved_limit - 1)
print(guard.saved_limit, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_limit_is_restored_when_everything_else_is_killed() -> None:
    """SIGKILL of the process that lowered the limit: the separate process restores it."""
    folder = str(Path(limit_guard.__file__).parents[1])
    command = ["/usr/bin/python3", "-c", LOWER_AND_DIE, folder]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=600)
    assert run.returncode == -signal.SIGKILL
    with LimitGuard() as guard:  # takes the lock only after the other one has finished
        assert guard.saved_limit == int(run.stdout)


def test_another_namespace_with_entries_ends_the_test() -> None:
    """An entry in a foreign namespace restores the limit at once; lowering it again is refused."""
    with LimitGuard() as guard, ScratchNamespace() as foreign:
        guard.set_limit(guard.saved_limit - 1)
        foreign.fill(1)
        eventually(lambda: limit() == guard.saved_limit, "the limit from before")
        with pytest.raises(RefusedError, match="holds 1 conntrack entries"):
            guard.set_limit(guard.saved_limit - 1)


def test_nothing_is_lowered_while_another_namespace_holds_entries() -> None:
    """The check also comes before the first write."""
    with LimitGuard() as guard, ScratchNamespace() as foreign:
        foreign.fill(1)
        with pytest.raises(RefusedError, match="holds 1 conntrack entries"):
            guard.set_limit(guard.saved_limit - 1)
        assert limit() == guard.saved_limit
        guard.own(foreign.number)
        guard.set_limit(guard.saved_limit - 1)
        assert limit() == guard.saved_limit - 1


def test_entries_of_a_namespace_that_only_a_socket_keeps_are_detected() -> None:
    """No process and no mount leads to it, but more entries are allocated than the reachable namespaces hold."""
    with LimitGuard() as guard, ScratchNamespace() as foreign:
        foreign.fill(1000 * (os.cpu_count() or 1))
        if bystanders._allocated() <= 0:
            pytest.skip("this kernel does not tell what it has allocated")
        assert foreign._holder.stdin is not None
        foreign._holder.stdin.close()
        foreign._holder.wait()
        with pytest.raises(RefusedError, match="in no network namespace that can be found"):
            guard.set_limit(guard.saved_limit - 1)
        assert limit() == guard.saved_limit


def test_entries_of_an_ended_namespace_are_waited_for() -> None:
    """The kernel empties the table of an ended namespace a little later, which must not block a test."""
    with LimitGuard() as guard:
        with ScratchNamespace() as ended:
            ended.fill(20_000)
        guard.set_limit(guard.saved_limit - 1)
        assert limit() == guard.saved_limit - 1
