"""Tables that can't be read: how many are charged as full, and how the observer names them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from testbed.guarded import LIMIT, Host

from conntrackd_guard.core import budget
from conntrackd_guard.core.assessment import assess
from conntrackd_guard.core.configuration import Policy, Share
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Corroboration,
    Hold,
    MessageKind,
    Observation,
    Raise,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack import owner_helper, stat_netlink
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

SLAB = "sys/kernel/slab/nf_conntrack"
MESSAGE = Trigger(kind=TriggerKind.KERNEL_MESSAGE, message_kind=MessageKind.TABLE_FULL, message_count=1)


def observer(host: Host) -> Observer:
    """Return an observer of that host."""
    paths = Paths(host.root)
    return Observer(paths, LiveKernel(paths), Clock(), RuntimeDir(paths))


def observe(host: Host) -> Observation:
    """Look twice: the second look knows every namespace from the first."""
    eyes = observer(host)
    eyes.observe(rescan=True)
    return eyes.observe()


def without_statistics(host: Host, count: int) -> None:
    """Take the statistics files away, as a kernel without CONFIG_NF_CONNTRACK_PROCFS, and show the initial count."""
    for file in host.root.glob("proc/*/net/stat/nf_conntrack"):
        file.unlink()
    (host.root / "proc/sys/net/netfilter/nf_conntrack_count").write_text(f"{count}\n")


def put(host: Host, name: str, number: int) -> None:
    """Write a figure of the slab cache."""
    (host.root / SLAB / name).write_text(f"{number} N0={number}\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with a container."""
    return Host(tmp_path)


def test_without_statistics_files(host: Host) -> None:
    """The initial namespace's count is known, the container's table is charged, and one text says both."""
    without_statistics(host, 60_000)
    eyes = observer(host)
    eyes.observe(rescan=True)
    seen = eyes.observe()
    assert [(table.initial, table.count, table.dropped) for table in seen.tables] == [(True, 60_000, None)]
    assert (seen.has_statistics, seen.complete, seen.unread_tables) == (False, False, 1)
    (text,) = seen.unread
    assert text == (
        "this kernel has no /proc/net/stat/nf_conntrack (CONFIG_NF_CONNTRACK_PROCFS): drops can't be read, "
        "and the tables of a network namespace can't be read: counted as 1 full table"
    )
    assert eyes.unread == ()  # the guard is healthy: this lasts as long as the kernel


def test_a_statistics_file_without_figures_is_not_missing(host: Host) -> None:
    """The kernel has it, so an operator can find out what is wrong: it is no lasting lack."""
    (host.root / "proc/sys/net/netfilter/nf_conntrack_count").write_text("500\n")
    (host.root / "proc/1/net/stat/nf_conntrack").write_text("entries drop early_drop\n")
    eyes = observer(host)
    eyes.observe(rescan=True)
    seen = eyes.observe()
    assert (seen.has_statistics, seen.unread_tables, [table.count for table in seen.tables]) == (True, 0, [500])
    (text,) = seen.unread
    assert text.endswith("proc/self/net/stat/nf_conntrack has no valid figures: drops can't be read")
    assert eyes.unread == seen.unread


