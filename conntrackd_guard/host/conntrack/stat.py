"""Counters of tables, read without entering the namespace where possible, and the kernel memory behind them."""

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from conntrackd_guard.core.limits import unsigned
from conntrackd_guard.core.model import INT_MAX, ImpossibleCount
from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.memory_kinds import low_memory, zfs_reclaimable
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import run_in_netns
from conntrackd_guard.host.paths import Paths

_KIB = 1024
_STAT = "net/stat/nf_conntrack"
_COUNT = "proc/sys/net/netfilter/nf_conntrack_count"
_MOST_FACTOR = 2
_MOST_BESIDE = 1024
"""A count beyond this much of the slab's objects can't be true. Judgement: every entry is an object, so only what is freed
between two reads (microseconds) can lie between them."""
_SHEAF_CAPACITY = 256
"""More than any sheaf holds: those of entries hold 28 (7.3)."""
STATISTICS_FILE = "statistics file"
"""A table's source, if its namespace's files in /proc show it."""


@dataclass(slots=True)
class Counters:
    """A table's counters; those of packets are cumulative, and None if only the count can be read.

    Not frozen: that takes 0.5 µs more, for each table at each tick.
    """

    count: int
    """As the kernel compares it with the limit: unsigned."""
    source: str
    drop: int | None = None
    early_drop: int | None = None
    insert_failed: int | None = None
    chain_too_long: int | None = None
    """Of this and `insert_failed`, packets are lost while the table is not full. Both are 0 without such a column."""
    beyond: int | None = None
    """If the count can't be true: the highest that can be (see `MemoryReader.checked`)."""


def read_statistics(folders: Iterable[str], key: int | None, source: str = STATISTICS_FILE) -> Counters | None:
    """Return the counters in the first of these /proc/PID/ folders that can be read and whose net/stat is inode `key`.

    /proc/net/stat/nf_conntrack has one hexadecimal row per CPU, columns are found by the header. `entries`
    repeats the namespace's total on each row; the counters are per CPU, u32, and wrap.
    """
    for folder in folders:
        try:
            # Pids are reused: the inode shows whether the process is still in this namespace.
            if key is not None and os.stat(folder + "net/stat").st_ino != key:
                continue
            with open(folder + _STAT, "rb", buffering=0) as file:
                header, *rows = file.read().splitlines()
            if not rows:  # one a CPU: without any this is no empty table
                continue
            # Both are names of one column; kernels before 5.15 have neither, and drop nothing for long chains.
            names = header.replace(b"chaintoolong", b"chainlength").split()
            entries, drop, early = names.index(b"entries"), names.index(b"drop"), names.index(b"early_drop")
            failed = names.index(b"insert_failed") if b"insert_failed" in names else None
            chain = names.index(b"chainlength") if b"chainlength" in names else None
            count = dropped = early_dropped = insert_failed = chain_too_long = 0
            for row in rows:
                figures = row.split()
                count = int(figures[entries], 16)
                dropped += int(figures[drop], 16)
                early_dropped += int(figures[early], 16)
                if failed is not None:
                    insert_failed += int(figures[failed], 16)
                if chain is not None:
                    chain_too_long += int(figures[chain], 16)
        except (OSError, ValueError, IndexError):
            continue
        return Counters(count, source, dropped, early_dropped, insert_failed, chain_too_long)
    return None


class TableReader:
    """Reads the tables of network namespaces."""

    def __init__(self, paths: Paths) -> None:
        self._proc = str(paths.proc)
        self._count = str(paths.root / _COUNT)
        self._sysctl = paths.sysctl

    def folders(self, netns: NetNamespace) -> tuple[str, ...]:
        """Return the folders in /proc of processes in the namespace, for `read_statistics`."""
        pids: tuple[int | str, ...] = ("self",) if netns.initial else netns.pids
        return tuple(f"{self._proc}/{pid}/" for pid in pids)

    def read(self, netns: NetNamespace) -> Counters | None:
        """Return the counters of one table, None if its namespace can no longer be reached."""
        return read_statistics(self.folders(netns), netns.key) or self.read_without_process(netns)

    def read_without_process(self, netns: NetNamespace) -> Counters | None:
        """Return the counters that no process's statistics file shows: the initial count alone, or from inside."""
        try:
            if netns.initial:  # a kernel without the statistics file (CONFIG_NF_CONNTRACK_PROCFS off)
                return Counters(unsigned(files.read_number(self._count)), "sysctl")
            return run_in_netns(netns, _entered) if netns.enter else None
        except (OSError, ValueError):
            return None

    def timeouts(self, netns: NetNamespace, names: Iterable[str]) -> dict[str, int]:
        """Return a namespace's timeouts in seconds, by sysctl; without those that can't be read (in others: from inside)."""

        def read() -> dict[str, int]:
            found = {}
            for name in names:
                with contextlib.suppress(OSError, ValueError):
                    found[name] = files.read_number(self._sysctl / name)
            return found

        try:
            return read() if netns.initial else run_in_netns(netns, read)
        except OSError:
            return {}


