"""Counters over netlink: as the kernel sends them, and what can't be one of its answers."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack import stat_netlink
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.stat import TableReader, read_statistics
from conntrackd_guard.host.conntrack.stat_netlink import Statistics, take
from conntrackd_guard.host.paths import Paths

DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)
STATS_CPU, STATS = 0x0104, 0x0105
PLAIN = {4: 0, 9: 7, 10: 5, 11: 3, 14: 2, 15: 4}
"""Attributes of linux/netfilter/nfnetlink_conntrack.h: invalid, insert_failed, drop, early_drop, clash, chain."""


def message(kind: int, values: dict[int, int]) -> bytes:
    """Return a message as the kernel sends it."""
    body = b"".join(struct.pack("=HH", 8, name) + value.to_bytes(4, "big") for name, value in values.items())
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, 2, 1, 0, 0, 0, 0) + body


def taken(*datagrams: bytes) -> Statistics:
    """Return what the datagrams hold; the last one ends the answer."""
    found = Statistics()
    assert [take(found, datagram) for datagram in datagrams] == [*[False] * (len(datagrams) - 1), True]
    return found


def test_the_counters_of_all_processors_are_added() -> None:
    """The limit is that of all namespaces."""
    processors = message(STATS_CPU, PLAIN) + message(STATS_CPU, {**PLAIN, 10: 2**32 - 1})
    found = taken(message(STATS, {1: 12, 2: 262_144}), processors, DONE)
    assert found == Statistics(
        limit=262_144, insert_failed=14, drop=2**32 + 4, early_drop=6, clash_resolved=4, chain_too_long=8
    )


def test_a_counter_that_this_kernel_lacks_is_unknown() -> None:
    """5.10 has no chain limit, 4.19 counts no clashes; neither is a count of 0."""
    old = {name: value for name, value in PLAIN.items() if name < 12}
    found = taken(message(STATS, {1: 12}), message(STATS_CPU, old) + DONE)
    assert (found.limit, found.clash_resolved, found.chain_too_long, found.drop) == (None, None, None, 5)


def test_a_refusal_is_an_error() -> None:
    """Without CAP_NET_ADMIN the kernel returns EPERM."""
    with pytest.raises(PermissionError):
        take(Statistics(), struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -errno.EPERM) + b"\0" * 16)


@pytest.mark.parametrize("cut", range(1, 68))
def test_a_cut_answer_is_refused_or_unfinished(cut: int) -> None:
    """No cut makes a whole answer, or an error that nobody expects."""
    whole = message(STATS_CPU, PLAIN)
    found = Statistics()
    try:
        assert not take(found, whole[:cut])
    except ValueError:
        return
    assert found == Statistics()


@pytest.mark.parametrize("length", [0, 1, 19, 4096])
def test_a_message_of_an_impossible_length_is_refused(length: int) -> None:
    """The next one can't be found; it would be read for ever."""
    with pytest.raises(ValueError, match="invalid length"):
        take(Statistics(), struct.pack("=I", length) + message(STATS_CPU, PLAIN)[4:])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_the_kernel_gives_what_its_file_has() -> None:
    """Counters of the namespace of these tests, whose table may be in use meanwhile."""
    before, found, after = (
        read_statistics(("/proc/self/",), None),
        stat_netlink.read_statistics(),
        read_statistics(("/proc/self/",), None),
    )
    if before is None or after is None:
        pytest.skip("this kernel has no statistics file")
    assert found.limit == files.read_number(Path("/proc/sys/net/netfilter/nf_conntrack_max"))
    assert (before.drop or 0) <= found.drop <= (after.drop or 0)
    assert (found.chain_too_long is None) == (before.chain_too_long is None)
    assert (before.clash_resolved or 0) <= (found.clash_resolved or 0) <= (after.clash_resolved or 0)


@pytest.fixture
def bare(tmp_path: Path) -> Paths:
    """Give a host without a statistics file (CONFIG_NF_CONNTRACK_PROCFS off): 99 of 5,000 entries."""
    folder = tmp_path / "proc/sys/net/netfilter"
    folder.mkdir(parents=True)
    (folder / "nf_conntrack_count").write_text("99\n")
    (folder / "nf_conntrack_max").write_text("5000\n")
    return Paths(tmp_path)


INITIAL = NetNamespace(key=1, namespace=1, label="initial", initial=True)


@pytest.mark.parametrize(
    ("limit", "source", "counters"),
    [
        (5_000, "sysctl and netlink", (5, 3, 7, 2, 4)),
        (5_001, "sysctl", (None,) * 5),  # the answer of another kernel, or of another root
        (None, "sysctl", (None,) * 5),
    ],
)
def test_netlink_counts_where_no_file_does(
    bare: Paths,
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
    source: str,
    counters: tuple[int | None, ...],
) -> None:
    """A packet dropped for its chain is in two counters of the kernel, and in one here."""
    answer = Statistics(limit=limit, drop=5, early_drop=3, insert_failed=11, clash_resolved=2, chain_too_long=4)
    monkeypatch.setattr(stat_netlink, "read_statistics", lambda: answer)
    found = TableReader(bare).read(INITIAL)
    assert found is not None
    assert (found.count, found.source) == (99, source)
    rest = (found.drop, found.early_drop, found.insert_failed, found.clash_resolved, found.chain_too_long)
    assert rest == counters


def test_a_host_that_refuses_netlink_still_has_a_count(bare: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit allows local sockets only."""

    def refuse() -> Statistics:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(stat_netlink, "read_statistics", refuse)
    found = TableReader(bare).read(INITIAL)
    assert found is not None
    assert (found.count, found.drop, found.chain_too_long) == (99, None, None)
