"""Counts of a sample, against tables calculated by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testbed.flows import an_entry, dns, established, half_open

from conntrackd_guard.core.codec import decode, encode
from conntrackd_guard.core.configuration import Addresses
from conntrackd_guard.core.traffic.entry import Entry, address_text
from conntrackd_guard.core.traffic.sample import TOP, Group, Ranking, Sample, count_entries

V6_CLIENT = bytes.fromhex("20010db8000100020003000400050006")
POD, NODE = bytes((10, 244, 1, 5)), bytes((192, 0, 2, 1))
ENTRIES = [
    *[established(431_000)] * 3,
    *[half_open(to=80, source=bytes((198, 51, 100, n))) for n in (1, 2)],
    *[dns(reply_source=POD, reply_source_port=5353)] * 2,
    dns(reply_destination=NODE, reply_destination_port=61_000),
    an_entry(17, "UNREPLIED", to=123, source=V6_CLIENT, destination=V6_CLIENT[:15] + b"\x07"),
    an_entry(1, "UNREPLIED", to=0, seconds=29),
]


def tops(ranking: Ranking) -> dict[str, int]:
    """Return names and entries."""
    return {group.name: group.entries for group in ranking.top}


def test_shares_of_every_kind() -> None:
    """Ten entries, counted by protocol, state, port, destination, source and time left."""
    sample = count_entries(ENTRIES, table_entries=1000)
    assert (sample.seen, sample.table_entries, sample.ipv6) == (10, 1000, 1)
    assert (sample.assured, sample.unanswered, sample.dns) == (3, 4, 3)
    assert tops(sample.protocols) == {"tcp": 5, "udp": 4, "icmp": 1}
    assert tops(sample.states) == {
        "tcp ESTABLISHED": 3,
        "tcp SYN_SENT": 2,
        "udp REPLIED": 3,
        "udp UNREPLIED": 1,
        "icmp UNREPLIED": 1,
    }
    assert tops(sample.ports) == {"tcp 443": 3, "tcp 80": 2, "udp 53": 3, "udp 123": 1, "icmp": 1}
    assert tops(sample.destinations) == {
        "tcp 10.200.0.1:443": 3,
        "tcp 10.200.0.1:80": 2,
        "udp 10.200.0.1:53": 3,
        "udp [2001:db8:1:2:3:4:5:7]:123": 1,
        "icmp 10.200.0.1": 1,
    }
    assert tops(sample.sources) == {"10.0.0.1": 7, "198.51.100.1": 1, "198.51.100.2": 1, "2001:db8:1:2:3:4:5:6": 1}
    assert [(g.name, g.entries) for g in sample.lifetimes.top] == [
        ("under 30 s", 4),
        ("30 s to 2 min", 3),
        ("over 1 day", 3),
    ]


def test_nat_is_counted() -> None:
    """NAT of the destination and NAT of the source are counted separately."""
    sample = count_entries(ENTRIES, table_entries=10)
    assert (sample.destination_translated, sample.source_translated, sample.dns_translated) == (2, 1, 2)
    assert sample.destinations.top[1] == Group(name="udp 10.200.0.1:53", entries=3, translated=2)


@pytest.mark.parametrize(
    ("addresses", "sources", "destinations"),
    [
        (Addresses.PREFIX, {"10.0.0.0/24": 1, "2001:db8:1::/48": 2}, {"tcp 10.200.0.0/24:443": 1}),
        (Addresses.OFF, {}, {}),
    ],
)
def test_addresses_are_kept_as_set(addresses: Addresses, sources: dict[str, int], destinations: dict[str, int]) -> None:
    """`prefix` keeps networks and merges clients of one site; `off` keeps none; ports stay."""
    there: dict[str, Any] = {"destination": V6_CLIENT, "source": V6_CLIENT}
    one, other = an_entry(17, "REPLIED", to=443, **there), an_entry(17, "REPLIED", to=443, **there)
    other = other._replace(source=V6_CLIENT[:6] + bytes(10))
    sample = count_entries([established(9), one, other], table_entries=3, addresses=addresses)
    assert tops(sample.sources) == sources
    assert destinations.items() <= tops(sample.destinations).items()
    assert tops(sample.ports) == {"tcp 443": 1, "udp 443": 2}
    stored = str(encode(sample))
    assert ("10.0.0.1" in stored, "2001:db8:1:2" in stored) == (False, False)


@pytest.mark.parametrize(
    ("seconds", "idle"),
    [
        ([432_000, 431_999, 424_561], 0),
        ([432_000, 424_560], 1),  # idle for 2 h 4 min
        ([432_000, 300, 299, 60], 0),  # data is under way: such a flow is given 300 s
        ([432_000, 301], 1),
        ([86_400, 86_000, 1000], 1),  # a namespace with a timeout of one day
        ([600, 600, 590], 0),
    ],
)
def test_idle_connections_with_an_unknown_timeout(seconds: list[int], idle: int) -> None:
    """The longest time left stands for the timeout; connections with data in flight don't count."""
    assert count_entries([established(left) for left in seconds], table_entries=9).idle == idle


@pytest.mark.parametrize(
    ("seconds", "idle"),
    [
        ([250_000, 249_000], 2),  # all are idle: the timeout can't be derived from them
        ([432_000, 424_561, 424_560], 1),
        (
            [500_000, 499_000, 492_560],
            1,
        ),  # the timeout was lowered: longer times left are compared with the longest one
    ],
)
def test_idle_connections_with_a_known_timeout(seconds: list[int], idle: int) -> None:
    """The time left is compared with the timeout."""
    entries = [established(left) for left in seconds]
    assert count_entries(entries, table_entries=9, established_seconds=432_000).idle == idle