def _entered() -> Counters:
    """Return the counters of the namespace that the calling thread is in. Raises OSError or ValueError."""
    counters = read_statistics(("/proc/thread-self/",), None, "statistics file, entered")
    return counters or Counters(unsigned(files.read_number("/" + _COUNT)), "sysctl, entered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Kernel memory in bytes; `unread` names the figures that can't be read, and the defaults used instead."""

    total_bytes: int
    hugetlb_bytes: int
    available_bytes: int
    zfs_bytes: int
    """Of the available memory, ZFS' cache above its minimum."""
    is_low: bool
    """The three above are of low memory, where a 32-bit kernel keeps entries."""
    entry_slab_bytes: int | None
    allocated_entries: int | None
    """An upper bound on the entries of all namespaces."""
    unread: tuple[str, ...]


class MemoryReader:
    """Reads /proc/meminfo and the entries' slab cache."""

    def __init__(self, paths: Paths) -> None:
        self._meminfo = str(paths.proc / "meminfo")
        self._arcstats = str(paths.proc / "spl/kstat/zfs/arcstats")
        self._slab = paths.slab
        self._slab_size = str(paths.slab / "slab_size")
        self._total_objects = str(paths.slab / "total_objects")
        self._nodes = str(paths.root / "sys/devices/system/node")
        self._entry_slab_bytes: int | None = None
        """Read once: a kernel's entries have one size."""

    def read(self) -> Memory:
        """Return the figures of this moment, with safe defaults for those that can't be read. Never raises."""
        unread: list[str] = []
        allocated = None
        total = hugetlb = available = zfs = 0
        is_low = False
        try:
            with open(self._meminfo, "rb", buffering=0) as file:
                content = file.read()
            rows = [row.split(None, 2) for row in content.splitlines()]
            figures = {row[0]: int(row[1]) for row in rows}
            total, available = figures[b"MemTotal:"] * _KIB, figures[b"MemAvailable:"] * _KIB
            hugetlb = figures.get(b"Hugetlb:", 0) * _KIB
            low = low_memory(content, total, hugetlb, available) if b"LowTotal:" in content else None
            if low is not None:
                (total, hugetlb, available), is_low = low, True
        except (OSError, ValueError, IndexError, KeyError) as error:
            unread.append(f"{self._meminfo} ({_short(error)}): counted as no memory available")
        try:
            with open(self._arcstats, "rb", buffering=0) as file:
                zfs = 0 if is_low else zfs_reclaimable(file.read(), total - available)
        except FileNotFoundError:
            pass  # no ZFS here
        except (OSError, ValueError) as error:
            unread.append(f"{self._arcstats} ({_short(error)}): ZFS' cache is counted as used")
        if self._entry_slab_bytes is None:
            try:
                self._entry_slab_bytes = files.read_number(self._slab_size)
            except (OSError, ValueError) as error:
                unread.append(f"{self._slab_size} ({_short(error)}): assuming 640 bytes an entry")
        with contextlib.suppress(OSError, ValueError, IndexError), open(self._total_objects, "rb", buffering=0) as file:
            allocated = int(file.read().split(None, 1)[0])
        return Memory(
            total_bytes=total,
            hugetlb_bytes=hugetlb,
            available_bytes=available + zfs,
            zfs_bytes=zfs,
            is_low=is_low,
            entry_slab_bytes=self._entry_slab_bytes,
            allocated_entries=allocated,
            unread=tuple(unread),
        )

    def allocated_entries(self) -> int | None:
        """Return the slab's object count: an upper bound on the entries of all namespaces in one cheap read (7 µs).

        None if it can't be read: only root can, and only kernels with the SLUB allocator have it.
        """
        try:
            return files.read_number(self._total_objects)
        except (OSError, ValueError):
            return None

    def checked(self, counters: Counters | None, read_again: Callable[[], Counters | None]) -> Counters | None:
        """Return counters whose count can be true. One that can't be is read once more, then marked as `beyond`."""
        most = most_entries(self.allocated_entries())
        if counters is not None and counters.count > most:
            counters = read_again()
            most = most_entries(self.allocated_entries())  # after the count, which may just have fallen
        if counters is not None and counters.count > most:
            counters = replace(counters, beyond=most)
        return counters

    def used_entries(self) -> int | None:
        """Return an upper bound of the entries that exist; None if it can't be read.

        `total_objects` also counts the free objects of slabs that fragments, or since 7.3 sheaves, keep allocated.
        `objects` counts those in sheaves alone, up to (10 a memory node + 2 a CPU) sheaves. It walks lists under a lock.
        """
        try:
            used, capacity = files.read_number(self._slab / "objects"), 0
            with contextlib.suppress(FileNotFoundError):
                capacity = files.read_number(self._slab / "sheaf_capacity")
        except (OSError, ValueError):
            return None
        if not 0 <= capacity <= _SHEAF_CAPACITY:
            capacity = 0
        nodes = 1
        with contextlib.suppress(OSError):
            nodes = max(1, sum(name.startswith("node") for name in os.listdir(self._nodes)))
        return max(0, used - (10 * nodes + 2 * (os.cpu_count() or 1)) * capacity)


def impossible_count(netns: NetNamespace, counters: Counters) -> ImpossibleCount | None:
    """Return what is known of a count that can't be true, None of one that can."""
    if counters.beyond is None:
        return None
    return ImpossibleCount(
        namespace=netns.number,
        label=netns.label,
        source=counters.source,
        count=counters.count,
        most=counters.beyond,
    )


def most_entries(allocated: int | None) -> int:
    """Return the highest count that can be true beside this many slab objects (None, or below 0: unreadable)."""
    return INT_MAX if allocated is None or allocated < 0 else min(INT_MAX, _MOST_FACTOR * allocated + _MOST_BESIDE)


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
