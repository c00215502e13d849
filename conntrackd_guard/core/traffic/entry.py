"""One entry of a table, independent of how it was read. Pure."""

import re
from typing import NamedTuple

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 58: "icmpv6", 132: "sctp", 136: "udplite"}
"""The kernel's names (net/netfilter/nf_conntrack_standalone.c)."""
TCP, UDP, SCTP = 6, 17, 132
WITH_PORTS = frozenset({TCP, UDP, 33, SCTP, 136})
IPV4_BYTES = 4
_ZERO_GROUPS = re.compile(r"\b0(?::0)+\b")


class Entry(NamedTuple):
    """One entry of a table.

    Not a dataclass: a frozen one takes 2.5 µs more, for thousands of entries.
    """

    protocol: int
    state: str
    """The protocol's (TCP, SCTP, DCCP); OFFLOAD if offloaded; otherwise UNREPLIED, REPLIED or ASSURED."""
    assured: bool
    """The kernel does not evict it: enough traffic has gone both ways."""
    replied: bool
    source: bytes
    """The client's address. Addresses have 4 or 16 bytes."""
    destination: bytes
    """The server's address before NAT."""
    source_port: int
    """Ports are 0 if the protocol has none."""
    destination_port: int
    reply_source: bytes
    """The server's address after NAT."""
    reply_destination: bytes
    """The client's address after NAT."""
    reply_source_port: int
    reply_destination_port: int
    remaining_seconds: int | None
    """Until it expires without a packet; None if offloaded."""


Batch = tuple[list[Entry], int]
"""Entries of one read, and the number of lines or messages that could not be parsed."""


def state_by_flags(*, offloaded: bool, assured: bool, replied: bool) -> str:
    """Return the state of an entry whose protocol has none."""
    return "OFFLOAD" if offloaded else "ASSURED" if assured else "REPLIED" if replied else "UNREPLIED"


def protocol_name(number: int) -> str:
    """Return a protocol's name, or `protocol 89` if the kernel has none."""
    return PROTOCOLS.get(number) or f"protocol {number}"


def address_text(packed: bytes) -> str:
    """Return an address of 4 or 16 bytes as text (IPv6: RFC 5952)."""
    if len(packed) == IPV4_BYTES:
        return ".".join(map(str, packed))
    text = ":".join(f"{packed[at] << 8 | packed[at + 1]:x}" for at in range(0, len(packed), 2))
    longest = max(_ZERO_GROUPS.finditer(text), key=lambda match: match.end() - match.start(), default=None)
    if longest is None:
        return text
    return f"{text[: longest.start()].rstrip(':')}::{text[longest.end() :].lstrip(':')}"
