"""Hash chains: how long they are, the buckets that keep them short, and the packets that the kernel drops for them. Pure.

All namespaces share one hash table, and every entry is in two chains, one for each direction. Since 5.15 the kernel drops
a new connection whose chain is too long, without a message; older kernels have no such limit.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from conntrackd_guard.core.model import Observation, Table
from conntrackd_guard.core.usage import risen

CHAIN_ADVISE = 8
"""Average chain from which new flows cost noticeably more (11 µs at 1.9, 14 at 7.6)."""
CHAIN_HOLD = 24
"""Average chain beyond which inserts begin to be lost without a log message (1e-7 at 24, 0.02 % at 32)."""
BUCKETS_ROUNDED_TO = 512
"""The kernel rounds a new number of buckets up to a page of list heads."""
QUIET_SECONDS = 150.0
"""Losses are over after this time without a new one: while use is low, tables are read once a minute."""
_STALL_MS = 0.5e-3
"""A resize holds all locks for about 0.5 µs an entry."""


def average(entries: int, buckets: int | None) -> float | None:
    """Return the average chain of that many entries in all namespaces; None if the buckets are unknown."""
    return 2 * entries / buckets if buckets else None


def enough_buckets(entries: int) -> int:
    """Return the smallest number of buckets in which that many entries have chains of at most CHAIN_ADVISE."""
    return max(1, math.ceil(2 * entries / CHAIN_ADVISE / BUCKETS_ROUNDED_TO)) * BUCKETS_ROUNDED_TO


def stall_ms(entries: int) -> float:
    """Return for how long a resize stops all traffic while that many entries exist, in milliseconds."""
    return _STALL_MS * entries


def resize_command(buckets: int) -> str:
    """Return the command that sets the number of buckets until the next boot."""
    return f"sysctl -w net.netfilter.nf_conntrack_buckets={buckets}"


def keep_command(buckets: int) -> str:
    """Return the command that has every boot set the number of buckets."""
    return f"echo net.netfilter.nf_conntrack_buckets={buckets} > /etc/sysctl.d/90-conntrack-buckets.conf"


def alive(observation: Observation) -> int:
    """Return the entries that exist in all namespaces."""
    return sum(table.alive for table in observation.tables) + observation.small_entries + observation.hidden_entries


class ChainLosses:
    """Packets that tables lost to long chains, as the main loop's readings show them."""

    def __init__(self) -> None:
        self._counters: dict[int, int] = {}
        self._lost: dict[int, int] = {}
        """Of the namespaces with losses, since these began."""
        self._present: Collection[int] = ()
        self._read_seconds = self._lost_seconds = 0.0
        self.since_seconds: float | None = None
        """The last moment before the losses began (CLOCK_BOOTTIME); None if there are none."""

    @property
    def total(self) -> int:
        """Packets lost since then."""
        return sum(self._lost.values())

    def look(self, tables: Sequence[Table], present: Collection[int], now: float) -> None:
        """Take in a reading of some of the namespaces `present`. A table's first reading is only a base."""
        if present is not self._present:
            self._counters = {name: count for name, count in self._counters.items() if name in present}
            self._present = present
        is_losing = False
        for table in tables:
            if table.chain_too_long is None:
                continue
            if rise := risen(self._counters.get(table.namespace), table.chain_too_long):
                self._lost[table.namespace] = self._lost.get(table.namespace, 0) + rise
                is_losing = True
            self._counters[table.namespace] = table.chain_too_long
        if is_losing:
            self._lost_seconds = now
            if self.since_seconds is None:
                self.since_seconds = self._read_seconds
        elif self.since_seconds is not None and now - self._lost_seconds >= QUIET_SECONDS:
            self._lost, self.since_seconds = {}, None
        if tables:
            self._read_seconds = now

    def mark(self, observation: Observation) -> Observation:
        """Return the observation with each table's losses."""
        tables = (replace(table, lost_to_chains=self._lost.get(table.namespace)) for table in observation.tables)
        return replace(observation, tables=tuple(tables))
