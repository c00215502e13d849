"""Sample and analyze tables, for `guard top` and for the recorder after a raise."""

import errno
import time
from dataclasses import dataclass, replace

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Addresses
from conntrackd_guard.core.errors import AnswerIsNo, HostError
from conntrackd_guard.core.model import Table
from conntrackd_guard.core.traffic.analysis import TableAnalysis
from conntrackd_guard.core.traffic.diagnosis import NO_LOSSES, Evidence, Losses
from conntrackd_guard.core.traffic.remedies import diagnose
from conntrackd_guard.core.traffic.sample import Sample, count_entries
from conntrackd_guard.core.usage import risen
from conntrackd_guard.host.conntrack.entries import EntryReader
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner, NetNamespace
from conntrackd_guard.host.conntrack.owners import OwnerReader
from conntrackd_guard.host.conntrack.setns import nsenter_prefix
from conntrackd_guard.host.conntrack.stat import LossCounters, TableReader, established_seconds, read_losses
from conntrackd_guard.host.paths import Paths

LONGEST_SECONDS = 0.1
"""Three times what 5,000 entries take; on a slower host the sample is smaller and its margin larger."""
_REMEMBERED_SECONDS = 600.0
_MOST_REMEMBERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A readable namespace and its table."""

    netns: NetNamespace
    table: Table


class Sampler:
    """Finds and analyzes tables. Keeps the loss counters from one analysis to the next.

    `enter` allows entering a namespace if /proc has no listing; the daemon's unit forbids that.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        enter: bool,
        entries: int = tuning.SAMPLE_ENTRIES,
        addresses: Addresses = Addresses.FULL,
    ) -> None:
        self._paths = paths
        self._enter = enter
        self._most = entries
        self._addresses = addresses
        self._kernel = LiveKernel(paths)
        self._scanner = NamespaceScanner(paths)
        self._tables = TableReader(paths)
        self._entries = EntryReader(paths, enter=enter)
        self._owners = OwnerReader(paths)
        self._last: dict[int, LossCounters] = {}

    def find(self) -> list[Found]:
        """Return every readable table, fullest first."""
        found = []
        for netns in self._scanner.scan()[0]:
            counters = self._tables.read(netns)
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
                    source=counters.source,
                )
                found.append(Found(netns=netns, table=table))
        return sorted(found, key=lambda one: (-one.table.count, not one.table.initial, one.table.namespace))

    def analyze(self, one: Found, among: list[Found]) -> TableAnalysis:
        """Sample and diagnose one table; `among` is all tables, which share the hash table. Raises HostError."""
        limit, buckets = self._kernel.limit_in_force(), self._kernel.buckets()
        if limit is None:
            cause = OSError(errno.ENOENT, "no connection tracking")
            raise HostError("read", self._paths.limit, cause, "Nothing is tracked here.")
        began = time.monotonic()
        before = self._before(one.netns)
        sample, source = self._sample(one)
        took = time.monotonic() - began
        after = read_losses(one.netns, self._paths, enter=self._enter)
        if after is not None:
            self._last[one.netns.key] = after
        evidence = Evidence(
            sample=sample,
            losses=_increase(before, after),
            in_use=sum(found.table.count for found in among),
            buckets=buckets,
            inside=nsenter_prefix(one.netns, self._paths),
            namespace="" if one.netns.initial else str(one.table.namespace),
        )
        return TableAnalysis(
            wall_seconds=time.time(),
            limit=limit,
            table=one.table,
            owner=self._owners.owner(one.netns),
            sample=sample,
            findings=diagnose(evidence),
            source=source,
            took_seconds=took,
        )

    def _before(self, netns: NetNamespace) -> LossCounters | None:
        """Return the last reading of the counters if it is recent, or a new one."""
        if len(self._last) > _MOST_REMEMBERED:
            self._last.clear()
        last = self._last.get(netns.key)
        if last is not None and time.monotonic() - last.at_seconds <= _REMEMBERED_SECONDS:
            return last
        return read_losses(netns, self._paths, enter=self._enter)

    def _sample(self, one: Found) -> tuple[Sample, str]:
        with self._entries.open(one.netns) as listing:
            entries = listing.entries(most=self._most, seconds=LONGEST_SECONDS)
            sample = count_entries(
                entries,
                table_entries=one.table.count,
                addresses=self._addresses,
                established_seconds=established_seconds(one.netns, self._paths, enter=self._enter),
            )
            return replace(sample, skipped=listing.skipped), listing.source


def choose(found: list[Found], wanted: str | None) -> Found:
    """Return the table of a namespace by number or name, by default the fullest. Raises AnswerIsNo."""
    if wanted is None:
        if not found:
            raise AnswerIsNo("No table can be read. Run this as root.")
        return found[0]
    for one in found:
        if wanted in {str(one.table.namespace), one.table.label}:
            return one
    raise AnswerIsNo(f"No table of namespace {wanted} can be read. `guard status` lists the tables with entries.")


def _increase(before: LossCounters | None, after: LossCounters | None) -> Losses:
    if before is None or after is None:
        return NO_LOSSES
    return Losses(
        seconds=after.at_seconds - before.at_seconds,
        insert_failed=risen(before.insert_failed, after.insert_failed),
        chain_too_long=risen(before.chain_too_long, after.chain_too_long),
    )
