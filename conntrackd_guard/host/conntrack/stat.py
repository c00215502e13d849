"""Counters of tables, read without entering the namespace where possible, and the kernel memory behind them."""

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import process_of, run_in_netns
from conntrackd_guard.host.paths import Paths

_KIB = 1024
_STAT = "net/stat/nf_conntrack"
_COUNT = "proc/sys/net/netfilter/nf_conntrack_count"
_CHAIN_COLUMNS = (b"chainlength", b"chaintoolong")
"""Both names of one column; kernels before 5.15 have neither, and drop nothing for long chains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A table's counters; `drop` and `early_drop` are None if only the count can be read."""

    count: int
    drop: int | None
    early_drop: int | None
    source: str


def read_statistics(folders: Iterable[str], key: int | None, source: str = "statistics file") -> Counters | None:
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
            names = header.split()
            entries, drop, early = names.index(b"entries"), names.index(b"drop"), names.index(b"early_drop")
            count = dropped = early_dropped = 0
            for row in rows:
                figures = row.split()
                count = int(figures[entries], 16)
                dropped += int(figures[drop], 16)
                early_dropped += int(figures[early], 16)
        except (OSError, ValueError, IndexError):
            continue
        return Counters(count=count, drop=dropped, early_drop=early_dropped, source=source)
    return None


class TableReader:
    """Reads the tables of network namespaces."""

    def __init__(self, paths: Paths) -> None:
        self._proc = str(paths.proc)
        self._root = str(paths.root)

    def folders(self, netns: NetNamespace) -> tuple[str, ...]:
        """Return the folders in /proc of processes in the namespace, for `read_statistics`."""
        pids: tuple[int | str, ...] = ("self",) if netns.initial else netns.pids
        return tuple(f"{self._proc}/{pid}/" for pid in pids)

    def read(self, netns: NetNamespace) -> Counters | None:
        """Return the counters of one table, None if its namespace can no longer be reached."""
        counters = read_statistics(self.folders(netns), netns.key)
        return self.read_without_process(netns) if counters is None else counters

    def read_without_process(self, netns: NetNamespace) -> Counters | None:
        """Return the counters that no process's statistics file shows: the initial count alone, or from inside."""
        try:
            if netns.initial:  # a kernel without the statistics file (CONFIG_NF_CONNTRACK_PROCFS off)
                count = files.read_number(os.path.join(self._root, _COUNT))
                return Counters(count=count, drop=None, early_drop=None, source="sysctl")
            return run_in_netns(netns, _entered) if netns.enter else None
        except (OSError, ValueError):
            return None


def _entered() -> Counters:
    """Return the counters of the namespace that the calling thread is in. Raises OSError or ValueError."""
    counters = read_statistics(("/proc/thread-self/",), None, "statistics file, entered")
    if counters is not None:
        return counters
    return Counters(count=files.read_number("/" + _COUNT), drop=None, early_drop=None, source="sysctl, entered")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCounters:
    """Packets lost while the table is not full. Cumulative, summed over CPUs."""

    at_seconds: float
    """time.monotonic()."""
    insert_failed: int
    chain_too_long: int


def read_losses(netns: NetNamespace, paths: Paths, *, enter: bool) -> LossCounters | None:
    """Return a table's loss counters, None if they can't be read. `enter` allows entering its namespace."""
    for pid in ("self",) if netns.initial else netns.pids:
        try:
            with process_of(netns, str(paths.proc), pid) as folder:
                return parse_losses(files.read(f"/proc/self/fd/{folder}/{_STAT}"))  # of the process checked above
        except (OSError, ValueError):
            continue
    if netns.initial or not enter:
        return None
    try:
        return parse_losses(run_in_netns(netns, lambda: files.read(f"/proc/thread-self/{_STAT}")))
    except (OSError, ValueError):
        return None


def parse_losses(content: bytes) -> LossCounters:
    """Parse /proc/net/stat/nf_conntrack: one hexadecimal row per CPU. Raises ValueError for anything else."""
    header, *rows = content.splitlines() or [b""]
    names = header.split()
    failed = names.index(b"insert_failed")
    chains = [names.index(name) for name in _CHAIN_COLUMNS if name in names]
    figures = [row.split() for row in rows]
    if any(len(row) < len(names) for row in figures):
        raise ValueError("a row with missing columns")
    return LossCounters(
        at_seconds=time.monotonic(),
        insert_failed=sum(int(row[failed], 16) for row in figures),
        chain_too_long=sum(int(row[column], 16) for row in figures for column in chains),
    )


def established_seconds(netns: NetNamespace, paths: Paths, *, enter: bool) -> int | None:
    """Return the timeout of established TCP flows, None if it can't be read.

    Outside the initial namespace it can be read only from inside; `enter` allows that.
    """

    def read() -> int:
        return files.read_number(paths.sysctl / "nf_conntrack_tcp_timeout_established")

    try:
        if netns.initial:
            return read()
        return run_in_netns(netns, read) if enter else None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Kernel memory in bytes; `unread` names the figures that can't be read, and the defaults used instead."""

    total_bytes: int
    hugetlb_bytes: int
    available_bytes: int
    entry_slab_bytes: int | None
    allocated_entries: int | None
    """An upper bound on the entries of all namespaces."""
    unread: tuple[str, ...]


class MemoryReader:
    """Reads /proc/meminfo and the entries' slab cache."""

    def __init__(self, paths: Paths) -> None:
        self._meminfo = str(paths.proc / "meminfo")
        self._slab_size = str(paths.slab / "slab_size")
        self._total_objects = str(paths.slab / "total_objects")
        self._entry_slab_bytes: int | None = None
        """Read once: a kernel's entries have one size."""

    def read(self) -> Memory:
        """Return the figures of this moment, with safe defaults for those that can't be read. Never raises."""
        unread: list[str] = []
        allocated = None
        total = hugetlb = available = 0
        try:
            with open(self._meminfo, "rb", buffering=0) as file:
                rows = [row.split(None, 2) for row in file.read().splitlines()]
            figures = {row[0]: int(row[1]) for row in rows}
            total, available = figures[b"MemTotal:"] * _KIB, figures[b"MemAvailable:"] * _KIB
            hugetlb = figures.get(b"Hugetlb:", 0) * _KIB
        except (OSError, ValueError, IndexError, KeyError) as error:
            unread.append(f"{self._meminfo} ({_short(error)}): counted as no memory available")
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
            available_bytes=available,
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


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
