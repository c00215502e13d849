"""Entries from kernel listings and netlink messages, and from the real kernel."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testbed.flow_tables import NEEDS_TABLES, flow, netns_of, table_of

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.traffic.entry import Entry
from conntrackd_guard.host.conntrack import entries, entries_netlink
from conntrackd_guard.host.conntrack.entries import EntryReader, Listing, parse
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import run_in_netns
from conntrackd_guard.host.paths import Paths

A, B, C, D = bytes((10, 0, 0, 1)), bytes((10, 96, 0, 10)), bytes((10, 244, 1, 5)), bytes((192, 0, 2, 1))
SIX, SEVEN = bytes.fromhex("20010db8" + "0" * 22 + "05"), bytes.fromhex("20010db80001" + "0" * 18 + "10")
PLAIN = (
    b"ipv4     2 udp      17 29 src=10.0.0.1 dst=10.96.0.10 sport=1000 dport=53 [UNREPLIED] "
    b"src=10.96.0.10 dst=10.0.0.1 sport=53 dport=1000 mark=0 use=1\n"
)


def entry(protocol: int, state: str, remaining: int | None, *, flags: str = "", **other: Any) -> Entry:
    """Return an entry from A to B, port 1000 to 53, its reply mirrored; `flags`: a(ssured), r(eplied)."""
    fields: dict[str, Any] = {
        "protocol": protocol, "state": state, "assured": "a" in flags, "replied": "r" in flags,
        "source": A, "destination": B, "source_port": 1000, "destination_port": 53,
        "reply_source": B, "reply_destination": A, "reply_source_port": 53, "reply_destination_port": 1000,
        "remaining_seconds": remaining,
    }  # fmt: skip
    return Entry(**{**fields, **other})


NO_PORTS: dict[str, Any] = {
    "source_port": 0,
    "destination_port": 0,
    "reply_source_port": 0,
    "reply_destination_port": 0,
}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param(PLAIN, entry(17, "UNREPLIED", 29), id="udp without an answer"),
        pytest.param(
            b"ipv4     2 udp      17 99 src=10.0.0.1 dst=10.96.0.10 sport=1000 dport=53 "
            b"src=10.244.1.5 dst=192.0.2.1 sport=5353 dport=61000 mark=0 zone=0 use=2\n",
            entry(
                17,
                "REPLIED",
                99,
                flags="r",
                reply_source=C,
                reply_source_port=5353,
                reply_destination=D,
                reply_destination_port=61000,
            ),
            id="both addresses translated",
        ),
        pytest.param(
            b"ipv6     10 tcp      6 431999 ESTABLISHED src=2001:0db8:0000:0000:0000:0000:0000:0005 "
            b"dst=2001:0db8:0001:0000:0000:0000:0000:0010 sport=1000 dport=53 packets=3 bytes=180 "
            b"src=2001:0db8:0001:0000:0000:0000:0000:0010 dst=2001:0db8:0000:0000:0000:0000:0000:0005 "
            b"sport=53 dport=1000 packets=2 bytes=120 [ASSURED] mark=0 zone=0 delta-time=9 use=2\n",
            entry(
                6,
                "ESTABLISHED",
                431999,
                flags="ar",
                source=SIX,
                destination=SEVEN,
                reply_source=SEVEN,
                reply_destination=SIX,
            ),
            id="ipv6 with accounting and timestamps",
        ),
        pytest.param(
            b"ipv4     2 tcp      6 src=10.0.0.1 dst=10.96.0.10 sport=1000 dport=53 packets=1 bytes=60 "
            b"src=10.96.0.10 dst=10.0.0.1 sport=53 dport=1000 packets=1 bytes=60 [HW_OFFLOAD] mark=0 use=3\n",
            entry(6, "OFFLOAD", None, flags="ar"),
            id="offloaded: neither time nor state",
        ),
        pytest.param(
            b"ipv4     2 icmp     1 29 src=10.0.0.1 dst=10.96.0.10 type=8 code=0 id=77 [UNREPLIED] "
            b"src=10.96.0.10 dst=10.0.0.1 type=0 code=0 id=77 secctx=system_u:object_r:unlabeled_t:s0 use=1\n",
            entry(1, "UNREPLIED", 29, **NO_PORTS),
            id="icmp, no mark in this kernel, a label",
        ),
        pytest.param(
            b"ipv4     2 gre      47 179 timeout=30, stream_timeout=180 src=10.0.0.1 dst=10.96.0.10 srckey=0x5 "
            b"dstkey=0x7 zone-orig=4 src=10.96.0.10 dst=10.0.0.1 srckey=0x7 dstkey=0x5 [ASSURED] mark=0 use=1\n",
            entry(47, "ASSURED", 179, flags="ar", **NO_PORTS),
            id="gre, a zone of one direction",
        ),
        pytest.param(
            b"ipv4     2 unknown  89 598 src=10.0.0.1 dst=10.96.0.10 [UNREPLIED] src=10.96.0.10 dst=10.0.0.1 "
            b"mark=0 use=1\n",
            entry(89, "UNREPLIED", 598, **NO_PORTS),
            id="a protocol without a name",
        ),
        pytest.param(
            b"ipv4     2 tcp      6 99 SYN_SENT src=10.0.0.1 dst=10.96.0.10 sport=1000 dport=53 [UNREPLIED] "
            b"src=10.96.0.10 dst=10.0.0.1 sport=53 dport=1000 mark=4294967295 use=1\n",
            entry(6, "SYN_SENT", 99),
            id="a handshake",
        ),
    ],
)
def test_lines_are_parsed(line: bytes, found: Entry) -> None:
    """Every kind of line that the kernel prints is parsed, also with NAT."""
    assert parse(line) == ([found], 0)


@pytest.mark.parametrize(
    "odd",
    [
        b"\n",
        b"\x1b[2J\n",
        PLAIN.replace(b"10.0.0.1", b"300.0.0.1"),
        PLAIN.replace(b"src=10.0.0.1", b"src=zebra.zebra"),
        PLAIN.replace(b"ipv4     2 ", b"ipx      4 "),
        PLAIN.replace(b"ipv4     2 ", b"ipv6     10"),
        PLAIN.replace(b" dst=10.0.0.1", b""),
        PLAIN[:70] + b"\n",
    ],
)
def test_other_lines_are_counted_and_skipped(odd: bytes) -> None:
    """A line that is not an entry affects no other line."""
    assert parse(PLAIN + odd + PLAIN) == ([entry(17, "UNREPLIED", 29)] * 2, 1)


@given(st.binary(max_size=300), st.integers(0, len(PLAIN)), st.integers(0, len(PLAIN)))
def test_any_bytes_in_lines_are_accepted(noise: bytes, begin: int, end: int) -> None:
    """Each line is an entry, or is counted as skipped."""
    lines = PLAIN[:begin] + noise + PLAIN[end:] + b"\n"
    entries, odd = parse(lines)
    assert len(entries) + odd == lines.count(b"\n")


def attribute(kind: int, data: bytes) -> bytes:
    """Return a netlink attribute."""
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def message(*, kind: int = 0x0100, original: bytes = b"", status: int = 2, timeout: int = 29) -> bytes:
    """Return a message about a UDP flow from A to B."""
    proto = attribute(1, b"\x11")
    there = attribute(1, attribute(1, A) + attribute(2, B)) + attribute(
        2, proto + attribute(2, b"\x03\xe8") + attribute(3, b"\0\x35")
    )
    back = attribute(1, attribute(1, B) + attribute(2, A)) + attribute(
        2, proto + attribute(2, b"\0\x35") + attribute(3, b"\x03\xe8")
    )
    body = b"\x02\0\0\0" + attribute(0x8001, original or there) + attribute(0x8002, back)
    body += attribute(3, struct.pack(">I", status)) + attribute(7, struct.pack(">I", timeout))
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)


def test_messages_are_parsed_until_the_dump_ends() -> None:
    """A datagram has several messages; invalid ones are counted, and the end is detected."""
    odd = message(original=attribute(1, b"\1\2"))
    expected = [entry(17, "REPLIED", 29, flags="r"), entry(17, "ASSURED", 29, flags="ar")]
    assert entries_netlink.parse(message() + odd + message(status=6)) == (expected, 1, False)
    assert entries_netlink.parse(message() + DONE + message()) == (expected[:1], 0, True)


def test_a_tuple_may_have_any_layout() -> None:
    """The usual layout, the flags of old kernels and another order give the same entry."""
    address, ports = attribute(1, A) + attribute(2, B), [attribute(2, b"\x03\xe8"), attribute(3, b"\0\x35")]
    number = attribute(1, b"\x11")
    usual = attribute(0x8001, address) + attribute(0x8002, number + b"".join(ports))
    turned = attribute(0x8001, address) + attribute(0x8002, number + b"".join(reversed(ports)))
    first = attribute(0x8002, number + b"".join(ports)) + attribute(0x8001, address)
    expected = [entry(17, "REPLIED", 29, flags="r")] * 4
    datagram = message() + b"".join(message(original=form) for form in (usual, turned, first))
    assert entries_netlink.parse(datagram) == (expected, 0, False)


def test_a_refused_dump_is_an_error() -> None:
    """Without CAP_NET_ADMIN the kernel returns EPERM."""
    with pytest.raises(PermissionError):
        entries_netlink.parse(struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -errno.EPERM) + b"\0" * 16)


@given(st.binary(max_size=200), st.integers(0, 160), st.integers(0, 160))
def test_any_bytes_in_messages_are_accepted(noise: bytes, begin: int, end: int) -> None:
    """Any datagram gives entries, a count of skipped messages, or OSError."""
    whole = message()
    try:
        found, odd, _ = entries_netlink.parse(whole[:begin] + noise + whole[end:])
    except OSError:
        return
    assert odd >= 0
    assert all(len(one.source) in {4, 16} for one in found)


def a_tree(root: Path, content: bytes) -> NetNamespace:
    """Return a namespace with process 200 and the content of its listing."""
    folder = root / "proc/200/net"
    (folder / "stat").mkdir(parents=True)
    (folder / "nf_conntrack").write_bytes(content)
    return NetNamespace(key=(folder / "stat").stat().st_ino, namespace=7, label="web", pids=(199, 200))


def test_a_listing_ends_at_its_bounds(tmp_path: Path) -> None:
    """It returns up to `most` entries, and starts no read after `seconds`."""
    netns = a_tree(tmp_path, PLAIN * 2000)
    reader = EntryReader(Paths(tmp_path), enter=False)
    with reader.open(netns) as listing:
        assert len(list(listing.entries(most=150, seconds=60))) == 150
    with reader.open(netns) as listing:
        assert 0 < len(list(listing.entries(most=2000, seconds=0))) < 200
    with reader.open(netns) as listing:
        assert len(list(listing.entries(most=5000, seconds=60))) == 2000


def test_lines_may_end_anywhere_in_a_read(tmp_path: Path) -> None:
    """A line split between two reads is parsed; an endless one is counted as skipped."""
    netns = a_tree(tmp_path, PLAIN * 500 + b"x" * 70_000 + b"\n" + PLAIN)
    with EntryReader(Paths(tmp_path), enter=False).open(netns) as listing:
        assert len(list(listing.entries(most=5000, seconds=60))) == 501
        assert listing.skipped > 0


def test_a_process_in_another_namespace_is_not_read(tmp_path: Path) -> None:
    """A reused pid gives no entries of the wrong namespace."""
    netns = a_tree(tmp_path, PLAIN)
    elsewhere = NetNamespace(key=netns.key + 1, namespace=7, label="web", pids=netns.pids)
    with pytest.raises(HostError, match="the namespace has changed"):
        EntryReader(Paths(tmp_path), enter=False).open(elsewhere)


def test_the_entries_of_ended_processes_are_an_error(tmp_path: Path) -> None:
    """The error names the reason instead of a path in /proc."""
    ended = NetNamespace(key=5, namespace=7, label="web", pids=(4711,))
    with pytest.raises(HostError, match=r"^Can't read the entries of web: its processes have ended\.$"):
        EntryReader(Paths(tmp_path), enter=False).open(ended)


def some_of_each() -> list[str]:
    """Create entries of every kind that `conntrack` supports."""
    return [
        flow("udp", "10.0.0.1", "10.200.0.1", (1000, 53), 650, "-u SEEN_REPLY,ASSURED"),
        flow("udp", "10.0.0.2", "10.96.0.10", (1000, 53), 650, "-u SEEN_REPLY", answered_by=("10.244.1.5", 5353)),
        flow("udp", "10.0.0.3", "10.200.0.1", (1000, 53), 650, answer_to=("192.0.2.1", 61000)),
        flow("tcp", "10.0.0.4", "10.200.0.1", (1000, 443), 4050, "--state ESTABLISHED -u SEEN_REPLY,ASSURED"),
        flow("tcp", "10.0.0.5", "10.200.0.1", (1000, 443), 650, "--state SYN_SENT"),
        flow("tcp", "2001:db8::5", "2001:db8:1::1", (9, 443), 650, "--state TIME_WAIT -u SEEN_REPLY,ASSURED"),
        flow("icmp", "10.0.0.6", "10.200.0.1", None, 650, "--icmp-type 8 --icmp-code 0 --icmp-id 77"),
        flow("89", "10.0.0.7", "10.200.0.1", None, 650),
        flow("sctp", "10.0.0.8", "10.200.0.1", (5, 7), 650, "--state ESTABLISHED --orig-vtag 1 --reply-vtag 2"),
        flow("gre", "10.0.0.9", "10.9.0.1", None, 650, "--srckey 5 --dstkey 7 --reply-key-src 7 --reply-key-dst 5"),
    ]


def untimed(listing: Listing) -> set[Entry]:
    """Return all entries, with the time left in steps of 100 s."""
    with listing:
        return {
            e._replace(remaining_seconds=(e.remaining_seconds or 0) // 100)
            for e in listing.entries(most=100, seconds=5)
        }


@NEEDS_TABLES
def test_all_ways_of_reading_give_the_same_entries() -> None:
    """The listing from outside, the listing from inside and netlink give the same entries."""
    with table_of(some_of_each()) as namespace:
        netns = netns_of(namespace)
        unreachable = NetNamespace(key=netns.key, namespace=netns.namespace, label="web", enter=netns.enter)
        outside = EntryReader(Paths(), enter=False).open(netns)
        entered = EntryReader(Paths(), enter=True).open(unreachable)
        netlink = run_in_netns(netns, lambda: Listing("netlink", *entries_netlink.listing()))
        assert (outside.source, entered.source) == ("listing in /proc", "listing in /proc, entered")
        first = untimed(outside)
        assert len(first) == len(some_of_each())
        assert untimed(entered) == first
        assert untimed(netlink) == first
        with pytest.raises(HostError):
            EntryReader(Paths(), enter=False).open(unreachable)


@NEEDS_TABLES
def test_netlink_is_used_without_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some distributions build kernels without the file in /proc."""
    with table_of(some_of_each()) as namespace:
        netns = netns_of(namespace)
        monkeypatch.setattr(entries, "_LISTING", "net/no_such_listing")
        listing = EntryReader(Paths(), enter=True).open(netns)
        assert listing.source == "netlink"
        assert len(untimed(listing)) == len(some_of_each())
        with pytest.raises(HostError, match="No such file"):
            EntryReader(Paths(), enter=False).open(netns)