def test_a_lowered_timeout_makes_no_new_connection_idle() -> None:
    """After the timeout is lowered, new connections start with two hours left; they are not idle."""
    entries = [established(left) for left in (400_000, 300_000, 7440, 7000, 900)]
    assert count_entries(entries, table_entries=9, established_seconds=7440).idle == 1


def test_other_entries_are_never_idle() -> None:
    """Closing connections and SCTP have timeouts of their own."""
    closing = an_entry(6, "TIME_WAIT", seconds=900, flags="ar")
    sctp = an_entry(132, "ESTABLISHED", seconds=900, flags="ar")
    assert count_entries([established(432_000), closing, sctp], table_entries=9).idle == 0


@pytest.mark.parametrize(
    ("entry", "unanswered", "dns", "to", "source"),
    [
        (an_entry(6, "SYN_RECV", flags="r"), 1, 0, 0, 0),  # answered, but the handshake is not over
        (an_entry(6, "ESTABLISHED", seconds=290), 1, 0, 0, 0),  # picked up midway, one side sends nothing
        (an_entry(6, "ESTABLISHED", to=53, flags="ar"), 0, 0, 0, 0),  # DNS over TCP is no short flow
        (dns(reply_source_port=5353), 0, 1, 1, 0),  # redirected by its port alone
        (dns(reply_destination_port=61_000), 0, 1, 0, 1),  # masqueraded by its port alone
        (dns(reply_destination=NODE), 0, 1, 0, 1),
    ],
)
def test_one_entry(entry: Entry, unanswered: int, dns: int, to: int, source: int) -> None:
    """Each kind of entry is counted once in its kinds."""
    sample = count_entries([entry], table_entries=1)
    assert (sample.unanswered, sample.dns) == (unanswered, dns)
    assert (sample.destination_translated, sample.source_translated) == (to, source)


def test_a_lifetime_belongs_to_one_range() -> None:
    """30 s does not count as under 30 s."""
    sample = count_entries([an_entry(17, "ASSURED", seconds=left) for left in (29, 30, 119, 120)], table_entries=4)
    assert tops(sample.lifetimes) == {"under 30 s": 1, "30 s to 2 min": 2, "2 to 10 min": 1}


@pytest.mark.parametrize(
    ("seen", "table", "points"),
    [(5000, 1_000_000, 1.38), (5000, 6000, 0.57), (100, 1_000_000, 9.8), (1, 2, 98), (7, 7, 0), (0, 5, 100)],
)
def test_the_margin(seen: int, table: int, points: float) -> None:
    """1.96 × √(0.25 ÷ seen), less if much of the table was read, 0 if all was."""
    assert 100 * Sample(table_entries=table, seen=seen).margin == pytest.approx(points, abs=0.005)


def test_the_ten_largest_sources_are_named() -> None:
    """The others are counted."""
    entries = [half_open(source=bytes((10, 0, n, m))) for n in range(20) for m in range(n + 1)]
    merged = count_entries(entries, table_entries=210, addresses=Addresses.PREFIX).sources
    assert (len(merged.top), merged.distinct, merged.top[0]) == (
        TOP,
        20,
        Group(name="10.0.19.0/24", entries=20, unanswered=20),
    )


def test_an_offloaded_flow_has_no_time_left() -> None:
    """Hardware refreshes it."""
    sample = count_entries([an_entry(6, "OFFLOAD", seconds=None, flags="ar")], table_entries=1)
    assert tops(sample.lifetimes) == {"offloaded": 1}


def test_an_empty_table() -> None:
    """An empty table has an empty sample."""
    sample = count_entries([], table_entries=0)
    assert (sample.seen, sample.share(0), sample.sources) == (0, 0.0, Ranking())


KINDS = st.sampled_from(ENTRIES)


@given(st.lists(KINDS, max_size=40), st.sampled_from(Addresses))
def test_each_entry_is_counted_once(entries: list[Entry], addresses: Addresses) -> None:
    """With few kinds of entries each ranking contains all; a stored sample reads back the same."""
    sample = count_entries(entries, table_entries=100, addresses=addresses)
    assert decode(Sample, encode(sample)) == sample
    rankings = [sample.protocols, sample.states, sample.ports, sample.lifetimes]
    rankings += [] if addresses is Addresses.OFF else [sample.destinations, sample.sources]
    for ranking in rankings:
        assert sum(group.entries for group in ranking.top) == sample.seen == len(entries)
        assert len(ranking.top) == ranking.distinct
    assert 0 <= sample.margin <= 1
    assert not math.isnan(sample.margin)


@given(
    st.binary(min_size=16, max_size=16) | st.lists(st.sampled_from([0, 0, 1, 16]), min_size=16, max_size=16).map(bytes)
)
def test_ipv6_as_rfc_5952_has_it(packed: bytes) -> None:
    """Addresses are formatted as the standard library does."""
    import ipaddress  # noqa: PLC0415 - the judge of this test alone

    shown = ipaddress.IPv6Address(packed)
    assert ipaddress.IPv6Address(address_text(packed)) == shown
    if shown.ipv4_mapped is None:
        assert address_text(packed) == str(shown)
