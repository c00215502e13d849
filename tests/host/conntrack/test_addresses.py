"""The addresses of a namespace: read from files as the kernel has them, and what counts as its own."""

from __future__ import annotations

from pathlib import Path
from socket import AF_INET, AF_INET6, inet_pton

import pytest

from conntrackd_guard.host.conntrack.addresses import is_own, own_addresses
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.paths import Paths

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.7
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
"""
SIX = "fd000000000000000000000000000002 04 40 00 82     eth0\nbroken\n\n"


def a_host(root: Path, trie: str, six: str) -> tuple[NetNamespace, Paths]:
    """Return the initial namespace of a made-up host."""
    for name, content in (("fib_trie", trie), ("if_inet6", six), ("stat/nf_conntrack", "")):
        path = root / "proc/self/net" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    key = (root / "proc/self/net/stat").stat().st_ino
    return NetNamespace(key=key, namespace=1, label="initial", initial=True), Paths(root)


def test_the_addresses_of_a_namespace(tmp_path: Path) -> None:
    """Its own ones of both families, no network and no broadcast address."""
    found = own_addresses(*a_host(tmp_path, TRIE, SIX))
    assert found == frozenset({inet_pton(AF_INET, "192.0.2.7"), inet_pton(AF_INET6, "fd00::2")})


def test_a_full_routing_table_is_not_read(tmp_path: Path) -> None:
    """It takes seconds: the addresses are unknown. So they are where a file is missing."""
    netns, paths = a_host(tmp_path, TRIE + "     |-- 1.0.0.0\n        /24 universe UNICAST\n" * 30_000, SIX)
    assert own_addresses(netns, paths) is None
    (tmp_path / "proc/self/net/fib_trie").unlink()
    assert own_addresses(netns, paths) is None


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("127.0.0.1", True),
        ("127.9.0.0/24", True),
        ("0.0.0.0/0", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.7", True),
        ("192.0.2.7", True),
        ("192.0.2.0/24", True),
        ("fd00::2", True),
        ("fd00::/64", True),
        ("192.0.2.8", False),
        ("192.0.3.0/24", False),
        ("fd00::3", False),
        ("fd01::/64", False),
        ("10.0.0.1/x", True),
        ("others", True),
    ],
)
def test_what_is_own(name: str, own: bool) -> None:  # noqa: FBT001
    """Loopback, the own addresses, prefixes that have one, and what is no address."""
    assert is_own(name, [inet_pton(AF_INET, "192.0.2.7"), inet_pton(AF_INET6, "fd00::2")]) is own
