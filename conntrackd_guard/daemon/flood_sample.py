"""One small sample of a table: does a flood fill it? Loaded with `on_flood` only: 0.4 MB that others do without."""

from __future__ import annotations

from conntrackd_guard.core.configuration import Addresses
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.traffic.diagnosis import LEAST_SEEN, Cause, Evidence, causes
from conntrackd_guard.core.traffic.sample import DEFAULT_ENTRIES, count_entries
from conntrackd_guard.host.conntrack.entries import EntryReader
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.paths import Paths

LONGEST_SECONDS = 0.05
"""The loop answers nothing meanwhile."""


class FloodSample:
    """Reads samples without entering a namespace: what that takes is not bounded."""

    def __init__(self, paths: Paths) -> None:
        self._reader = EntryReader(paths, enter=False)

    def is_flooded(self, place: NetNamespace, entries: int) -> bool | None:
        """Return whether a flood fills the table that holds so many entries; None where no sample can be had."""
        try:
            with self._reader.open(place) as listing:
                seen = listing.entries(most=DEFAULT_ENTRIES, seconds=LONGEST_SECONDS)
                sample = count_entries(seen, table_entries=entries, addresses=Addresses.OFF)
        except GuardError:
            return None
        return None if sample.seen < LEAST_SEEN else Cause.FLOOD in causes(Evidence(sample=sample))
