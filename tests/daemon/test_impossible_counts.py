"""Counts that can't be true earn no raise: they are named, and the other tables are judged without them."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core.model import Raise
from conntrackd_guard.history.details import detail
from conntrackd_guard.host.conntrack import stat_netlink
from conntrackd_guard.host.conntrack.stat_netlink import Statistics

NEGATIVE = 0xFFFFFFFB
"""-5, as the statistics file shows it."""


def broken(host: Host, shown: int, pid: str = "1") -> None:
    """Have a namespace's statistics file show another count than its table has."""
    text = f"entries drop early_drop\n{shown:08x} 00000000 00000000\n"
    (host.root / f"proc/{pid}/net/stat/nf_conntrack").write_text(text)


@pytest.mark.parametrize("shown", [NEGATIVE, 0x7FFFFFFF, 5_000_000])
def test_an_impossible_count_earns_no_raise(host: Host, shown: int) -> None:
    """Neither a message nor the watch raises for it, not even by a plain step, however long it stays."""
    guarded = Guarded(host)
    host.table(10)
    broken(host, shown)
    for _ in range(20):
        guarded.message()
        guarded.turn(2.0)
    assert (host.limit, guarded.kernel.writes) == (LIMIT, [])
    assert set(guarded.reasons()) == {"hold impossible_count none"}
    sentence = guarded.rows()[-1].sentence
    assert "the count of the initial namespace can't be true" in sentence
    assert ("-5 entries" if shown == NEGATIVE else f"{shown:,} entries") in sentence
    guarded.stop()


def test_a_negative_count_from_the_sysctl(host: Host) -> None:
    """Kernels without the statistics file show the sign."""
    (host.root / "proc/1/net/stat/nf_conntrack").unlink()
    host._write("proc/sys/net/netfilter/nf_conntrack_count", "-5\n")
    guarded = Guarded(host)
    guarded.message()
    guarded.turn()
    assert guarded.reasons() == ["hold impossible_count none"]
    assert "the counter fell below 0" in guarded.rows()[-1].sentence
    guarded.stop()


def test_a_header_alone_is_no_empty_table(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has a row for each processor: without any, the count comes from the sysctl, or the table is unreadable."""
    monkeypatch.setattr(stat_netlink, "read_statistics", Statistics)  # without this machine's limit
    guarded = Guarded(host)
    header = host.root / "proc/1/net/stat/nf_conntrack"
    header.write_text("entries drop early_drop\n")
    assert not guarded.observer.observe(rescan=True).complete
    host._write("proc/sys/net/netfilter/nf_conntrack_count", f"{LIMIT}\n")
    seen = guarded.observer.observe(rescan=True)
    assert (seen.complete, seen.tables[0].count, seen.tables[0].source) == (True, LIMIT, "sysctl")
    guarded.stop()


def test_another_full_table_is_raised_for(host: Host) -> None:
    """The broken table is charged as a full one."""
    guarded = Guarded(host)
    host.table(LIMIT, pid="200")
    broken(host, NEGATIVE)
    guarded.message()
    guarded.turn()
    assert guarded.reasons() == ["raise kernel_message confirmed applied"]
    with guarded.history() as history:
        found = detail(history, guarded.rows()[-1].id)
    assert found is not None
    assert isinstance(found.record.decision, Raise)
    assert found.record.decision.arithmetic.full_tables == 2
    guarded.stop()


def test_a_message_that_names_another_namespace(host: Host) -> None:
    """One that names the broken table's is held; another namespace's is answered by that table."""
    guarded = Guarded(host)
    broken(host, NEGATIVE, pid="200")
    guarded.message(host.container)
    guarded.turn()
    assert guarded.reasons() == ["hold impossible_count none"]
    guarded.message(host.initial)
    guarded.turn()
    assert guarded.reasons()[-1] == "hold contradicted none"
    guarded.stop()


def test_a_count_that_has_just_fallen_is_read_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries freed between the count and the slab's objects are no impossible count."""
    guarded = Guarded(host)
    guarded.turn()
    host.table(50_000)
    broken(host, 5_000_000)
    read = guarded.observer._reader.read

    def after_the_flush(netns: object) -> object:
        host.table(20)
        return read(netns)  # type: ignore[arg-type]

    monkeypatch.setattr(guarded.observer._reader, "read", after_the_flush)
    seen = guarded.observer.observe()
    assert (seen.impossible, [table.count for table in seen.tables if table.initial]) == ((), [20])
    guarded.stop()


def test_a_repaired_count_counts_again(host: Host) -> None:
    """The table that is full then is raised for at once; growth since the lie is none."""
    host.table(LIMIT)
    guarded = Guarded(host)
    broken(host, NEGATIVE)
    guarded.message()
    guarded.turn()
    host.table(LIMIT)
    guarded.message()
    guarded.turn(1.0)
    assert guarded.reasons() == ["hold impossible_count none", "raise kernel_message confirmed applied"]
    assert host.limit == 98_304
    assert guarded.observer.observe().impossible == ()
    guarded.stop()


def test_objects_that_can_not_be_read_leave_the_sign(host: Host) -> None:
    """Without the slab's objects only a count below 0 is known to be impossible."""
    (host.root / "sys/kernel/slab/nf_conntrack/total_objects").unlink()
    guarded = Guarded(host)
    broken(host, 5_000_000)
    assert guarded.observer.observe().impossible == ()
    broken(host, NEGATIVE)
    (found,) = guarded.observer.observe().impossible
    assert (found.namespace, found.count, found.most) == (host.initial, NEGATIVE, 2**31 - 1)
    guarded.stop()
