"""Counters of tables, read without entering the namespace where possible, and the kernel memory behind them."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from conntrackd_guard.core.limits import unsigned
from conntrackd_guard.core.model import INT_MAX, ImpossibleCount
from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack import stat_netlink
from conntrackd_guard.host.conntrack.memory_estimate import KIB, estimate
from conntrackd_guard.host.conntrack.memory_kinds import low_memory, zfs_reclaimable
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import run_in_netns
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

_STAT = "net/stat/nf_conntrack"
_COUNT = "proc/sys/net/netfilter/nf_conntrack_count"
_MOST_FACTOR = 2
_MOST_BESIDE = 1024
"""A count beyond this much of the slab's objects can't be true. Judgement: every entry is an object, so only what is freed
between two reads (microseconds) can lie between them."""
_LIMIT = "proc/sys/net/netfilter/nf_conntrack_max"
_ROWS = re.compile(rb"(?:[0-9a-f]{1,8}\s+)*[0-9a-f]{1,8} *\n\s*")
"""Figures of the statistics, u32 in hexadecimal, to the end of the last row."""
_MEMINFO = re.compile(rb"^(MemTotal|MemAvailable|Hugetlb): *([0-9]{1,12}) kB[ \t]*\n", re.MULTILINE)
"""Whole rows, to 931 TiB; the rest of the file may be anything."""
_ENTRY_SLAB_BYTES = range(128, 4097)
"""Possible sizes: 248 to 320 bytes on kernels since 4.x, several times that with the allocator's debugging."""
_SHEAF_CAPACITY = 256
"""More than any sheaf holds: those of entries hold 28 (7.3)."""
_OBJECTS_A_SLAB = 512
"""More than any slab of entries has: 16 or 32."""
_LISTED_SLABS = re.compile(rb"\d{1,9}\((\d{1,9})\)")
"""Free objects on the processors' lists, and in how many slabs."""
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
    """Entries that could not be inserted, without those in `chain_too_long`, which the kernel counts here too."""
    clash_resolved: int | None = None
    chain_too_long: int | None = None
    """Packets dropped for a long hash chain; None if this kernel has no chain limit (no such column, before 5.15)."""
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
            descriptor = os.open(folder + _STAT, os.O_RDONLY | os.O_CLOEXEC)
            try:
                content = chunk = os.read(descriptor, files.CHUNK_BYTES)
                while chunk and len(content) < files.MOST_BYTES:
                    chunk = os.read(descriptor, files.CHUNK_BYTES)
                    content += chunk
            finally:
                os.close(descriptor)
            header, _, body = content.partition(b"\n")
            # Both are names of one column; kernels before 5.15 have neither, and drop nothing for long chains.
            names = header.replace(b"chaintoolong", b"chainlength").split()
            entries, drop, early = names.index(b"entries"), names.index(b"drop"), names.index(b"early_drop")
            figures, width = body.split(), len(names)
            if len(figures) % width or _ROWS.fullmatch(body) is None:
                continue  # cut short, a header alone, or no figures
            count = int(figures[entries - width], 16)
            dropped = sum([int(figure, 16) for figure in figures[drop::width]])
            early_dropped = sum([int(figure, 16) for figure in figures[early::width]])
            failed, resolved, too_long = [
                sum([int(figure, 16) for figure in figures[names.index(name) :: width]]) if name in names else None
                for name in (b"insert_failed", b"clashres", b"chainlength")
            ]
        except (OSError, ValueError):
            continue
        counters = Counters(count, source, dropped, early_dropped)
        counters.insert_failed = None if failed is None else max(0, failed - (too_long or 0))
        counters.clash_resolved, counters.chain_too_long = resolved, too_long
        return counters
    return None


class TableReader:
    """Reads the tables of network namespaces."""

    def __init__(self, paths: Paths) -> None:
        self._proc = str(paths.proc)
        self._root = paths.root
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
                return _read_without_file(self._root)
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
    return counters or _read_without_file(Path("/"), ", entered")


def _read_without_file(root: Path, entered: str = "") -> Counters:
    """Return the count from its sysctl, and the other counters over netlink if that answers. Raises OSError or ValueError.

    Netlink knows no root: its answer is for the same tables if it has the same limit.
    """
    counters = Counters(unsigned(files.read_number(root / _COUNT, signed=True)), f"sysctl{entered}")
    with contextlib.suppress(OSError, ValueError):
        found = stat_netlink.read_statistics()
        if found.limit == unsigned(files.read_number(root / _LIMIT, signed=True)):
            counters.source = f"sysctl and netlink{entered}"
            counters.drop, counters.early_drop = found.drop, found.early_drop
            counters.clash_resolved, counters.chain_too_long = found.clash_resolved, found.chain_too_long
            counters.insert_failed = max(0, found.insert_failed - (found.chain_too_long or 0))
    return counters


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
    unknown: str
    """Why the figures of memory above are not enough for a calculation, "" if they are."""
    entry_slab_bytes: int | None
    allocated_entries: int | None
    """An upper bound on the entries of all namespaces."""
    unread: tuple[str, ...]


