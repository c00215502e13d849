"""When the watch scans for namespaces that it doesn't know."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Host, ManualClock

from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.observer import RESCAN_SECONDS, Observer
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that only the test moves."""
    return ManualClock()


@pytest.fixture
def observer(host: Host, clock: ManualClock) -> Observer:
    """Give an observer that has seen a full table of process 300."""
    paths = Paths(host.root)
    observer = Observer(paths, LiveKernel(paths), clock, RuntimeDir(paths))
    host.namespace("300", LIMIT)
    counts(observer, clock)
    return observer


def counts(observer: Observer, clock: ManualClock) -> list[int]:
    """Let a tick pass, far from the next regular scan; return the counts of the tables that hold anything."""
    clock.now += RESCAN_SECONDS / 100
    tables, _ = observer.watch(attentive=True)
    return [table.count for table in tables if table.count]


def test_a_table_in_the_memory_of_one_that_is_gone(host: Host, observer: Observer, clock: ManualClock) -> None:
    """A namespace ends and another one fills between two looks: together they take no more memory than before."""
    host.end("300", memory_is_kept=False)
    host.namespace("301", LIMIT - 1)
    assert counts(observer, clock) == [LIMIT - 1]


def test_a_table_after_the_memory_was_given_back(host: Host, observer: Observer, clock: ManualClock) -> None:
    """The kernel gives memory back later than a scan that found the namespace gone: that memory explains no new table."""
    host.end("300", memory_is_kept=True)
    assert counts(observer, clock) == []
    host.end("300", memory_is_kept=False)
    assert counts(observer, clock) == []
    host.namespace("301", LIMIT - 1)
    assert counts(observer, clock) == [LIMIT - 1]


def test_before_the_module_is_loaded_nothing_is_missing(host: Host, clock: ManualClock) -> None:
    """No table and no slab cache exists until then, and both are read once it is."""
    folders = [host.root / path for path in ("proc/sys/net/netfilter", "sys/kernel/slab/nf_conntrack")]
    folders += [host.root / f"proc/{pid}/net/stat/nf_conntrack" for pid in (1, 200)]
    for path in folders:
        path.rename(path.with_suffix(".later"))
    paths = Paths(host.root)
    observer = Observer(paths, LiveKernel(paths), clock, RuntimeDir(paths))
    assert observer.observe().unread == observer.unread == ()
    for path in folders:
        path.with_suffix(".later").rename(path)
    seen = observer.observe()
    assert (seen.unread, seen.complete, len(seen.tables) + seen.idle_tables) == ((), True, 2)
