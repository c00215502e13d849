"""Everything read from the host, at one moment: the watch that is cheap, and the observation that is whole."""

import math
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from conntrackd_guard.core import chains, usage
from conntrackd_guard.core.assessment import Growth
from conntrackd_guard.core.model import INT_MAX, ImpossibleCount, NamespaceOwner, Observation, Table
from conntrackd_guard.core.records import impossible_text
from conntrackd_guard.host import files
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import Kernel
from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner, NetNamespace, ReadOwners
from conntrackd_guard.host.conntrack.stat import (
    STATISTICS_FILE,
    Counters,
    Memory,
    MemoryReader,
    TableReader,
    impossible_count,
    most_entries,
    read_statistics,
)
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

RESCAN_SECONDS = 60.0
LOOK_SECONDS = 0.25
"""Time between two readings for growth and drops, as between two ticks of the daemon."""
REUSE_SECONDS = 10.0
"""A message may be about a namespace that ended at most this long ago. Judgement: the kernel logs again after 5 s."""
_TABLES_A_TICK = 16
"""Tables read in one tick, about 25 µs each: half of them the fullest, the others in turn."""
_TABLES_SORTED = 1_000
"""Tables sorted in one tick, about 0.2 µs each: with more, they are sorted every few ticks."""
SCAN_SHARE = 0.005
"""Share of one core for scans, and for reading all tables, that no decision asked for.

Judgement: four such tasks and the ticks stay below 2 % of a core. Half of it doubles the time until a new namespace is found
in a crowd: 4 min of 12,000 namespaces.
"""
_UNEXPLAINED_SHARE = 0.10
"""Entries that no table in reach holds count from this share of the limit on, and the watch scans for their namespace.

Judgement: free objects kept by each processor are no more than that.
"""
_NO_FILE = "this kernel has no /proc/net/stat/nf_conntrack (CONFIG_NF_CONNTRACK_PROCFS)"
_NO_LIMIT = (
    "connections are tracked, but nf_conntrack_max is hidden here, as in a container: `guard doctor` has the cure"
)
_HIDDEN = "{:,} entries exist in network namespaces that no process or name leads to: counted as they are"


@dataclass(slots=True)
class _Track:
    """One namespace as the observer remembers it."""

    netns: NetNamespace
    folders: tuple[str, ...] = ()
    """Of its processes in /proc."""
    growth: Growth = field(default_factory=Growth)
    out_of_reach: bool = False
    """It could not be read since the last scan: only another scan may find a way."""
    shown: int = 0
    """Its entries as they are part of the sum of all."""


def rested(began: float, now: float, share: float = SCAN_SHARE) -> float:
    """Return from when on work that went on from `began` to `now` (CLOCK_BOOTTIME) may be repeated, within `share` of a core."""
    return now + (now - began) / share