def test_drops_over_netlink(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where netlink answers, they are not missing."""
    without_statistics(host, 60_000)
    answer = stat_netlink.Statistics(limit=LIMIT, drop=7)
    monkeypatch.setattr(stat_netlink, "read_statistics", lambda: answer)
    (text,) = observe(host).unread
    assert "(CONFIG_NF_CONNTRACK_PROCFS): drops are read over netlink, and the tables of a network namespace" in text


def test_an_unread_table_is_charged_in_every_sum(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirmed raise, an unconfirmed one, the highest limit, the limit in force and the status all count it."""
    monkeypatch.setattr(owner_helper, "_user_owned", lambda _: False)
    without_statistics(host, LIMIT)
    seen = observe(host)
    confirmed = decide(MESSAGE, seen, State(), Policy())
    assert isinstance(confirmed, Raise)
    assert confirmed.corroboration is Corroboration.CONFIRMED
    assert (confirmed.arithmetic.full_tables, confirmed.arithmetic.unread_tables) == (2, 1)
    assert confirmed.arithmetic.charged_entries == 2 * confirmed.target
    filling = Trigger(kind=TriggerKind.FILLING_UP, namespace=seen.tables[0].namespace)
    assert assess(filling, seen, Policy()).charges.full == 2
    highest, full = budget.highest_affordable(seen, Policy()), budget.at_limit(seen, Policy())
    assert highest is not None
    assert full is not None
    assert (highest.full_tables, full[0].full_tables) == (2, 2)
    each, arrays = 576, 16 * host.buckets
    assert budget.cost_of(seen, Policy()).full_bytes == each * 2 * LIMIT + arrays
    host.table(10)
    without_statistics(host, 10)
    unknown = decide(MESSAGE, observe(host), State(), Policy())
    assert isinstance(unknown, Raise)
    assert unknown.corroboration is Corroboration.UNKNOWN
    assert unknown.arithmetic.full_tables == 1  # the message may be about it


@pytest.mark.parametrize(
    ("hidden", "charged"),
    [(-500, 1), (0, 1), (1, 2), (LIMIT // 2, 2), (LIMIT // 2 + 1, 3), (2 * LIMIT, 5), (50 * LIMIT, 21), (None, 21)],
)
def test_the_slab_bounds_the_charge(host: Host, hidden: int | None, charged: int) -> None:
    """Of 21 tables that can't be read, one is charged, and as many as twice the entries that no other holds could fill."""
    for pid in range(201, 221):
        host.namespace(str(pid), 0)
    without_statistics(host, 1_000)
    if hidden is None:
        (host.root / SLAB / "total_objects").unlink()
    else:
        for name in ("objects", "total_objects"):
            put(host, name, 1_000 + hidden)
    seen = observe(host)
    assert seen.unread_tables == charged
    assert f"of 21 network namespaces can't be read: counted as {charged} full table" in seen.unread[-1]


@pytest.mark.parametrize(
    ("objects", "capacity", "hidden"),
    [
        (392, 28, 0),  # measured on 7.3, 4 processors: all but these are free objects in slabs that sheaves pin
        (1_193, 28, 0),  # full sheaves of 2 memory nodes: (10 × 2 + 2 × 4) × 28 = 784, and 10 % of 4,096 = 409.6
        (1_194, 28, 410),
        (5_680, 1_000_000, 5_680),  # impossible, so not believed
        (5_680, -28, 5_680),
        (3_000, None, 3_000),  # fragments, before there were sheaves
        (None, None, 5_680),
    ],
)
def test_leftovers_are_no_hidden_namespace(
    host: Host, monkeypatch: pytest.MonkeyPatch, objects: int | None, capacity: int | None, hidden: int
) -> None:
    """5,680 objects stay allocated on a host whose limit is 4,096: only used ones may be in another namespace."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    host.limit = 4_096
    put(host, "total_objects", 5_680)
    for name in ("node0", "node1", "possible"):
        (host.root / "sys/devices/system/node" / name).mkdir(parents=True)
    (host.root / SLAB / "objects").unlink()
    if objects is not None:
        put(host, "objects", objects)
    if capacity is not None:
        put(host, "sheaf_capacity", capacity)
    seen = observe(host)
    is_full = hidden >= 0.9 * 4_096  # a message without a number may be about it
    assert (seen.complete, seen.unread_tables, seen.hidden_entries) == (not is_full, 0, hidden)
    assert [text for text in seen.unread if "no process or name leads to" in text] == list(seen.unread) * is_full


def test_free_objects_of_processors_are_no_entries(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a slab in use, and a list of more."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for name, figure in (("total_objects", 200_000), ("objects", 40_144), ("sheaf_capacity", 0), ("objs_per_slab", 16)):
        put(host, name, figure)
    (host.root / SLAB / "slabs_cpu_partial").write_text("56(7) C0=32(4) C1=24(3)\n")
    held = sum(table.count for table in observe(host).tables)
    assert observe(host).hidden_entries == 40_144 - (2 + 7) * 16 - held


def test_fragments_hold_no_raise_back(host: Host) -> None:
    """200,000 entries, 80 % of them gone at random, leave these figures (measured): a full table is raised for."""
    host.table(LIMIT)
    put(host, "total_objects", LIMIT + 194_992 - 40_023)
    put(host, "objects", LIMIT + 40_144 - 40_023)
    decision = decide(MESSAGE, observe(host), State(), Policy(budget=Share(bytes=64 << 20)))
    assert isinstance(decision, Raise)
    assert (decision.corroboration, decision.arithmetic.hidden_entries) == (Corroboration.CONFIRMED, 0)


def test_a_hidden_table_is_charged_and_found_out(host: Host) -> None:
    """200,000 entries that nothing leads to: 115 MiB are no raise within 30, and one error."""
    host.table(LIMIT)
    for name in ("total_objects", "objects"):
        put(host, name, LIMIT + 200_000)
    seen, policy = observe(host), Policy(budget=Share(bytes=30 << 20))
    assert seen.hidden_entries == 200_000
    assert seen.unread == (
        "200,000 entries exist in network namespaces that no process or name leads to: counted as they are",
    )
    assert isinstance(decide(MESSAGE, seen, State(), policy), Hold)
    checked = decide(Trigger(kind=TriggerKind.MEMORY), seen, State(), policy)
    assert isinstance(checked, Hold)
    assert checked.reason is HoldReason.RESERVE_BROKEN


def test_another_process_of_an_ended_namespace(host: Host) -> None:
    """A namespace that is gone is neither unread nor charged."""
    eyes = observer(host)
    assert eyes.observe(rescan=True).idle_tables == 1
    for path in ("200/net/stat/nf_conntrack", "200/ns/net"):
        (host.root / "proc" / path).unlink()
    for path in ("200/net/stat", "200/net", "200/ns", "200"):
        (host.root / "proc" / path).rmdir()
    seen = eyes.observe()
    assert (seen.complete, seen.unread_tables, seen.unread) == (True, 0, ())


def test_nothing_is_missing_while_nothing_is_tracked(host: Host) -> None:
    """Before the module is loaded no namespace has a table that could be unreadable."""
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    for file in host.root.glob("proc/*/net/stat/nf_conntrack"):
        file.unlink()
    (host.root / SLAB / "total_objects").unlink()
    seen = observe(host)
    assert (seen.limit, seen.complete, seen.unread_tables, seen.unread) == (None, True, 0, ())


def test_a_hidden_limit_is_named(host: Host) -> None:
    """In a user namespace of an older kernel tables can be read and the limit can't; without tracking there are none."""
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    assert ["nf_conntrack_max is hidden" in text for text in observe(host).unread] == [True]
    for file in host.root.glob("proc/*/net/stat/nf_conntrack"):
        file.unlink()
    seen = observe(host)
    assert (seen.limit, [text for text in seen.unread if "hidden" in text]) == (None, [])