class MemoryReader:
    """Reads /proc/meminfo and the entries' slab cache."""

    def __init__(self, paths: Paths, runtime_dir: RuntimeDir) -> None:
        self._paths, self._runtime_dir = paths, runtime_dir
        self._meminfo = str(paths.proc / "meminfo")
        self._arcstats = str(paths.proc / "spl/kstat/zfs/arcstats")
        self._slab = paths.slab
        self._slab_size = str(paths.slab / "slab_size")
        self._total_objects = str(paths.slab / "total_objects")
        self._nodes = str(paths.sys / "devices/system/node")
        self._entry_slab_bytes: int | None = None
        """Read once: a kernel's entries have one size."""
        self.total_bytes = 0
        """The last good reading of MemTotal, 0 before the first."""
        self.unknown = ""
        """As `Memory.unknown` of the last reading."""

    def read(  # noqa: C901, PLR0915 - each call more comes before a write of the limit
        self, *, loaded: bool = True
    ) -> Memory:
        """Return the figures of this moment, with safe defaults for those that can't be read. Never raises.

        `loaded`: connection tracking is; the slab cache exists only then.
        """
        unread: tuple[str, ...] = ()
        content, problem, allocated, unknown = b"", "", None, ""
        try:
            descriptor = os.open(self._meminfo, os.O_RDONLY | os.O_CLOEXEC)  # less time than `open`
            try:
                content = os.read(descriptor, files.CHUNK_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            problem = _short(error)
        rows = dict(_MEMINFO.findall(content))
        total, hugetlb = int(rows.get(b"MemTotal", 0)) * KIB, int(rows.get(b"Hugetlb", 0)) * KIB
        available = int(rows.get(b"MemAvailable", -1)) * KIB
        self.total_bytes = total or self.total_bytes
        if not 0 <= available <= total - hugetlb or (b"Hugetlb" not in rows and b"Hugetlb:" in content) or not total:
            estimated = estimate(self._paths, content, problem, self._last_total)
            total, hugetlb, available = estimated.total_bytes, estimated.hugetlb_bytes, estimated.available_bytes
            unread, unknown = estimated.unread, estimated.unknown
        low = None
        if b"LowTotal:" in content and not unknown:
            try:
                low = low_memory(content, total, hugetlb, available)
            except ValueError as error:
                unknown, total, hugetlb, available = f"{self._meminfo} ({error})", 0, 0, 0
                unread = (f"{unknown}: memory is unknown, so nothing is raised",)
        total, hugetlb, available = low or (total, hugetlb, available)
        zfs = 0
        if low is None and not unknown and os.access(self._arcstats, os.F_OK):  # half the time of a failed open
            try:
                with open(self._arcstats, "rb", buffering=0) as file:
                    zfs = zfs_reclaimable(file.read(), total - available)
            except (OSError, ValueError) as error:
                unread = (*unread, f"{self._arcstats} ({_short(error)}): ZFS' cache is counted as used")
        if self._entry_slab_bytes is None and loaded:
            try:
                self._entry_slab_bytes = _entry_slab_bytes(self._slab_size)
            except (OSError, ValueError) as error:
                unread = (*unread, f"{self._slab_size} ({_short(error)}): assuming 640 bytes an entry")
        try:
            descriptor = os.open(self._total_objects, os.O_RDONLY | os.O_CLOEXEC)
            try:
                match = files.NUMBER.match(os.read(descriptor, files.NUMBER_BYTES))
            finally:
                os.close(descriptor)
            allocated = None if match is None else int(match[1])
            if allocated and allocated * _ENTRY_SLAB_BYTES.start > total > 0:
                allocated = None  # more than the host's memory holds
        except OSError:  # only root can read it
            pass
        self.unknown = unknown
        return Memory(
            total_bytes=total,
            hugetlb_bytes=hugetlb,
            available_bytes=available + zfs,
            zfs_bytes=zfs,
            is_low=low is not None,
            unknown=unknown,
            entry_slab_bytes=self._entry_slab_bytes,
            allocated_entries=allocated,
            unread=unread,
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
        """Return the entries that exist at least; None if it can't be read.

        `total_objects` also counts the free objects of slabs that fragments, or since 7.3 sheaves, keep allocated.
        `objects` counts those that processors keep alone: up to (10 a memory node + 2 a CPU) sheaves, before them a slab
        each and a list of more. It walks lists under a lock: 1.6 ms for 12,178 slabs (measured: 200,000 entries, 80 % of
        them gone).
        """
        try:
            used, capacity, slab, listed = files.read_number(self._slab / "objects"), 0, 0, 0
            with contextlib.suppress(FileNotFoundError):
                capacity = files.read_number(self._slab / "sheaf_capacity")
            with contextlib.suppress(FileNotFoundError):
                slab = files.read_number(self._slab / "objs_per_slab")
                found = _LISTED_SLABS.match(files.read(self._slab / "slabs_cpu_partial"))
                listed = 0 if found is None else int(found[1])
        except (OSError, ValueError):
            return None
        if not 0 <= capacity <= _SHEAF_CAPACITY:
            capacity = 0
        if not 0 <= slab <= _OBJECTS_A_SLAB:
            slab = 0
        processors, nodes = os.cpu_count() or 1, 1
        with contextlib.suppress(OSError):
            nodes = max(1, sum(name.startswith("node") for name in os.listdir(self._nodes)))
        kept = (10 * nodes + 2 * processors) * capacity if capacity else (processors + listed) * slab
        return max(0, used - kept)

    def _last_total(self) -> int:
        """Return the last good MemTotal of this boot: this process's, or else what a guard has published under /run."""
        published = (self._runtime_dir.status() or {}).get("memory_total_bytes")
        return self.total_bytes or (published if isinstance(published, int) else 0)


def _entry_slab_bytes(path: str) -> int:
    """Return the size of an entry in its slab cache. Raises OSError or ValueError."""
    size = files.read_number(path)
    if size not in _ENTRY_SLAB_BYTES:
        raise ValueError(f"{size} is no entry's size")
    return size


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
    return getattr(error, "strerror", None) or str(error)
