"""Our own tests harm nobody: the limit they lower comes back in every case."""

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
keeper = LimitGuard()
keeper.set_limit(keeper.saved_limit - 1)
print(keeper.saved_limit, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_limit_comes_back_when_everything_else_is_killed() -> None:
    """SIGKILL of the process that lowered the limit: the keeper puts it back."""
    folder = str(Path(limit_guard.__file__).parents[1])
    command = ["/usr/bin/python3", "-c", LOWER_AND_DIE, folder]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=600)
    assert run.returncode == -signal.SIGKILL
    with LimitGuard() as keeper:  # it has the lock only when the other one has finished
        assert keeper.saved_limit == int(run.stdout)


def test_another_namespace_that_tracks_ends_the_loan() -> None:
    """An entry in any namespace but our own puts the limit back at once, and it can't be lowered again."""
    with LimitGuard() as keeper, ScratchNamespace() as foreign:
        keeper.set_limit(keeper.saved_limit - 1)
        foreign.fill(1)
        eventually(lambda: limit() == keeper.saved_limit, "the limit from before")
        with pytest.raises(RefusedError, match="holds 1 conntrack entries"):
            keeper.set_limit(keeper.saved_limit - 1)


def test_nothing_is_lowered_while_another_namespace_holds_entries() -> None:
    """The check comes before the first write too."""
    with LimitGuard() as keeper, ScratchNamespace() as foreign:
        foreign.fill(1)
        with pytest.raises(RefusedError, match="holds 1 conntrack entries"):
            keeper.set_limit(keeper.saved_limit - 1)
        assert limit() == keeper.saved_limit
        keeper.own(foreign.number)
        keeper.set_limit(keeper.saved_limit - 1)
        assert limit() == keeper.saved_limit - 1


def test_entries_in_a_namespace_that_only_a_socket_keeps_are_noticed() -> None:
    """It has no process and no mount to be found by, but what it holds is more than the namespaces in reach account for."""
    with LimitGuard() as keeper, ScratchNamespace() as foreign:
        foreign.fill(1000 * (os.cpu_count() or 1))
        if bystanders._allocated() <= 0:
            pytest.skip("this kernel does not tell what it has allocated")
        assert foreign._holder.stdin is not None
        foreign._holder.stdin.close()
        foreign._holder.wait()
        with pytest.raises(RefusedError, match="in no network namespace that can be found"):
            keeper.set_limit(keeper.saved_limit - 1)
        assert limit() == keeper.saved_limit


def test_entries_that_end_with_their_namespace_are_waited_for() -> None:
    """The kernel empties the table of a namespace that has ended a little later: that hinders nobody."""
    with LimitGuard() as keeper:
        with ScratchNamespace() as ended:
            ended.fill(20_000)
        keeper.set_limit(keeper.saved_limit - 1)
        assert limit() == keeper.saved_limit - 1
