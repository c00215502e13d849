"""Sample and analyze tables, for `guard top` and for the recorder after a raise."""

import errno
import os
import time
from dataclasses import dataclass, replace
from functools import partial

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Addresses
from conntrackd_guard.core.errors import AnswerIsNo, HostError
from conntrackd_guard.core.model import Table
from conntrackd_guard.core.records import impossible_text
from conntrackd_guard.core.text import short
from conntrackd_guard.core.traffic.analysis import TableAnalysis
from conntrackd_guard.core.traffic.diagnosis import NO_LOSSES, Evidence, Losses
from conntrackd_guard.core.traffic.remedies import DEFAULT_TIMEOUTS, diagnose
from conntrackd_guard.core.traffic.sample import Sample, count_entries
from conntrackd_guard.core.usage import risen
from conntrackd_guard.host.conntrack.addresses import is_own, own_addresses
from conntrackd_guard.host.conntrack.entries import EntryReader
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner, NetNamespace, ReadOwners
from conntrackd_guard.host.conntrack.owners import find_owner, oldest_first
from conntrackd_guard.host.conntrack.setns import nsenter_prefix
from conntrackd_guard.host.conntrack.stat import Counters, MemoryReader, TableReader, impossible_count
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

LONGEST_SECONDS = 0.1
"""Three times what 5,000 entries take; on a slower host the sample is smaller and its margin larger."""
WHOLE_SECONDS = 1.0
"""Enough for some 400,000 entries on an idle host (measured: 2.4 µs each, kernel 6.18)."""
_REMEMBERED_SECONDS = 600.0
_MOST_REMEMBERED = 1000

Reading = tuple[float, Counters]
"""A table's counters, after the time.monotonic() at which they were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A readable namespace and its table."""

    netns: NetNamespace
    table: Table
    reading: Reading
    impossible: str = ""
    """Why the count can't be true, if so."""