class Observer:
    """Reads the host for the loop and for `guard status`. One instance remembers growth between looks."""

    def __init__(
        self,
        paths: Paths,
        kernel: Kernel,
        clock: Clock,
        runtime_dir: RuntimeDir,
        read_owners: ReadOwners | None = None,
    ) -> None:
        """Have `read_owners` read who owns each namespace; by default this process does."""
        self._kernel = kernel
        self._clock = clock
        self._runtime_dir = runtime_dir
        self.memory = MemoryReader(paths, runtime_dir)
        self._scanner = NamespaceScanner(paths, read_owners)
        self._reader = TableReader(paths)
        self.boot_id = files.read_boot_id(paths.boot_id)
        """"" if it can't be read: then nothing shows which records are of this boot."""
        self._unread = (
            () if self.boot_id else (f"{paths.boot_id} (no valid id): the records of this boot are not found",)
        )
        self._tracks: dict[int, _Track] = {}
        self._by_number: dict[int, _Track] = {}
        """The same by the number of their table."""
        self._sorted: list[_Track] = []
        """Those in reach, the fullest of root and of all first, as last sorted; empty if that is to be done."""
        self._sorted_ticks = 0
        """For how many further ticks that is good enough."""
        self._entries = 0
        """Of all tables in reach, as they were last read."""
        self.present: frozenset[int] = frozenset()
        """The namespaces found by the last scan, as tables name them."""
        self.unread: tuple[str, ...] = ()
        """What the last observation could not read, but for tables that this kernel never shows."""
        self._complete = False
        self._left: dict[int, float] = {}
        """When a scan no longer found a namespace of a user, by its number."""
        self._statistics = str(paths.proc / "self/net/stat/nf_conntrack")
        self._initial: Counters | None = None
        self._scanned_seconds = -RESCAN_SECONDS
        self._scan_began_seconds = -math.inf
        self._rested_seconds = 0.0
        """From when the watch may scan again: a scan takes long in a crowd."""
        self._names: tuple[int, int] | None = None
        """What showed the names in /run/netns at the last scan."""
        self._unexplained = 0
        self._impossible: dict[int, ImpossibleCount] = {}
        """Tables whose last count can't be true, by the key of their namespace."""
        self._most = 0
        """Counts up to here can be true, by the slab's objects at the last look."""
        self._allocated = Growth()
        """Of the entries of all namespaces together."""
        self._turn = 0
        self.buckets: int | None = None
        """The hash buckets as the last observation found them."""
        self.chain_limit: bool | None = None
        """Whether this kernel drops packets for long hash chains; None until a table's counters were read."""

    def watch(self, limit: int | None, *, attentive: bool) -> tuple[tuple[Table, ...], bool]:
        """Look at the tables at the `limit` in force, if the gate is open: the fullest first, a bounded number.

        `attentive` holds the gate open.

        Return them, and whether all entries together grow so fast that the next look must come soon.
        """
        now = self._clock.boottime()
        limit = 0 if limit is None or limit > INT_MAX else limit  # unlimited, either way
        is_open, hurry = self._gate(now, limit)
        if not is_open and not attentive:
            return (), False
        is_rested = now >= self._rested_seconds
        if is_rested and (now - self._scanned_seconds >= RESCAN_SECONDS or self._scanner.names() != self._names):
            self.rescan()
            self._rest(now)
        tables = self._read(self._some(), limit)
        hidden = self._hidden()
        self._unexplained = min(self._unexplained, hidden)  # the kernel gives memory of ended ones back later
        if is_rested and hidden - self._unexplained >= _UNEXPLAINED_SHARE * limit:
            self.rescan()
            tables = self._read(self._tracks.values(), limit)  # any of them may have grown
            self._unexplained = self._hidden()
            self._rest(now)
        return tuple(tables), hurry

    def observe(
        self, *, namespaces: Collection[int] = (), rescan: bool = False, existed_at: float = math.inf
    ) -> Observation:
        """Read everything that a decision needs. Tables of `namespaces` are kept even if they hold nothing.

        One scan looks for a namespace that is unknown, or whose table can't be read; not again for one that `existed_at`
        (CLOCK_BOOTTIME), before the last scan.
        """
        known = {track.netns.namespace for track in self._tracks.values()}
        is_new = self._scan_began_seconds < existed_at and not known.issuperset(namespaces)
        if rescan or not self._tracks or is_new:
            self.rescan()
        limit = self._kernel.limit_in_force()
        reached = [track for track in self._tracks.values() if not track.out_of_reach]
        tables = self._read(reached, limit)
        if len(tables) + len(self._impossible) < len(reached):  # one ended, or another took its place
            self.rescan()
            tables = self._read(self._tracks.values(), limit)
        memory = self.memory.read(loaded=limit is not None)
        kept = [t for t in tables if t.count or t.dropped or t.initial or t.namespace in namespaces]
        buckets, now = self._kernel.buckets(), self._clock.boottime()
        self.buckets = buckets
        unread = figures = (*self._unread, *self._kernel.unread.values(), *memory.unread)
        reached = [track for track in self._tracks.values() if not track.out_of_reach]
        # Without a limit, connection tracking is not loaded, and no namespace has a table.
        complete, unread_tables = limit is None or (self._complete and len(reached) == len(self._tracks)), 0
        shown = self._entries
        hidden = max(0, (memory.allocated_entries or 0) - shown)
        if hidden >= _UNEXPLAINED_SHARE * (limit or math.inf) and (used := self.memory.used_entries()) is not None:
            hidden = max(0, used - shown)  # without the free objects of slabs that are kept
        has_file = self._initial is None or self._initial.source == STATISTICS_FILE
        has_statistics = has_file or os.path.lexists(self._statistics)
        if not complete or not has_file or hidden >= usage.CONFIRM_USE * (limit or math.inf):
            unread_tables, missing = (0, ()) if limit is None else self._missing(memory, hidden, limit)
            complete = complete and not unread_tables and hidden < usage.CONFIRM_USE * (limit or math.inf)
            unread += missing
        owner = None
        if not complete or not self.present.issuperset(namespaces):
            owner = self._unread_owner(namespaces, now)
        for found in self._impossible.values():
            unread_tables, unread = unread_tables + 1, (*unread, impossible_text(found))
        if limit is None and tables:
            unread = (*unread, _NO_LIMIT)
        elif limit is None:
            self._tracks, self._sorted, self._entries = {}, [], 0  # once it is loaded, all namespaces have a table
        self.unread = unread if has_statistics or limit is None else figures
        return Observation(
            boottime_seconds=now,
            wall_seconds=self._clock.wall(),
            boot_id=self.boot_id,
            limit=self._kernel.limit() if self._kernel.rehearsing else limit,  # not a second, perhaps another limit
            kernel_limit=limit,
            tables=tuple(kept),
            idle_tables=len(tables) - len(kept),
            unread=unread,
            complete=complete,
            impossible=tuple(self._impossible.values()),
            unread_tables=unread_tables,
            hidden_entries=hidden if hidden >= _UNEXPLAINED_SHARE * (limit or math.inf) else 0,
            unread_owner=owner,
            has_statistics=has_statistics,
            buckets=buckets,
            chain_limit=self.chain_limit,
            entry_slab_bytes=memory.entry_slab_bytes,
            memory_total_bytes=memory.total_bytes,
            memory_hugetlb_bytes=memory.hugetlb_bytes,
            memory_available_bytes=memory.available_bytes,
            memory_zfs_bytes=memory.zfs_bytes,
            memory_is_low=memory.is_low,
            memory_unknown=memory.unknown,
            pause=self._runtime_dir.pause(now) if any(map(os.path.lexists, self._runtime_dir.pause_files)) else None,
            estimate=self._kernel.rehearsing,
            sources={"memory": "/proc/meminfo", "entry size": "slab" if memory.entry_slab_bytes else "assumed"},
        )

    def outline(self) -> Observation | None:
        """Return the host without its tables, all entries that may exist as hidden ones; None if their number can't be read.

        One cheap look that shows whether what exists can break the budget or `min_available`.
        """
        limit = self._kernel.limit_in_force()
        memory = self.memory.read(loaded=limit is not None)
        if memory.allocated_entries is None:
            return None
        return Observation(
            boottime_seconds=self._clock.boottime(),
            wall_seconds=self._clock.wall(),
            boot_id=self.boot_id,
            limit=limit,
            kernel_limit=limit,
            hidden_entries=memory.allocated_entries,
            buckets=self.buckets,
            entry_slab_bytes=memory.entry_slab_bytes,
            memory_total_bytes=memory.total_bytes,
            memory_hugetlb_bytes=memory.hugetlb_bytes,
            memory_available_bytes=memory.available_bytes,
            memory_unknown=memory.unknown,
        )

    def netns(self, namespace: int) -> NetNamespace | None:
        """Return the namespace with that number as the last scan found it, None if it did not."""
        track = self._by_number.get(namespace)
        return None if track is None else track.netns

    def entries(self) -> int:
        """Return the entries of all tables in reach, as they were last read."""
        return self._entries

    def rebase(self) -> list[Table]:
        """Count drops again after a raise: those until now belong to the old limit. Return the tables at this moment."""
        tables = self._read(self._tracks.values(), self._kernel.limit_in_force())
        for track in self._tracks.values():
            track.growth.restart()
        return tables

    def rescan(self) -> None:
        """Find every namespace in reach (about 30 µs a process)."""
        self._scan_began_seconds = self._clock.boottime()
        self._names = self._scanner.names()  # before the scan: it may miss one that is added meanwhile
        found, self._complete = self._scanner.scan()
        self._scanned_seconds = self._clock.boottime()
        before, self._tracks, self._sorted, self._entries = self._tracks, {}, [], 0
        left = {key: at for key, at in self._left.items() if at >= self._scanned_seconds - REUSE_SECONDS}
        for netns in found:
            track = before.get(netns.key)
            if track is None or track.netns.namespace != netns.namespace:
                track = _Track(netns)
            track.netns, track.folders, track.out_of_reach = netns, self._reader.folders(netns), False
            self._tracks[netns.key] = track
            self._entries += track.shown
        self._by_number = {track.netns.number: track for track in self._tracks.values()}
        self.present = frozenset(netns.number for netns in found)
        for track in before.values():
            if track.netns.user_owned and track.netns.number not in self.present:
                left[track.netns.number] = self._scanned_seconds
        self._left = left
        self._impossible = {key: found for key, found in self._impossible.items() if key in self._tracks}
        self._unexplained = self._hidden()

    def _rest(self, began: float) -> None:
        """Have the watch scan no more until what it did since `began` is SCAN_SHARE of the time."""
        now = self._clock.boottime()
        self._rested_seconds = rested(began, now)

    def _gate(self, now: float, limit: int) -> tuple[bool, bool]:
        """Return whether a table may be near the limit, and whether one may be soon: one cheap read for all together."""
        allocated = self.memory.allocated_entries()
        self._most = most_entries(allocated)
        if allocated is None:
            return True, False
        self._allocated.look(now, allocated)
        growth = max(self._allocated.demand_per_second or 0.0, self._allocated.burst_per_second or 0.0)
        left = usage.seconds_to_full(allocated, limit, growth)
        is_open = allocated >= usage.GATE_USE * limit or left <= usage.URGENT_SECONDS
        is_long = 2 * allocated > chains.CHAIN_HOLD * (self.buckets or 0) > 0  # chains, at whatever use
        return is_open or is_long, left < usage.HURRY_SECONDS

    def _some(self) -> list[_Track]:
        """Return the fullest, a few that were never read, and the others in turn: no crowd keeps any from being read.

        Half of the fullest are root's: no user's tables take all of these places.
        """
        half = _TABLES_A_TICK // 2
        self._sorted_ticks -= 1
        if self._sorted_ticks < 0 or not self._sorted:
            reached = [track for track in self._tracks.values() if not track.out_of_reach]
            reached.sort(key=lambda track: -1 if track.growth.count is None else track.growth.count, reverse=True)
            known = len(reached) - sum(track.growth.count is None for track in reached)
            roots = [track for track in reached[:known] if not track.netns.user_owned][: half // 2]
            chosen = {id(track) for track in roots}
            others = [track for track in reached[:known] if id(track) not in chosen]
            self._sorted = roots + others[: half - len(roots)] + reached[known:] + others[half - len(roots) :]
            self._sorted_ticks = len(reached) // _TABLES_SORTED
        if len(self._sorted) <= _TABLES_A_TICK:
            return self._sorted
        begin = half + sum(track.growth.count is None for track in self._sorted[half : half + half // 2])
        left, rest = _TABLES_A_TICK - begin, len(self._sorted) - begin
        self._turn = (self._turn + left) % rest
        turn = self._sorted[begin + self._turn :][:left]
        return self._sorted[:begin] + turn + self._sorted[begin : begin + left - len(turn)]

    def _hidden(self) -> int:
        """Return how many allocated entries no table in reach holds."""
        return (self._allocated.count or 0) - self.entries()

    def _missing(self, memory: Memory, hidden: int, limit: int) -> tuple[int, tuple[str, ...]]:
        """Return how many tables are charged as full although they can't be read, and in words what can't be read.

        `hidden` entries are in no table that was read. As with other tables, twice as many are charged at most, and one
        full table more: nobody sees these grow.
        """
        unreadable = sum(track.out_of_reach for track in self._tracks.values())
        charged = unreadable + (not self._complete)
        texts = []
        if self._initial is not None and self._initial.source != STATISTICS_FILE:
            why = f"{self._statistics} has no valid figures" if os.path.lexists(self._statistics) else _NO_FILE
            drops = "can't be read" if self._initial.drop is None else "are read over netlink"
            texts.append(f"{why}: drops {drops}")
        if charged:
            if memory.allocated_entries is not None and limit:
                charged = min(charged, 1 + math.ceil(2 * max(0, hidden) / limit))
            which = "some network namespaces" if not self._complete else f"{unreadable:,} network namespaces"
            which = "a network namespace" if self._complete and unreadable == 1 else which
            texts.append(f"the tables of {which} can't be read: counted as {charged} full table{'s'[charged == 1 :]}")
        elif hidden >= usage.CONFIRM_USE * (limit or math.inf):
            texts.append(_HIDDEN.format(hidden))
        return charged, (", and ".join(texts),) if texts else ()

    def _unread_owner(self, named: Collection[int], now: float) -> NamespaceOwner | None:
        """Return who owns the namespaces that a message may be about and whose tables can't be read.

        Those are the `named` ones, or without a number all out of reach: if one of them is root's, it may be that one.
        None if they were read, or if processes are hidden, so that there may be more.
        """
        tracks = [track for track in self._tracks.values() if not named or track.netns.namespace in named]
        found = [track.netns for track in tracks if track.out_of_reach]
        if named and len(found) < len(tracks):
            return None
        if any(not netns.user_owned for netns in found):
            return NamespaceOwner.ROOT
        if any(now - self._left.get(number, -math.inf) <= REUSE_SECONDS for number in named):
            return NamespaceOwner.USER
        if not self._complete:
            return None
        unplaced = named and not found and any(track.netns.namespace is None for track in self._tracks.values())
        if unplaced or any(netns.owner_unknown for netns in found):
            return NamespaceOwner.UNKNOWN
        return NamespaceOwner.USER if found else NamespaceOwner.NONE

    def _read(self, tracks: Iterable[_Track], limit: int | None) -> list[Table]:
        """Read these tables, at this limit in force; without those that can't be reached."""
        tables, rehearsing = [], self._kernel.rehearsing
        for track in tracks:
            netns, growth, now = track.netns, track.growth, self._clock.boottime()
            counters = read_statistics(track.folders, netns.key) or self._reader.read_without_process(netns)
            if self._impossible or (counters is not None and counters.count > self._most):
                counters = self._checked(netns, counters)
            track.out_of_reach = counters is None
            if counters is None:
                self._entries -= track.shown
                track.shown = 0
                continue
            if counters.beyond is not None:
                continue
            self._entries += counters.count - track.shown
            track.shown = counters.count
            if counters.drop is not None:
                self.chain_limit = self.chain_limit or counters.chain_too_long is not None
            if netns.initial:
                self._initial = counters
            growth.look(now, counters.count, counters.drop, counters.early_drop, limit)
            table = Table(
                namespace=netns.key if netns.namespace is None else netns.namespace,
                label=netns.label,
                initial=netns.initial,
                placed=netns.namespace is not None,
                count=counters.count + growth.dropped_since_raise if rehearsing else counters.count,
                held=counters.count if rehearsing else None,
                drop=counters.drop,
                early_drop=counters.early_drop,
                insert_failed=counters.insert_failed,
                clash_resolved=counters.clash_resolved,
                chain_too_long=counters.chain_too_long,
                dropped=None if counters.drop is None else growth.dropped,
                demand_per_second=growth.demand_per_second,
                demand_seconds=growth.demand_seconds,
                burst_per_second=growth.burst_per_second,
                burst_seconds=growth.burst_seconds,
                user_owned=netns.user_owned,
                owner_unknown=netns.owner_unknown,
                source=counters.source,
            )
            tables.append(table)
        return tables

    def _checked(self, netns: NetNamespace, counters: Counters | None) -> Counters | None:
        """Return the counters as `MemoryReader.checked` does, and note a count that can't be true."""
        self._impossible.pop(netns.key, None)
        counters = self.memory.checked(counters, lambda: self._reader.read(netns))
        found = None if counters is None else impossible_count(netns, counters)
        if found is not None:
            self._impossible[netns.key] = found
        return counters
