"""Whether a flood fills a table, for the setting `on_flood`: small samples that the loop takes itself.

A disk that stalls must not keep them back, as it does the samples that go into history. They touch /proc only, and
come after what is due: none delays a decision of its own turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.flood import SAMPLE_SECONDS
from conntrackd_guard.core.model import Observation, Policy, Table
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.observer import Observer

if TYPE_CHECKING:
    from conntrackd_guard.host.entries import EntryReader

BELOW_THRESHOLD = 0.10
"""Samples begin this far below the threshold, so that there is one once a table presses."""
AGAIN_SECONDS = 10.0
"""The time between two samples of one table."""
LONGEST_SECONDS = 0.05
"""For one sample: the loop answers nothing meanwhile."""


class Floods:
    """Samples tables that are nearly full, and remembers for SAMPLE_SECONDS what that told. For the loop."""

    def __init__(self, paths: Paths, observer: Observer) -> None:
        self._paths, self._observer = paths, observer
        self._reader: EntryReader | None = None
        self._told: dict[tuple[int, int], tuple[float, bool | None]] = {}
        """By the namespace's number and its inode in /proc: when it was sampled, and whether it is flooded."""

    def watch(self, tables: Iterable[Table], limit: int, policy: Policy, now: float) -> None:
        """Sample the fullest table that is near the threshold, where its last sample is AGAIN_SECONDS old."""
        least = (policy.threshold - BELOW_THRESHOLD) * limit
        self.sample((table for table in tables if table.count >= least), policy, now)

    def sample(self, tables: Iterable[Table], policy: Policy, now: float) -> None:
        """Sample the fullest of the tables that the guard raises for, where its last sample is AGAIN_SECONDS old."""
        if policy.flood_ceiling is None:
            return
        self._told = {name: told for name, told in self._told.items() if now - told[0] < SAMPLE_SECONDS}
        for table in sorted(tables, key=lambda table: -table.alive):
            name = self._name(table)
            trusted = policy.trust_user_namespaces or not table.user_owned
            if name is not None and trusted and now - self._told.get(name, (-AGAIN_SECONDS, None))[0] >= AGAIN_SECONDS:
                self._told[name] = (now, self._is_flooded(table))
                return

    def mark(self, observation: Observation) -> Observation:
        """Return the observation with what samples of the last SAMPLE_SECONDS tell of its tables."""
        if not self._told:
            return observation
        now = observation.boottime_seconds
        tables = []
        for table in observation.tables:
            name = self._name(table)
            at, flooded = (now, None) if name is None else self._told.get(name, (now, None))
            tables.append(table if now - at >= SAMPLE_SECONDS else replace(table, flooded=flooded))
        return replace(observation, tables=tuple(tables))

    def _name(self, table: Table) -> tuple[int, int] | None:
        place = self._observer.place(table.namespace)
        return None if place is None else (table.namespace, place.key)

    def _is_flooded(self, table: Table) -> bool | None:
        """Return what a sample says, None where none can be had."""
        from conntrackd_guard.core.diagnosis import LEAST_SEEN, Cause, Evidence, causes  # noqa: PLC0415 - 1 MB that
        from conntrackd_guard.core.model import Addresses  # noqa: PLC0415              - only this setting needs
        from conntrackd_guard.core.sample import DEFAULT_ENTRIES, add_up  # noqa: PLC0415
        from conntrackd_guard.host.entries import EntryReader  # noqa: PLC0415

        self._reader = self._reader or EntryReader(self._paths, enter=True)
        place = self._observer.place(table.namespace)
        if place is None:
            return None
        try:
            with self._reader.open(place) as listing:
                entries = listing.entries(most=DEFAULT_ENTRIES, seconds=LONGEST_SECONDS)
                sample = add_up(entries, table_entries=table.alive, addresses=Addresses.OFF)
        except GuardError:
            return None
        return None if sample.seen < LEAST_SEEN else Cause.FLOOD in causes(Evidence(sample=sample))
