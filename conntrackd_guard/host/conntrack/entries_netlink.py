"""Read a table's entries over netlink (ctnetlink), for kernels without a listing in /proc. Standard library only.

Message and attribute numbers are those of linux/netlink.h, linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
"""

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache

from conntrackd_guard.core.traffic.entry import SCTP, TCP, WITH_PORTS, Batch, Entry, state_by_flags

_NETLINK_NETFILTER = 12
_DUMP_REQUEST = struct.pack("=IHHIIBBH", 20, 0x0101, 0x0301, 1, 0, 0, 0, 0)
"""A header (length, CTNETLINK's GET, REQUEST|DUMP, sequence, port) and an nfgenmsg for all address families."""
_HEADER = struct.Struct("=IH10x")
"""Length and kind; flags, sequence and port are ignored."""
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
"""The protocol's attribute, and its states in the kernel's order."""
_STATE = 1
_BUFFER_BYTES = 32 * 1024
"""The kernel's messages are smaller (NLMSG_GOODSIZE)."""
_PATIENCE_SECONDS = 1.0
"""The kernel prepares each part of a dump on request; only a broken kernel takes this long."""


def listing() -> tuple[Iterator[Batch], Callable[[], object]]:
    """Request the entries of the calling thread's namespace; return batches and a close function. Raises OSError."""
    connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    try:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.send(_DUMP_REQUEST)
        first = connection.recv(_BUFFER_BYTES)
        parse(first)  # the first answer may be an error
    except OSError:
        connection.close()
        raise
    return _batches(connection, first), connection.close


def parse(datagram: bytes) -> tuple[list[Entry], int, bool]:
    """Return entries, the number of other messages, and whether the dump has ended. Raises OSError."""
    entries: list[Entry] = []
    skipped = at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind = _HEADER.unpack_from(datagram, at)
        if kind == _DONE:
            return entries, skipped, True
        begin = at + _HEADER.size
        if kind == _ERROR:
            number = -int.from_bytes(datagram[begin : begin + 4], sys.byteorder, signed=True)
            raise OSError(number, os.strerror(number))
        if length < _HEADER.size:
            return entries, skipped + 1, True  # the next message can't be found
        try:
            entries.append(_entry(attributes(datagram[begin + _GENERIC_BYTES : at + length])))
        except (KeyError, IndexError, struct.error, ValueError):
            skipped += 1
        at += (length + 3) & ~3
    return entries, skipped, False


def _batches(connection: socket.socket, first: bytes) -> Iterator[Batch]:
    datagram = first
    while True:
        entries, skipped, ended = parse(datagram)
        yield entries, skipped
        if ended:
            return
        datagram = connection.recv(_BUFFER_BYTES)


def _entry(found: dict[int, bytes]) -> Entry:
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
    parts = attributes(data)
    ip, protocol = attributes(parts[_IP]), attributes(parts[_PROTOCOL])
    number = protocol[_PROTOCOL_NUMBER][0]
    source = ip.get(_IPV4_SOURCE) or ip[_IPV6_SOURCE]
    destination = ip.get(_IPV4_DESTINATION) or ip[_IPV6_DESTINATION]
    if {len(source), len(destination)} not in ({4}, {16}):
        raise ValueError("addresses of different length")
    if number not in WITH_PORTS:  # GRE uses the same numbers for its keys
        return number, source, destination, 0, 0
    ports = int.from_bytes(protocol[_SOURCE_PORT], "big"), int.from_bytes(protocol[_DESTINATION_PORT], "big")
    return number, source, destination, *ports


def _usual_tuple(address_bytes: int, source: int, destination: int) -> tuple[struct.Struct, tuple[bytes, ...]]:
    """Return the usual layout of a tuple with ports, and its attribute headers."""

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
"""By length. Parsing each attribute separately takes five times as long."""


@lru_cache(maxsize=128)  # thousands of entries are in a dozen states
def _own_state(protocol: int, info: bytes) -> str:
    """Return the protocol's state, "" if it has none."""
    if protocol not in _STATES or not info:
        return ""
    attribute, names = _STATES[protocol]
    return names[attributes(attributes(info)[attribute])[_STATE][0]]


def attributes(data: bytes) -> dict[int, bytes]:
    """Return attributes by type. Raises struct.error or ValueError for invalid lengths."""
    found = {}
    at, end, header = 0, len(data), _ATTRIBUTE.unpack_from  # bound once: most of a sample's time is spent here
    while at < end:
        length, kind = header(data, at)
        if not _ATTRIBUTE_BYTES <= length <= end - at:
            raise ValueError("an attribute with an invalid length")
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE_BYTES : at + length]
        at += (length + 3) & ~3
    return found
