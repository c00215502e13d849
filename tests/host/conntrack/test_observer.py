"""When the watch scans for namespaces that it doesn't know, and which tables it reads."""

from __future__ import annotations

import os

import pytest
from testbed.guarded import LIMIT, Host, ManualClock

from conntrackd_guard.host.conntrack import observer as module
from conntrackd_guard.host.conntrack import owner_helper
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner
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
    tables, _ = observer.watch(LIMIT, attentive=True)
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


@pytest.fixture
def scan_seconds() -> float:
    """Return what a scan takes."""
    return 1.0


@pytest.fixture
def scans(clock: ManualClock, scan_seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the times of scans from now on."""
    began: list[float] = []
    scan = NamespaceScanner.scan

    def slow(scanner: NamespaceScanner) -> object:
        began.append(clock.now)
        clock.now += scan_seconds
        return scan(scanner)

    monkeypatch.setattr(NamespaceScanner, "scan", slow)
    return began


def test_scans_of_a_crowd_rest_between(host: Host, observer: Observer, clock: ManualClock, scans: list[float]) -> None:
    """Whatever calls for one: names that come and go, or memory that no known table explains."""
    names = host.root / "run/netns"
    for look in range(1_000):
        (names / str(look)).mkdir(parents=True)
        if look % 100 == 0:
            host.namespace(str(1_000 + look), LIMIT // 5)
        clock.now += 1.0
        observer.watch(LIMIT, attentive=True)
    assert len(scans) >= 4
    assert len(scans) - 1 <= module.SCAN_SHARE * (clock.now - scans[0])


def test_a_decision_scans_at_any_time(host: Host, observer: Observer, clock: ManualClock, scans: list[float]) -> None:
    """A message about an unknown namespace waits for no rest."""
    (host.root / "run/netns/web").mkdir(parents=True)
    counts(observer, clock)
    host.namespace("301", 10)
    number = (host.root / "proc/301/ns/net").stat().st_ino
    assert number in {table.namespace for table in observer.observe(namespaces=(number,)).tables}
    assert len(scans) == 2


@pytest.mark.parametrize("scan_seconds", [0.0])
def test_a_new_name_is_a_reason_to_scan(host: Host, observer: Observer, clock: ManualClock, scans: list[float]) -> None:
    """So is one that goes; nothing else is before a minute is over."""
    names = host.root / "run/netns"
    names.mkdir(parents=True)
    for change in ((names / "web").mkdir, (names / "web").rmdir):
        counts(observer, clock)
        found = len(scans)
        counts(observer, clock)
        assert len(scans) == found
        change()
        counts(observer, clock)
        assert len(scans) == found + 1


def test_the_sum_of_entries_follows_every_reading(host: Host, observer: Observer, clock: ManualClock) -> None:
    """Also where a table ends, comes, or can't be read."""
    assert observer.entries() == LIMIT
    host.namespace("301", 70)
    host.table(9, pid="200")
    observer.observe(rescan=True)
    assert observer.entries() == LIMIT + 79
    host.end("300", memory_is_kept=False)
    counts(observer, clock)
    assert observer.entries() == 79
    host.table(4, pid="301")
    observer.observe()
    assert observer.entries() == 13
    observer.rescan()
    assert observer.entries() == 13


def test_every_table_has_its_turn_in_a_crowd(
    host: Host, observer: Observer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fullest is read at each tick, the others in turn, however rarely they are sorted."""
    monkeypatch.setattr(module, "_TABLES_SORTED", 10)
    for pid in range(400, 440):
        host.namespace(str(pid), pid)
    observer.observe(rescan=True)
    read: set[int] = set()
    for _ in range(2 * (42 // 8 + 1)):
        clock.now += 0.25
        tables, _ = observer.watch(LIMIT, attentive=True)
        assert len(tables) <= 16
        assert max(table.count for table in tables) == LIMIT
        read |= {table.namespace for table in tables}
    assert len(read) == 43


def test_a_crowd_of_new_tables_hides_no_full_one(host: Host, observer: Observer, clock: ManualClock) -> None:
    """Any user can create thousands of namespaces: the fullest known one is read at each tick all the same."""
    for pid in range(400, 500):
        host.namespace(str(pid), 1)
    clock.now += RESCAN_SECONDS
    read: set[int] = set()
    for _ in range(2 * (100 // 8 + 1)):
        clock.now += 0.25
        tables, _ = observer.watch(LIMIT, attentive=True)
        assert max(table.count for table in tables) == LIMIT
        read |= {table.namespace for table in tables}
    assert len(read) >= 101


def test_full_tables_of_users_take_not_all_places_of_the_fullest(
    host: Host, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's fullest table is read at each tick, however many of users are fuller."""
    for pid in range(400, 440):
        host.namespace(str(pid), LIMIT * 79 // 100 - pid)
    host.table(LIMIT * 60 // 100)

    def owned(descriptor: int) -> bool:
        return int(os.readlink(f"/proc/self/fd/{descriptor}").split("/proc/")[1].split("/")[0]) >= 400

    monkeypatch.setattr(owner_helper, "_user_owned", owned)
    paths = Paths(host.root)
    observer = Observer(paths, LiveKernel(paths), clock, RuntimeDir(paths))
    observer.observe(rescan=True)
    for _ in range(8):
        clock.now += 0.25
        tables, _ = observer.watch(LIMIT, attentive=True)
        assert host.initial in {table.namespace for table in tables}
