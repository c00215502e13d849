"""A sample of a table's entries, counted by kind. Pure; entries come from `host.conntrack.entries`.

The kernel lists a table in the order of its hash, which is keyed with a secret of the boot. The first entries of a
listing are therefore a random sample: their shares are the table's, within a margin.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from conntrackd_guard.core.configuration import Addresses
from conntrackd_guard.core.traffic.entry import IPV4_BYTES, TCP, UDP, Entry, address_text, protocol_name

TOP = 10
"""Judgement: nobody acts on the eleventh largest group."""
_CONFIDENCE = 1.96
"""Standard deviations on either side that contain 95 % of all samples."""

DNS_PORT = 53
_ESTABLISHED = "ESTABLISHED"
_HALF_OPEN = frozenset({"SYN_SENT", "SYN_SENT2", "SYN_RECV"})
IDLE_SECONDS = 7440
"""RFC 5382 (REQ-5): minimum timeout of an idle established TCP connection, 2 h 4 min."""
_UNACKNOWLEDGED_SECONDS = 300
"""nf_conntrack_tcp_timeout_unacknowledged: timeout of an established connection with data in flight."""
_LIFETIMES = (
    (30, "under 30 s"),
    (120, "30 s to 2 min"),
    (600, "2 to 10 min"),
    (3600, "10 min to 1 h"),
    (86_400, "1 h to 1 day"),
    (math.inf, "over 1 day"),
)
"""The kernel's timeouts: 30 s unanswered UDP, 120 s UDP streams and closing TCP, 600 s others, 5 days established."""
_NO_TIMEOUT = "offloaded"
_PREFIX_BYTES = {IPV4_BYTES: 3, 16: 6}
"""Bytes kept of an address with `prefix`: IPv4 /24, IPv6 /48 (a site)."""

K = TypeVar("K")
L = TypeVar("L")
_Destination = tuple[int, bytes, int]
"""Protocol, address, port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Entries with something in common."""

    name: str
    entries: int
    translated: int = 0
    """Of a destination: entries whose destination NAT changes."""
    unanswered: int = 0
    """Of a source: entries without an answer, or half-open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The largest groups of a kind, and the number of all groups."""

    top: tuple[Group, ...] = ()
    distinct: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Counts of one table's sample. All but `table_entries` and `listed` count entries of the sample."""

    table_entries: int
    """Entries in the table."""
    seen: int
    listed: int | None = None
    """Entries in the listing, None if it was not read to its end."""
    skipped: int = 0
    """Lines or messages that could not be parsed; not in the sample."""
    addresses: Addresses = Addresses.FULL
    assured: int = 0
    unanswered: int = 0
    """Without an answer, or half-open."""
    idle: int = 0
    """Established TCP connections without a packet for IDLE_SECONDS or more."""
    dns: int = 0
    """UDP to port 53."""
    dns_translated: int = 0
    ipv6: int = 0
    source_translated: int = 0
    destination_translated: int = 0
    protocols: Ranking = Ranking()
    states: Ranking = Ranking()
    ports: Ranking = Ranking()
    destinations: Ranking = Ranking()
    sources: Ranking = Ranking()
    lifetimes: Ranking = Ranking()
    """By time until they expire, shortest first."""

    @property
    def total(self) -> int:
        """Entries that the sample is of: those of the listing if it was read to its end, else those counted."""
        return max(self.seen, self.table_entries if self.listed is None else self.listed)

    @property
    def margin(self) -> float:
        """Margin of error of a share (0 to 1): 19 of 20 samples are within it."""
        if self.seen == 0:
            return 1.0
        if self.seen == self.total:
            return 0.0
        unseen = (self.total - self.seen) / (self.total - 1)
        return min(1.0, _CONFIDENCE * math.sqrt(0.25 / self.seen * unseen))

    def share(self, entries: int) -> float:
        """Return entries of the sample as a share of it (0 to 1)."""
        return entries / self.seen if self.seen else 0.0


