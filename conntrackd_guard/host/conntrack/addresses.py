"""The addresses that a network namespace calls its own: no command of ours may drop them."""

import re
from collections.abc import Collection
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import process_of, run_in_netns
from conntrackd_guard.host.paths import Paths

_MOST_BYTES = 1 << 20
"""Some 10,000 routes. A router with a full table has 60 MiB of them, which take seconds to read."""
_LOCAL = re.compile(rb"\|-- ([0-9.]{7,15})\n\s+/32 host LOCAL\n")
"""/proc/net/fib_trie: an address, and below it what it is."""
_HEX_DIGITS = 32
_LOOPBACK_4, _LOOPBACK_6 = bytes([127, 0, 0, 1]), bytes(15) + b"\x01"
_LOOPBACK_BITS = 8
"""127.0.0.0/8."""
_MAPPED = bytes(10) + b"\xff\xff"
"""::ffff:0:0/96, IPv4 addresses in IPv6 (RFC 4291)."""


def own_addresses(netns: NetNamespace, paths: Paths) -> frozenset[bytes] | None:
    """Return the packed IPv4 and IPv6 addresses of a namespace; None if they can't be read. Never raises."""
    for pid in ("self",) if netns.initial else netns.pids:
        try:
            with process_of(netns, str(paths.proc), pid) as folder:
                return _read(Path(folder) / "net")
        except (OSError, ValueError):
            continue
    if netns.initial:
        return None
    try:
        return run_in_netns(netns, lambda: _read(Path("/proc/thread-self/net")))
    except (OSError, ValueError):
        return None


def is_own(name: str, own: Collection[bytes]) -> bool:
    """Return whether an address, or any of a prefix such as `10.0.0.0/24`, is a loopback or one of `own` (packed).

    True for what is no address: a rule for it would be a guess.
    """
    address, _, length = name.partition("/")
    try:
        packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
        spare = 8 * len(packed) - int(length or 8 * len(packed))
    except (OSError, ValueError):
        return True
    if packed.startswith(_MAPPED):
        return is_own(inet_ntop(AF_INET, packed[len(_MAPPED) :]), own)
    if len(packed) == len(_LOOPBACK_4) and packed[0] == _LOOPBACK_4[0] and int(length or 32) >= _LOOPBACK_BITS:
        return True
    first = int.from_bytes(packed, "big") >> spare
    known = (_LOOPBACK_4, _LOOPBACK_6, *own)
    return any(len(each) == len(packed) and int.from_bytes(each, "big") >> spare == first for each in known)


def _read(folder: Path) -> frozenset[bytes]:
    """Return the addresses in a /proc/PID/net. Raises OSError, also for a table too large to read, or ValueError."""
    trie, six = (files.read(folder / name, _MOST_BYTES) for name in ("fib_trie", "if_inet6"))
    found = {inet_pton(AF_INET, address.decode("ascii")) for address in _LOCAL.findall(trie)}
    rows = (row.split(None, 1) for row in six.splitlines())
    return frozenset(
        found | {bytes.fromhex(row[0].decode("ascii")) for row in rows if row and len(row[0]) == _HEX_DIGITS}
    )