class Sampler:
    """Finds and analyzes tables. Keeps the counters from one analysis to the next."""

    def __init__(
        self,
        paths: Paths,
        *,
        entries: int = tuning.SAMPLE_ENTRIES,
        addresses: Addresses = Addresses.FULL,
        whole: bool = False,
        read_owners: ReadOwners | None = None,
    ) -> None:
        """With `whole`, read each listing to its end, for WHOLE_SECONDS more at most, to see whether it shows all entries."""
        self._paths = paths
        self._most = entries
        self._addresses = addresses
        self._whole = whole
        self._kernel = LiveKernel(paths)
        self._scanner = NamespaceScanner(paths, read_owners)
        self._tables = TableReader(paths)
        self._memory = MemoryReader(paths, RuntimeDir(paths))
        self._entries = EntryReader(paths, enter=True)  # which the daemon's unit forbids
        self._last: dict[int, Reading] = {}

    def find(self) -> list[Found]:
        """Return every readable table, fullest first."""
        found = []
        for netns in self._scanner.scan()[0]:
            read = partial(self._tables.read, netns)
            counters = self._memory.checked(read(), read)
            if counters is not None:
                table = Table(
                    namespace=netns.number,
                    label=netns.label,
                    initial=netns.initial,
                    placed=netns.namespace is not None,
                    count=counters.count,
                    drop=counters.drop,
                    early_drop=counters.early_drop,
                    user_owned=netns.user_owned,
                    owner_unknown=netns.owner_unknown,
                    source=counters.source,
                )
                bad = impossible_count(netns, counters)
                found.append(
                    Found(
                        netns=netns,
                        table=table,
                        reading=(time.monotonic(), counters),
                        impossible="" if bad is None else impossible_text(bad),
                    )
                )
        return sorted(found, key=lambda one: (-one.table.count, not one.table.initial, one.table.namespace))

    def analyze(self, one: Found, among: list[Found]) -> TableAnalysis:
        """Sample and diagnose one table; `among` is all tables, which share the hash table. Raises HostError."""
        limit, buckets = self._kernel.limit_in_force(), self._kernel.buckets()
        if limit is None:
            cause = OSError(errno.ENOENT, "no connection tracking")
            raise HostError("read", self._paths.limit, cause, "Nothing is tracked here.")
        began = time.monotonic()
        then, before = self._last.get(one.netns.key, one.reading)
        if began - then > _REMEMBERED_SECONDS:
            then, before = one.reading
        timeouts = self._tables.timeouts(one.netns, DEFAULT_TIMEOUTS)
        sample, source = self._sample(one, timeouts.get("nf_conntrack_tcp_timeout_established"))
        took = time.monotonic() - began
        losses, now, after = NO_LOSSES, time.monotonic(), self._tables.read(one.netns)
        counted = sample.table_entries
        if after is not None:
            counted = min(counted, after.count)
            losses = Losses(
                seconds=now - then,
                insert_failed=risen(before.insert_failed, after.insert_failed),
                chain_too_long=risen(before.chain_too_long, after.chain_too_long),
            )
            if len(self._last) > _MOST_REMEMBERED:
                self._last.clear()
            self._last[one.netns.key] = now, after
        has_chain_limit = after is None or after.drop is None or after.chain_too_long is not None
        evidence = Evidence(
            sample=sample,
            losses=losses,
            in_use=sum(found.table.count for found in among if not found.impossible),
            buckets=buckets if has_chain_limit else None,
            inside=nsenter_prefix(oldest_first(one.netns, self._paths), self._paths),
            timeouts=timeouts,
            own_sources=self._own_sources(one, among, sample),
            namespace="" if one.netns.initial else str(one.table.namespace),
            unlisted=0 if sample.listed is None else max(0, counted - sample.listed),
            impossible=one.impossible,
        )
        return TableAnalysis(
            wall_seconds=time.time(),
            limit=limit,
            table=one.table,
            owner=find_owner(one.netns, self._paths),
            sample=sample,
            findings=diagnose(evidence),
            source=source,
            took_seconds=took,
        )

    def _own_sources(self, one: Found, among: list[Found], sample: Sample) -> frozenset[str] | None:
        """Return the sources that are the namespace's or the host's own, None if either's addresses can't be read."""
        own: set[bytes] = set()
        for netns in (one.netns, *(found.netns for found in among if found.netns.initial and found is not one)):
            addresses = own_addresses(netns, self._paths)
            if addresses is None:
                return None
            own |= addresses
        return frozenset(group.name for group in sample.sources.top if is_own(group.name, own))

    def _sample(self, one: Found, established_seconds: int | None) -> tuple[Sample, str]:
        with self._entries.open(one.netns) as listing:
            entries = listing.entries(most=self._most, seconds=LONGEST_SECONDS)
            sample = count_entries(
                entries,
                table_entries=one.table.count,
                addresses=self._addresses,
                established_seconds=established_seconds,
            )
            sample = replace(sample, skipped=listing.skipped)
            listed = listing.count(seconds=WHOLE_SECONDS if self._whole else 0.0)
            return replace(sample, listed=listed), listing.source

    def listed(self, one: Found) -> tuple[int, int | None]:
        """Return how many entries a table counts, and how many its listing has; None if that takes longer than WHOLE_SECONDS.

        The count is the lower one of those before and after the listing, which frees expired entries. Raises HostError.
        """
        with self._entries.open(one.netns) as listing:
            number = listing.count(seconds=WHOLE_SECONDS)
        after = self._tables.read(one.netns)
        return one.table.count if after is None else min(one.table.count, after.count), number


def choose(found: list[Found], wanted: str | None) -> Found:
    """Return the table of a namespace by number or name, by default the fullest. Raises AnswerIsNo."""
    if wanted is None:
        if not found:
            raise AnswerIsNo(
                f"No table can be read. {'`guard doctor` says why.' if os.geteuid() == 0 else 'Run this as root.'}"
            )
        return found[0]
    for one in found:
        if wanted in {str(one.table.namespace), one.table.label}:
            return one
    raise AnswerIsNo(
        f"No table of namespace {short(wanted)} can be read. `guard status` lists the tables with entries."
    )