def count_entries(
    entries: Iterable[Entry],
    *,
    table_entries: int,
    addresses: Addresses = Addresses.FULL,
    established_seconds: int | None = None,
) -> Sample:
    """Return the counts of `entries`, which are read one by one and not kept.

    `established_seconds` is the namespace's timeout of established TCP connections, None if unknown.
    """
    states: Counter[tuple[int, str, bool, bool]] = Counter()
    destinations: Counter[_Destination] = Counter()
    translated: Counter[_Destination] = Counter()
    sources: Counter[bytes] = Counter()
    unanswered: Counter[bytes] = Counter()
    remaining: Counter[int | None] = Counter()
    established: list[int] = []
    masqueraded = 0
    for (  # unpacking is three times as fast as access by name
        protocol, state, assured, replied, source, address, source_port, port,
        reply_source, reply_destination, reply_source_port, reply_destination_port, left,
    ) in entries:  # fmt: skip
        destination = (protocol, address, port)
        states[protocol, state, assured, replied] += 1
        destinations[destination] += 1
        sources[source] += 1
        if not replied or state in _HALF_OPEN:
            unanswered[source] += 1
        remaining[left] += 1
        if address != reply_source or port != reply_source_port:
            translated[destination] += 1
        if source != reply_destination or source_port != reply_destination_port:
            masqueraded += 1
        if protocol == TCP and state == _ESTABLISHED and left is not None:
            established.append(left)
    by_destination, by_source = _by_address(destinations, translated, sources, unanswered, addresses)
    return Sample(
        table_entries=table_entries,
        seen=states.total(),
        addresses=addresses,
        assured=sum(count for (_, _, assured, _), count in states.items() if assured),
        unanswered=unanswered.total(),
        idle=_idle(established, established_seconds),
        dns=_to_dns(destinations),
        dns_translated=_to_dns(translated),
        ipv6=sum(count for source, count in sources.items() if len(source) > IPV4_BYTES),
        source_translated=masqueraded,
        destination_translated=translated.total(),
        protocols=_ranking(states, lambda key: key[0], protocol_name),
        states=_ranking(states, lambda key: key[:2], lambda key: f"{protocol_name(key[0])} {key[1]}"),
        ports=_ranking(destinations, lambda key: (key[0], key[2]), _port_name),
        destinations=by_destination,
        sources=by_source,
        lifetimes=_lifetimes(remaining),
    )


def _idle(established: list[int], timeout: int | None) -> int:
    """Return the number of established TCP connections that have been idle for IDLE_SECONDS or more.

    Each packet resets a connection's time left to the timeout. If the timeout is unknown, or was longer at that packet,
    the longest time left in the sample is used: with one timeout for all connections this never overestimates.
    """
    longest = max(established, default=0)
    reset = ((left, longest if timeout is None or left > timeout else timeout) for left in established)
    return sum(_UNACKNOWLEDGED_SECONDS < left <= full - IDLE_SECONDS for left, full in reset)


def _to_dns(counts: Mapping[_Destination, int]) -> int:
    return sum(count for (protocol, _, port), count in counts.items() if protocol == UDP and port == DNS_PORT)


def _by_address(
    destinations: Counter[_Destination],
    translated: Counter[_Destination],
    sources: Counter[bytes],
    unanswered: Counter[bytes],
    addresses: Addresses,
) -> tuple[Ranking, Ranking]:
    """Return the largest destinations and sources, by addresses as they may be stored: whole, or their network only."""
    if addresses is Addresses.OFF:
        return Ranking(), Ranking()
    is_prefix = addresses is Addresses.PREFIX

    def kept(address: bytes) -> bytes:
        return address[: _PREFIX_BYTES[len(address)]].ljust(len(address), b"\0") if is_prefix else address

    def name(address: bytes) -> str:
        return address_text(address) + (f"/{8 * _PREFIX_BYTES[len(address)]}" if is_prefix else "")

    def with_port(key: _Destination) -> str:
        protocol, address, port = key
        text = name(address)
        if port:
            text = f"{text}:{port}" if len(address) == IPV4_BYTES else f"[{text}]:{port}"
        return f"{protocol_name(protocol)} {text}"

    by_destination = _ranking(
        destinations, lambda key: (key[0], kept(key[1]), key[2]), with_port, translated=translated
    )
    return by_destination, _ranking(sources, kept, name, unanswered=unanswered)


def _port_name(key: tuple[int, int]) -> str:
    protocol, port = key
    return f"{protocol_name(protocol)} {port}" if port else protocol_name(protocol)


def _ranking(
    counts: Mapping[K, int],
    key: Callable[[K], L],
    name: Callable[[L], str],
    *,
    translated: Mapping[K, int] = MappingProxyType({}),
    unanswered: Mapping[K, int] = MappingProxyType({}),
) -> Ranking:
    """Return the largest groups by `key`; naming them all would take longest."""
    groups, changed, silent = Counter[L](), Counter[L](), Counter[L]()
    for merged, each in ((groups, counts), (changed, translated), (silent, unanswered)):
        for item, count in each.items():
            merged[key(item)] += count
    top = tuple(
        Group(name=name(group), entries=count, translated=changed[group], unanswered=silent[group])
        for group, count in groups.most_common(TOP)
    )
    return Ranking(top=top, distinct=len(groups))


def _lifetimes(remaining: Mapping[int | None, int]) -> Ranking:
    counts = dict.fromkeys([*(name for _, name in _LIFETIMES), _NO_TIMEOUT], 0)
    for seconds, count in remaining.items():
        counts[_NO_TIMEOUT if seconds is None else next(name for most, name in _LIFETIMES if seconds < most)] += count
    groups = tuple(Group(name=name, entries=count) for name, count in counts.items() if count)
    return Ranking(top=groups, distinct=len(groups))