@NEEDS_TABLES
def test_no_capability_is_needed() -> None:
    """Without capabilities root can read the listing of another namespace."""
    script = (
        "import sys; from conntrackd_guard.host.conntrack.entries import EntryReader; "
        "from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner; from conntrackd_guard.host.paths import Paths; "
        "netns = next(p for p in NamespaceScanner(Paths()).scan()[0] if int(sys.argv[1]) in p.pids); "
        "print(len(list(EntryReader(Paths(), enter=False).open(netns).entries(most=99, seconds=5))))"
    )
    setpriv = shutil.which("setpriv") or pytest.skip("needs setpriv")
    nothing = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    with table_of(some_of_each()) as namespace:
        done = subprocess.run(
            [setpriv, *nothing, "/usr/bin/python3", "-c", script, str(namespace.pid)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "10\n"


@NEEDS_TABLES
def test_another_namespace_is_not_entered() -> None:
    """A path that leads to another namespace is refused; the right one is entered by one thread only."""
    with table_of([]) as namespace:
        netns = netns_of(namespace)
        wrong = NetNamespace(key=1, namespace=netns.namespace, label="web", enter="/proc/self/ns/net")
        with pytest.raises(OSError, match="the namespace has changed"):
            run_in_netns(wrong, os.getpid)
        assert run_in_netns(netns, lambda: os.stat("/proc/thread-self/ns/net").st_ino) == namespace.number
        assert os.stat("/proc/thread-self/ns/net").st_ino != namespace.number
