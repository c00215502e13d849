"""One entry of a table, the same whichever way it was read. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 58: "icmpv6", 132: "sctp", 136: "udplite"}
"""Names as the kernel prints them (net/netfilter/nf_conntrack_standalone.c)."""
TCP, UDP, SCTP = 6, 17, 132
WITH_PORTS = frozenset({TCP, UDP, 33, SCTP, 136})
IPV4_BYTES = 4
_ZERO_GROUPS = re.compile(r"\b0(?::0)+\b")


class Entry(NamedTuple):
    """One entry of a table, the same whichever way it was read.

    No dataclass: thousands are made within milliseconds, and a frozen one takes 2.5 µs more for each.
    """

    protocol: int
    state: str
    """The protocol's own (TCP, SCTP, DCCP); of an offloaded flow OFFLOAD; of others UNREPLIED, REPLIED or ASSURED."""
    assured: bool
    """Traffic has gone both ways for long enough that the kernel does not evict it."""
    replied: bool
    source: bytes
    """Who opened the flow. Addresses are 4 or 16 bytes."""
    destination: bytes
    """Whom it was opened to, before NAT."""
    source_port: int
    """Ports are 0 where the protocol has none."""
    destination_port: int
    reply_source: bytes
    """Who answers: another than `destination` where NAT changed it."""
    reply_destination: bytes
    """Whom the answer goes to: another than `source` where NAT changed it."""
    reply_source_port: int
    reply_destination_port: int
    remaining_seconds: int | None
    """Until it times out, if no packet comes; None for an offloaded flow."""


Batch = tuple[list[Entry], int]
"""What one read gave: entries, and how many more that could not be understood."""


def state_by_flags(*, offloaded: bool, assured: bool, replied: bool) -> str:
    """Return the state of a flow whose protocol has none of its own."""
    return "OFFLOAD" if offloaded else "ASSURED" if assured else "REPLIED" if replied else "UNREPLIED"


def protocol_name(number: int) -> str:
    """Return a protocol's name, `protocol 89` where the kernel's listing has none."""
    return PROTOCOLS.get(number) or f"protocol {number}"


def address_text(packed: bytes) -> str:
    """Return an address of 4 or 16 bytes as people write it (IPv6 as RFC 5952 wants it)."""
    if len(packed) == IPV4_BYTES:
        return ".".join(map(str, packed))
    text = ":".join(f"{packed[at] << 8 | packed[at + 1]:x}" for at in range(0, len(packed), 2))
    longest = max(_ZERO_GROUPS.finditer(text), key=lambda match: match.end() - match.start(), default=None)
    if longest is None:
        return text
    return f"{text[: longest.start()].rstrip(':')}::{text[longest.end() :].lstrip(':')}"
