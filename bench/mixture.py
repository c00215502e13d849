"""A table of known composition: the flows it holds, and the share of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CYCLE = 20
"""Number of flows after which the kinds repeat: a table of a multiple has the exact shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    flows: int
    """Of each CYCLE."""
    line: str
    """For `conntrack -R`; {client}, {client6} and {target} are addresses that no other flow has."""
    groups: Mapping[str, str]
    """The group of each ranking in the JSON of `guard top`."""


_KINDS = (
    _Kind(  # live flows
        flows=8,
        line=(
            "-s {client} -d 10.200.0.1 -r 10.200.0.1 -q {client} -p tcp --sport 40000 --dport 443 "
            "--reply-port-src 443 --reply-port-dst 40000 -t 432000 --state ESTABLISHED -u SEEN_REPLY,ASSURED"
        ),
        groups={"protocols": "tcp", "states": "tcp ESTABLISHED", "destinations": "tcp 10.200.0.1:443"},
    ),
    _Kind(  # answered questions that NAT led to a pod
        flows=6,
        line=(
            "-s {client} -d 10.96.0.10 -r 10.244.1.5 -q {client} -p udp --sport 40000 --dport 53 "
            "--reply-port-src 5353 --reply-port-dst 40000 -t 3600 -u SEEN_REPLY"
        ),
        groups={"protocols": "udp", "states": "udp REPLIED", "destinations": "udp 10.96.0.10:53", "ports": "udp 53"},
    ),
    _Kind(  # a scan from one address
        flows=3,
        line=(
            "-s 198.51.100.7 -d {target} -r {target} -q 198.51.100.7 -p tcp --sport 40000 --dport 22 "
            "--reply-port-src 22 --reply-port-dst 40000 -t 3600 --state SYN_SENT"
        ),
        groups={"protocols": "tcp", "states": "tcp SYN_SENT", "sources": "198.51.100.7", "ports": "tcp 22"},
    ),
    _Kind(  # the same over IPv6, to one address
        flows=2,
        line=(
            "-s {client6} -d 2001:db8:1::1 -r 2001:db8:1::1 -q {client6} -p tcp --sport 40000 "
            "--dport 80 --reply-port-src 80 --reply-port-dst 40000 -t 3600 --state SYN_SENT"
        ),
        groups={"protocols": "tcp", "states": "tcp SYN_SENT", "destinations": "tcp [2001:db8:1::1]:80"},
    ),
    _Kind(  # QUIC
        flows=1,
        line=(
            "-s {client} -d 10.200.0.3 -r 10.200.0.3 -q {client} -p udp --sport 40000 --dport 4433 "
            "--reply-port-src 4433 --reply-port-dst 40000 -t 3600 -u SEEN_REPLY,ASSURED"
        ),
        groups={"protocols": "udp", "states": "udp ASSURED", "destinations": "udp 10.200.0.3:4433"},
    ),
)


def lines(flows: int) -> Iterator[bytes]:
    """Yield up to 16,777,216 flows, each as input for `conntrack -R`."""
    order = [kind for kind in _KINDS for _ in range(kind.flows)]
    for number in range(flows):
        low = f"{number >> 16}.{number >> 8 & 255}.{number & 255}"
        client6 = f"2001:db8::{number >> 16:x}:{number & 0xFFFF:x}"
        line = order[number % CYCLE].line.format(client=f"10.{low}", target=f"100.{low}", client6=client6)
        yield f"-A {line}\n".encode()


def shares() -> dict[tuple[str, str], float]:
    """Return the shares (0 to 1), by the ranking in the JSON of `guard top` and the name in it."""
    found: dict[tuple[str, str], float] = {}
    for kind in _KINDS:
        for key in kind.groups.items():
            found[key] = found.get(key, 0.0) + kind.flows / CYCLE
    return found
