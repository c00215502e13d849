"""Everything read from the host, at one moment: the watch that is cheap, and the observation that is whole."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from conntrackd_guard.core import usage
from conntrackd_guard.core.model import Observation, Table
from conntrackd_guard.core.usage import Growth
from conntrackd_guard.host import files
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import Kernel
from conntrackd_guard.host.conntrack.memory import MemoryReader
from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner, NetNamespace
from conntrackd_guard.host.conntrack.stat import TableReader
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

RESCAN_SECONDS = 60.0
_TABLES_A_TICK = 16
"""Tables read in one tick: the fullest half, and the others in turn (about 25 µs each)."""
_UNEXPLAINED_SHARE = 0.10
"""Entries that no known table holds, as a share of the limit, from which an unknown namespace is looked for."""


@dataclass(slots=True)
class _Track:
    """One namespace as the observer remembers it."""

    place: NetNamespace
    growth: Growth = field(default_factory=Growth)
    out_of_reach: bool = False
    """It could not be read since the last scan: only another scan may find a way."""


class Observer:
    """Reads the host for the loop and for `guard status`. One instance remembers growth between looks."""

    def __init__(self, paths: Paths, kernel: Kernel, clock: Clock, runtime_dir: RuntimeDir) -> None:
        self._kernel = kernel
        self._clock = clock
        self._run_files = runtime_dir
        self._memory = MemoryReader(paths)
        self._scanner = NamespaceScanner(paths)
        self._reader = TableReader(paths)
        self.boot_id = files.read(paths.boot_id).decode("ascii").strip()
        self._tracks: dict[int, _Track] = {}
        self.present: frozenset[int] = frozenset()
        """The namespaces found by the last scan, as tables name them."""
        self._complete = False
        self._scanned_seconds = -RESCAN_SECONDS
        self._names: frozenset[str] = frozenset()
        self._unexplained = 0
        self._allocated = Growth()
        """Of the entries of all namespaces together."""
        self._turn = 0

    def watch(self, *, attentive: bool) -> tuple[tuple[Table, ...], bool]:
        """Look at the tables if the gate is open, the fullest first, a bounded number. `attentive` holds it open.

        Return them, and whether all entries together grow so fast that the next look must come soon.
        """
        now = self._clock.boottime()
        limit = self._kernel.limit_in_force() or 0
        is_open, hurry = self._gate(now, limit)
        if not is_open and not attentive:
            return (), False
        if now - self._scanned_seconds >= RESCAN_SECONDS or self._scanner.names() != self._names:
            self.rescan()
        tables = self._look_at(self._some())
        if (self._allocated.count or 0) - self._held() - self._unexplained >= _UNEXPLAINED_SHARE * limit:
            self.rescan()
            tables = self._look_at(list(self._tracks.values()))  # any of them may have grown
            self._unexplained = (self._allocated.count or 0) - self._held()
        return tables, hurry

    def observe(self, *, namespaces: Collection[int] = (), rescan: bool = False) -> Observation:
        """Read everything. `namespaces` are those whose tables are kept even when they hold nothing.

        A namespace that can't be found, or a table that can't be read, is looked for by one scan.
        """
        known = {track.place.namespace for track in self._tracks.values()}
        if rescan or not self._tracks or not known.issuperset(namespaces):
            self.rescan()
        reached = [track for track in self._tracks.values() if not track.out_of_reach]
        tables = self._look_at(reached)
        if len(tables) < len(reached):  # one ended, or another took its place
            self.rescan()
            tables = self._look_at(list(self._tracks.values()))
        memory = self._memory.read()
        kept = [t for t in tables if t.count or t.dropped or t.initial or t.namespace in namespaces]
        limit = self._kernel.limit_in_force()
        unread = list(memory.unread)
        complete = self._complete and not any(track.out_of_reach for track in self._tracks.values())
        if not complete:
            unread.append("some namespaces: an unknown table is charged as one full table")
        elif (memory.allocated_entries or 0) - self._held() >= usage.CONFIRM_USE * (limit or math.inf):
            complete = False
            unread.append(
                "a namespace that nothing leads to holds entries: an unknown table is charged as one full table"
            )
        now = self._clock.boottime()
        return Observation(
            boottime_seconds=now,
            wall_seconds=self._clock.wall(),
            boot_id=self.boot_id,
            limit=self._kernel.limit(),
            kernel_limit=limit,
            tables=tuple(kept),
            idle_tables=len(tables) - len(kept),
            unread=tuple(unread),
            complete=complete,
            buckets=self._kernel.buckets(),
            bucket_arrays=memory.bucket_arrays,
            entry_slab_bytes=memory.entry_slab_bytes,
            memory_total_bytes=memory.total_bytes,
            memory_hugetlb_bytes=memory.hugetlb_bytes,
            memory_available_bytes=memory.available_bytes,
            pause=self._run_files.pause(now),
            estimate=self._kernel.rehearsing,
            sources={"memory": "/proc/meminfo", "entry size": "slab" if memory.entry_slab_bytes else "assumed"},
        )

    def place(self, namespace: int) -> NetNamespace | None:
        """Return where the table of that number was last found, None where it was not."""
        return next((track.place for track in self._tracks.values() if track.place.number == namespace), None)

    def rebase(self) -> None:
        """After a raise: what was dropped up to now belongs to the old limit."""
        for track in self._tracks.values():
            self._look(track)
            track.growth.restart()

    def rescan(self) -> None:
        """Find every namespace in reach (about 13 µs a process)."""
        places, self._complete = self._scanner.scan()
        self._names = self._scanner.names()
        self._scanned_seconds = self._clock.boottime()
        before = self._tracks
        self._tracks = {}
        for place in places:
            track = before.get(place.key)
            same = track is not None and track.place.namespace == place.namespace
            self._tracks[place.key] = track if track is not None and same else _Track(place)
            self._tracks[place.key].place = place
            self._tracks[place.key].out_of_reach = False
        self.present = frozenset(place.number for place in places)
        self._unexplained = (self._allocated.count or 0) - self._held()

    def _gate(self, now: float, limit: int) -> tuple[bool, bool]:
        """Return whether a table may be near the limit, and whether one may be soon: one cheap read for all together."""
        allocated = self._memory.allocated_entries()
        if allocated is None:
            return True, False
        self._allocated.look(now, allocated)
        left = usage.seconds_to_full(allocated, limit, self._allocated.demand_per_second)
        is_open = allocated >= usage.GATE_USE * limit or left <= usage.URGENT_SECONDS
        return is_open, left < usage.HURRY_SECONDS

    def _some(self) -> list[_Track]:
        """Return those never read, then the fullest, and the others in turn."""
        fullest = sorted(
            (track for track in self._tracks.values() if not track.out_of_reach), key=_expected_count, reverse=True
        )
        half = _TABLES_A_TICK // 2
        rest = fullest[half:]
        self._turn = (self._turn + half) % max(1, len(rest))
        return fullest[:half] + (rest + rest)[self._turn : self._turn + min(half, len(rest))]

    def _look_at(self, tracks: list[_Track]) -> tuple[Table, ...]:
        return tuple(table for track in tracks if (table := self._look(track)) is not None)

    def _held(self) -> int:
        return sum(track.growth.count or 0 for track in self._tracks.values())

    def _look(self, track: _Track) -> Table | None:
        """Read one table; None if it can't be reached."""
        now, place, growth, rehearsing = self._clock.boottime(), track.place, track.growth, self._kernel.rehearsing
        counters = self._reader.read(place)
        track.out_of_reach = counters is None
        if counters is None:
            return None
        growth.look(now, counters.count, counters.drop, counters.early_drop)
        return Table(
            namespace=place.number,
            label=place.label,
            initial=place.initial,
            placed=place.namespace is not None,
            count=counters.count + growth.dropped_since_raise if rehearsing else counters.count,
            held=counters.count if rehearsing else None,
            drop=counters.drop,
            early_drop=counters.early_drop,
            dropped=growth.dropped,
            demand_per_second=growth.demand_per_second,
            user_owned=place.user_owned,
            source=counters.source,
        )


def _expected_count(track: _Track) -> int:
    """Return the count at the last look; a namespace never looked at comes first."""
    return 1 << 31 if track.growth.count is None else track.growth.count
