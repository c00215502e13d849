"""Small samples for the setting `on_flood`: does a flood fill a table?

A thread of its own takes them, because a sample may take 50 ms and the loop never waits. It reads
/proc only: a disk that stalls must not delay these samples, as it delays those for the history.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from queue import SimpleQueue

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Addresses, Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.model import Observation, Table
from conntrackd_guard.core.policy import SAMPLE_SECONDS
from conntrackd_guard.core.traffic.diagnosis import LEAST_SEEN, Cause, Evidence, causes
from conntrackd_guard.core.traffic.sample import count_entries
from conntrackd_guard.host.conntrack.entries import EntryReader
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.paths import Paths

BELOW_THRESHOLD = 0.10
"""Samples begin this far below the threshold, so that there is one when a table reaches it."""
AGAIN_SECONDS = 10.0
"""Minimum time between two samples of one table."""
LONGEST_SECONDS = 0.05
"""Bound on one sample: meanwhile the thread shares the interpreter with the loop."""
_Name = tuple[int, int]
"""A table by its namespace's number and its inode in /proc: the kernel reuses either."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A table to sample."""

    name: _Name
    at_seconds: float
    netns: NetNamespace
    entries: int


class FloodDetector:
    """Requests samples of tables that are nearly full, and marks observations with the results. For the loop."""

    def __init__(self, paths: Paths, observer: Observer) -> None:
        self._reader = EntryReader(paths, enter=False)  # entering a namespace takes no bounded time
        self._observer = observer
        self._requested: dict[_Name, float] = {}
        self._results: dict[_Name, tuple[float, bool | None]] = {}
        """The thread's: when it was requested, and whether a flood fills the table (None: no sample could be had)."""
        self._queue: SimpleQueue[_Request] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def look(self, tables: Iterable[Table], limit: int, policy: Policy, now: float) -> None:
        """Request a sample of the fullest table that is near the threshold."""
        least = (policy.threshold - BELOW_THRESHOLD) * limit
        self.request([table for table in tables if table.count >= least], policy, now)

    def request(self, tables: Iterable[Table], policy: Policy, now: float) -> None:
        """Request a sample of the fullest of `tables` that had none within AGAIN_SECONDS, if `on_flood` needs one."""
        if not policy.on_flood.restricts:
            return
        trusted = [table for table in tables if policy.trust_user_namespaces or not table.user_owned]
        for table in sorted(trusted, key=lambda table: -table.alive):
            netns = self._observer.netns(table.namespace)
            if netns is None:
                continue
            name = (table.namespace, netns.key)
            if now - self._requested.get(name, -AGAIN_SECONDS) >= AGAIN_SECONDS and self._is_running():
                self._requested[name] = now
                self._queue.put(_Request(name, now, netns, table.alive))
                return

    def mark(self, observation: Observation) -> Observation:
        """Return the observation with the results of samples of the last SAMPLE_SECONDS."""
        if not self._requested:
            return observation
        latest = observation.boottime_seconds - SAMPLE_SECONDS
        self._requested = {name: at for name, at in self._requested.items() if at > latest}
        for name, (at, _) in list(self._results.items()):
            if at <= latest:
                del self._results[name]
        tables = []
        for table in observation.tables:
            netns = self._observer.netns(table.namespace)
            _, flooded = (0.0, None) if netns is None else self._results.get((table.namespace, netns.key), (0.0, None))
            tables.append(table if flooded is None else replace(table, flooded=flooded))
        return replace(observation, tables=tuple(tables))

    def _is_running(self) -> bool:
        """Start the thread if there is none; return whether there is one."""
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name="flood sampler", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False  # no thread to be had; the next request tries again
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            request = self._queue.get()
            self._results[request.name] = (request.at_seconds, self._is_flooded(request))

    def _is_flooded(self, request: _Request) -> bool | None:
        """Sample the table; return whether a flood fills it, None if no sample can be had."""
        try:
            with self._reader.open(request.netns) as listing:
                entries = listing.entries(most=tuning.SAMPLE_ENTRIES, seconds=LONGEST_SECONDS)
                sample = count_entries(entries, table_entries=request.entries, addresses=Addresses.OFF)
        except (GuardError, OSError):
            return None
        return None if sample.seen < LEAST_SEEN else Cause.FLOOD in causes(Evidence(sample=sample))
