"""A table's entries over netlink (ctnetlink), for kernels whose /proc lists none. Standard library only.

Message and attribute numbers are those of linux/netlink.h, linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache

from conntrackd_guard.core.traffic.entry import SCTP, TCP, WITH_PORTS, Batch, Entry, state_by_flags

_NETLINK_NETFILTER = 12
_DUMP_REQUEST = struct.pack("=IHHIIBBH", 20, 0x0101, 0x0301, 1, 0, 0, 0, 0)
"""A header (length, CTNETLINK's GET, REQUEST|DUMP, sequence, port) and an nfgenmsg for every address family."""
_HEADER = struct.Struct("=IH10x")
"""Length and kind; flags, sequence and port tell nothing here."""
_GENERIC_BYTES = 4
_ERROR, _DONE = 2, 3
_ATTRIBUTE = struct.Struct("=HH")
_ATTRIBUTE_BYTES = _ATTRIBUTE.size
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF  # without the flags "nested" and "network byte order"
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_INFO, _TIMEOUT = 1, 2, 3, 4, 7
_IP, _PROTOCOL = 1, 2
_IPV4_SOURCE, _IPV4_DESTINATION, _IPV6_SOURCE, _IPV6_DESTINATION = 1, 2, 3, 4
_PROTOCOL_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_SEEN_REPLY, _ASSURED, _OFFLOADED = 1 << 1, 1 << 2, 1 << 14 | 1 << 15
_STATES = {
    TCP: (1, ("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
              "SYN_SENT2")),
    SCTP: (3, ("NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD",
               "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT")),
}  # fmt: skip
"""The attribute under which a protocol's own facts come, and its states in the kernel's order."""
_STATE = 1
_BUFFER_BYTES = 32 * 1024
"""The kernel fills no more than this in one message (NLMSG_GOODSIZE is less)."""
_PATIENCE_SECONDS = 1.0
"""Each part of a dump is made while it is asked for; this only keeps a broken kernel from holding us."""

Attributes = dict[int, bytes]


def listing() -> tuple[Iterator[Batch], Callable[[], object]]:
    """Ask for the entries of the calling thread's namespace; return the batches and how to close. Raises OSError."""
    connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    try:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.send(_DUMP_REQUEST)
        first = connection.recv(_BUFFER_BYTES)
        parse(first)  # a refusal comes as the first answer
    except OSError:
        connection.close()
        raise
    return _batches(connection, first), connection.close


def parse(datagram: bytes) -> tuple[list[Entry], int, bool]:
    """Return entries, how many messages are none, and whether the dump has ended. Raises OSError for a refusal."""
    entries: list[Entry] = []
    odd = at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind = _HEADER.unpack_from(datagram, at)
        if kind == _DONE:
            return entries, odd, True
        begin = at + _HEADER.size
        if kind == _ERROR:
            number = -int.from_bytes(datagram[begin : begin + 4], sys.byteorder, signed=True)
            raise OSError(number, os.strerror(number))
        if length < _HEADER.size:
            return entries, odd + 1, True  # nothing tells where the next one begins
        try:
            entries.append(_entry(_attributes(datagram[begin + _GENERIC_BYTES : at + length])))
        except (KeyError, IndexError, struct.error, ValueError):
            odd += 1
        at += (length + 3) & ~3
    return entries, odd, False


def _batches(connection: socket.socket, first: bytes) -> Iterator[Batch]:
    datagram = first
    while True:
        entries, odd, ended = parse(datagram)
        yield entries, odd
        if ended:
            return
        datagram = connection.recv(_BUFFER_BYTES)


def _entry(found: Attributes) -> Entry:
    original, reply = _tuple(found[_ORIGINAL]), _tuple(found[_REPLY])
    protocol = original[0]
    status = int.from_bytes(found[_STATUS], "big")
    offloaded = bool(status & _OFFLOADED)
    assured = offloaded or bool(status & _ASSURED)
    replied = bool(status & _SEEN_REPLY)
    state = _own_state(protocol, found.get(_PROTOCOL_INFO, b"")) if not offloaded else ""
    remaining = found.get(_TIMEOUT)
    return Entry(
        protocol,
        state or state_by_flags(offloaded=offloaded, assured=assured, replied=replied),
        assured,
        replied,
        *original[1:],
        *reply[1:],
        None if remaining is None or offloaded else int.from_bytes(remaining, "big"),
    )


def _tuple(data: bytes) -> tuple[int, bytes, bytes, int, int]:
    """Return protocol, source, destination, and their ports."""
    if (usual := _USUAL_TUPLES.get(len(data))) is not None:
        form, heads = usual
        head_1, source, head_2, destination, head_3, number, head_4, port, head_5, to_port = form.unpack(data)
        if (head_1, head_2, head_3, head_4, head_5) == heads and number in WITH_PORTS:
            return number, source, destination, port, to_port
    return _any_tuple(data)


def _any_tuple(data: bytes) -> tuple[int, bytes, bytes, int, int]:
    """Do the same for a tuple of any form."""
    parts = _attributes(data)
    ip, protocol = _attributes(parts[_IP]), _attributes(parts[_PROTOCOL])
    number = protocol[_PROTOCOL_NUMBER][0]
    if _IPV4_SOURCE in ip:
        source, destination = ip[_IPV4_SOURCE], ip[_IPV4_DESTINATION]
    else:
        source, destination = ip[_IPV6_SOURCE], ip[_IPV6_DESTINATION]
    if {len(source), len(destination)} not in ({4}, {16}):
        raise ValueError("no addresses")
    if number not in WITH_PORTS:  # GRE's keys come under the same numbers
        return number, source, destination, 0, 0
    ports = int.from_bytes(protocol[_SOURCE_PORT], "big"), int.from_bytes(protocol[_DESTINATION_PORT], "big")
    return number, source, destination, *ports


def _usual_tuple(address_bytes: int, source: int, destination: int) -> tuple[struct.Struct, tuple[bytes, ...]]:
    """Return the form of a tuple with ports as kernels write it, and the attribute headers that it then has."""

    def head(payload_bytes: int, kind: int) -> bytes:
        return _ATTRIBUTE.pack(_ATTRIBUTE_BYTES + payload_bytes, kind)

    form = struct.Struct(f">8s{address_bytes}s4s{address_bytes}s8sB3x4sH2x4sH2x")
    heads = (
        head(2 * (_ATTRIBUTE_BYTES + address_bytes), _NESTED | _IP) + head(address_bytes, source),
        head(address_bytes, destination),
        head(24, _NESTED | _PROTOCOL) + head(1, _PROTOCOL_NUMBER),
        head(2, _SOURCE_PORT),
        head(2, _DESTINATION_PORT),
    )
    return form, heads


_USUAL_TUPLES = {
    form.size: (form, heads)
    for form, heads in (
        _usual_tuple(4, _IPV4_SOURCE, _IPV4_DESTINATION),
        _usual_tuple(16, _IPV6_SOURCE, _IPV6_DESTINATION),
    )
}
"""By their length. Looking for each attribute by itself takes five times as long."""


@lru_cache(maxsize=128)  # thousands of flows are in a dozen states
def _own_state(protocol: int, info: bytes) -> str:
    """Return the protocol's own state, "" where it has none."""
    if protocol not in _STATES or not info:
        return ""
    attribute, names = _STATES[protocol]
    return names[_attributes(_attributes(info)[attribute])[_STATE][0]]


def _attributes(data: bytes) -> Attributes:
    """Return attributes by type. Raises struct.error or ValueError for lengths that make no sense."""
    found = {}
    at, end, header = 0, len(data), _ATTRIBUTE.unpack_from  # looked up once: most of a sample's time goes here
    while at < end:
        length, kind = header(data, at)
        if not _ATTRIBUTE_BYTES <= length <= end - at:
            raise ValueError("an attribute without a sensible length")
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE_BYTES : at + length]
        at += (length + 3) & ~3
    return found
