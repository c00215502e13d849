"""Which kernel messages are recognised."""

from __future__ import annotations

import pytest

from conntrackd_guard.core.kernel_messages import MARKS, recognise
from conntrackd_guard.core.model import MessageKind

WORDINGS = [
    ("ip_conntrack: table full, dropping packet.", MessageKind.TABLE_FULL, None),
    ("nf_conntrack: table full, dropping packet.", MessageKind.TABLE_FULL, None),
    ("nf_conntrack: table full, dropping packet", MessageKind.TABLE_FULL, None),
    ("nf_conntrack: nf_conntrack: table full, dropping packet", MessageKind.TABLE_FULL, None),
    ("nf_conntrack: nf_conntrack: table full in netns 4026532316, dropping packet", MessageKind.TABLE_FULL, 4026532316),
    ("nf_conntrack: nf_conntrack: table full in netns 4294967295, dropping packet", MessageKind.TABLE_FULL, 4294967295),
    ("nf_conntrack: expectation table full", MessageKind.EXPECTATION_FULL, None),
    ("nf_conntrack: nf_conntrack: expectation table full", MessageKind.EXPECTATION_FULL, None),
    ("neighbour: arp_cache: neighbor table overflow!", MessageKind.NEIGHBOUR_FULL, None),
    ("neighbour: ndisc_cache: neighbor table overflow!", MessageKind.NEIGHBOUR_FULL, None),
    ("ipv4: Neighbour table overflow.", MessageKind.NEIGHBOUR_FULL, None),
    ("ipv6: Neighbour table overflow", MessageKind.NEIGHBOUR_FULL, None),
    ("IPv6: Neighbour table overflow", MessageKind.NEIGHBOUR_FULL, None),
    ("Neighbour table overflow.", MessageKind.NEIGHBOUR_FULL, None),
    ("net_ratelimit: 31234 callbacks suppressed", MessageKind.SUPPRESSED, None),
    ("__ratelimit: 83 callbacks suppressed", MessageKind.SUPPRESSED, None),
    ("ip_conntrack: VPS 101 table full, dropping packet.", MessageKind.TABLE_FULL, None),
    ("nf_conntrack: VPS 0 table full, dropping packet.", MessageKind.TABLE_FULL, None),
]

FOREIGN = [
    "nf_conntrack: table full, dropping packet IN=eth0 OUT= SRC=10.0.0.1",
    "nf_conntrack: nf_conntrack: table full, dropping packetIN=lo OUT=",
    "nf_conntrack: table full, dropping packet\n",
    "nf_conntrack: table full, dropping packet\nIN=lo",
    " nf_conntrack: table full, dropping packet",
    "drop: nf_conntrack: table full, dropping packet",
    "[12.3] nf_conntrack: table full, dropping packet",
    "nf_conntrack: nf_conntrack: nf_conntrack: table full, dropping packet",
    "nf_conntrack: nf_conntrack: table full in netns 4294967296, dropping packet",
    "nf_conntrack: nf_conntrack: table full in netns 0, dropping packet",
    "nf_conntrack: nf_conntrack: table full in netns -1, dropping packet",
    "nf_conntrack: nf_conntrack: table full in netns 99999999999999999999, dropping packet",
    "nf_conntrack: nf_conntrack: table full in netns ٤٠٢٦, dropping packet",
    "NF_CONNTRACK: table full, dropping packet",
    "table full, dropping packet",
    "net_ratelimit: x callbacks suppressed",
    "___ratelimit: 83 callbacks suppressed",
    "audit_ratelimit: 83 callbacks suppressed",
    "ip_conntrack: VPS table full, dropping packet.",
    "ip_conntrack: VPS web table full, dropping packet.",
    "ip_conntrack: VPS 101 table full, dropping packet. IN=eth0",
    "IPv6: Neighbour table overflow IN=eth0",
    "IPX: Neighbour table overflow",
    "printk: bash: 31 output lines suppressed due to ratelimiting",
    "",
]


@pytest.mark.parametrize(("message", "kind", "namespace"), WORDINGS)
def test_every_wording_is_recognised(message: str, kind: MessageKind, namespace: int | None) -> None:
    """Messages of every kernel since 2.4 are recognised and keep their text."""
    found = recognise(message)
    assert found is not None
    assert (found.kind, found.namespace, found.text) == (kind, namespace, message)
    assert any(mark in message.encode() for mark in MARKS)


@pytest.mark.parametrize("message", FOREIGN)
def test_similar_messages_are_not_recognised(message: str) -> None:
    """A firewall's prefix, other text around the message, and impossible numbers don't match."""
    assert recognise(message) is None


def test_unrelated_records_are_skipped_unparsed() -> None:
    """The cheap check is enough for a firewall's record."""
    firewall = b"4,9,1,-;IN=eth0 OUT= MAC=00 SRC=192.0.2.7 DST=192.0.2.1 LEN=60 PROTO=TCP SPT=1 DPT=22\n"
    assert not any(mark in firewall for mark in MARKS)
