"""Whether a flood fills a table, for the setting `on_flood`: small samples that the loop takes itself.

A disk that stalls must not keep them back, as it does the samples that go into history. They touch /proc only, and
come at the end of a turn: none delays a decision that is due.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.flood import SAMPLE_SECONDS, raised_for
from conntrackd_guard.core.model import Observation, Table
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.paths import Paths

if TYPE_CHECKING:
    from conntrackd_guard.daemon.flood_sample import FloodSample

BELOW_THRESHOLD = 0.10
"""Samples begin this far below the threshold, so that there is one once a table presses."""
AGAIN_SECONDS = 10.0
"""The time between two samples of one table."""
_Name = tuple[int, int]
"""A table by its namespace's number and its inode in /proc: either alone is reused."""


class Floods:
    """Samples tables that are nearly full, and remembers for SAMPLE_SECONDS what that told. For the loop."""

    def __init__(self, paths: Paths, observer: Observer) -> None:
        self._paths, self._observer = paths, observer
        self._sample: FloodSample | None = None
        self._told: dict[_Name, tuple[float, bool | None]] = {}
        """When it was sampled, and whether it is flooded."""
        self._wanted: list[Table] = []

    def prepare(self, policy: Policy) -> None:
        """Load what samples take, where the settings ask for them. For the start and for a reload: it reads a disk."""
        if policy.on_flood.restricts and self._sample is None:
            from conntrackd_guard.daemon.flood_sample import FloodSample  # noqa: PLC0415 - see there

            self._sample = FloodSample(self._paths)

    def want(self, table: Table) -> None:
        """Have a table sampled at the end of this turn, however full it is."""
        self._wanted.append(table)

    def sample(self, tables: Iterable[Table], limit: int, policy: Policy, now: float) -> None:
        """Sample the fullest table that is near the threshold or wanted, where its last sample is AGAIN_SECONDS old."""
        wanted, self._wanted = self._wanted, []
        if self._sample is None:
            return
        self._told = {name: told for name, told in self._told.items() if now - told[0] < SAMPLE_SECONDS}
        least = (policy.threshold - BELOW_THRESHOLD) * limit
        near = [table for table in tables if table.count >= least]
        for table in sorted(raised_for((*wanted, *near), policy), key=lambda table: -table.alive):
            place = self._observer.place(table.namespace)
            if place is None:
                continue
            name = (table.namespace, place.key)
            if now - self._told.get(name, (-AGAIN_SECONDS, None))[0] >= AGAIN_SECONDS:
                self._told[name] = (now, self._sample.is_flooded(place, table.alive))
                return

    def mark(self, observation: Observation) -> Observation:
        """Return the observation with what samples of the last SAMPLE_SECONDS tell of its tables."""
        latest = observation.boottime_seconds - SAMPLE_SECONDS
        fresh = {name: flooded for name, (at, flooded) in self._told.items() if at > latest and flooded is not None}
        numbers = {number for number, _ in fresh}
        if not numbers:
            return observation
        tables = []
        for table in observation.tables:
            place = self._observer.place(table.namespace) if table.namespace in numbers else None
            flooded = None if place is None else fresh.get((table.namespace, place.key))
            tables.append(table if flooded is None else replace(table, flooded=flooded))
        return replace(observation, tables=tuple(tables))
