"""Read a table's counters over netlink (ctnetlink), for kernels without the statistics file. Standard library only.

Needs CAP_NET_ADMIN. Message and attribute numbers are those of linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import os
import socket
import struct
import sys
from dataclasses import dataclass

from conntrackd_guard.host.conntrack.entries_netlink import attributes

_NETLINK_NETFILTER = 12
_STATS_CPU, _STATS = 0x0104, 0x0105
"""CTNETLINK's GET_STATS_CPU and GET_STATS."""
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 0x0001, 0x0300
_MESSAGE = struct.Struct("=IHHIIBBH")
"""A header (length, kind, flags, sequence, port) and an nfgenmsg."""
_HEADER = struct.Struct("=IH10x")
_GLOBAL_LIMIT = 2
_INSERT_FAILED, _DROP, _EARLY_DROP, _CLASH_RESOLVED, _CHAIN_TOO_LONG = 9, 10, 11, 14, 15
_BUFFER_BYTES = 32 * 1024
"""The kernel's messages are smaller (NLMSG_GOODSIZE): some 300 processors, at 100 bytes each."""
_MOST_DATAGRAMS = 1000
"""Far more processors than any kernel has (NR_CPUS 8192)."""


@dataclass(slots=True)
class Statistics:
    """The sums of the per-CPU counters of the calling thread's namespace, and the limit of all namespaces."""

    limit: int | None = None
    """None before Linux 4.18."""
    insert_failed: int = 0
    drop: int = 0
    early_drop: int = 0
    clash_resolved: int | None = None
    """None if this kernel does not count them."""
    chain_too_long: int | None = None
    """None if this kernel has no chain limit."""


def read_statistics() -> Statistics:
    """Return the calling thread's namespace's counters. Raises OSError, or ValueError for an answer that can't be parsed.

    Never waits: the kernel prepares its answers within the calls.
    """
    found = Statistics()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as connection:
        connection.settimeout(0)
        for kind, flags in ((_STATS, _REQUEST), (_STATS_CPU, _REQUEST | _DUMP)):
            connection.send(_MESSAGE.pack(_MESSAGE.size, kind, flags, 1, 0, 0, 0, 0))
        for _ in range(_MOST_DATAGRAMS):
            if take(found, connection.recv(_BUFFER_BYTES)):
                return found
    raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))


def take(found: Statistics, datagram: bytes) -> bool:
    """Add the messages of a datagram to `found`; return whether they end the answer. Raises OSError or ValueError."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind = _HEADER.unpack_from(datagram, at)
        if kind == _DONE:
            return True
        if kind == _ERROR:
            begin = at + _HEADER.size
            number = -int.from_bytes(datagram[begin : begin + 4], sys.byteorder, signed=True)
            raise OSError(number, os.strerror(number))
        if not _MESSAGE.size <= length <= len(datagram) - at:
            raise ValueError("a netlink message with an invalid length")
        try:
            parts = attributes(datagram[at + _MESSAGE.size : at + length])
        except struct.error as error:
            raise ValueError(str(error)) from error
        values = {name: int.from_bytes(data, "big") for name, data in parts.items()}
        if kind == _STATS:
            found.limit = values.get(_GLOBAL_LIMIT)
        elif kind == _STATS_CPU:
            _add(found, values)
        at += (length + 3) & ~3
    return False


def _add(found: Statistics, values: dict[int, int]) -> None:
    """Add one processor's counters."""
    found.insert_failed += values.get(_INSERT_FAILED, 0)
    found.drop += values.get(_DROP, 0)
    found.early_drop += values.get(_EARLY_DROP, 0)
    if _CLASH_RESOLVED in values:
        found.clash_resolved = (found.clash_resolved or 0) + values[_CLASH_RESOLVED]
    if _CHAIN_TOO_LONG in values:
        found.chain_too_long = (found.chain_too_long or 0) + values[_CHAIN_TOO_LONG]
