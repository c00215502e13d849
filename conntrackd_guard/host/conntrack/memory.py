"""What kernel memory the host has, and what an entry costs."""

from __future__ import annotations

from dataclasses import dataclass

from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

_KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes; an entry's slab size is None where it can't be read. `unread` says what, and what is assumed."""

    total_bytes: int
    hugetlb_bytes: int
    available_bytes: int
    entry_slab_bytes: int | None
    allocated_entries: int | None
    """An upper bound on the entries of all namespaces."""
    bucket_arrays: int
    unread: tuple[str, ...]


class MemoryReader:
    """Reads /proc/meminfo, the entries' slab cache and whether NAT keeps a second bucket array."""

    def __init__(self, paths: Paths) -> None:
        self._meminfo = str(paths.proc / "meminfo")
        self._slab_size = str(paths.slab / "slab_size")
        self._total_objects = str(paths.slab / "total_objects")
        self._entry_slab_bytes: int | None = None
        """Once read it stays: a kernel's entries have one size."""

    def read(self) -> Memory:
        """Return the figures of this moment. What can't be read takes its safe default. Never raises."""
        unread: list[str] = []
        total = hugetlb = available = 0
        try:
            figures = _meminfo(files.read(self._meminfo))
            total, available = figures[b"MemTotal"] * _KIB, figures[b"MemAvailable"] * _KIB
            hugetlb = figures.get(b"Hugetlb", 0) * _KIB
        except (OSError, ValueError, KeyError) as error:
            unread.append(f"{self._meminfo} ({_short(error)}): no memory is taken as available")
        if self._entry_slab_bytes is None:
            try:
                self._entry_slab_bytes = files.read_number(self._slab_size)
            except (OSError, ValueError) as error:
                unread.append(f"{self._slab_size} ({_short(error)}): 640 bytes an entry are assumed")
        return Memory(
            total_bytes=total,
            hugetlb_bytes=hugetlb,
            available_bytes=available,
            entry_slab_bytes=self._entry_slab_bytes,
            allocated_entries=self.allocated_entries(),
            # A built-in NAT (the second array) can't be told from outside, so it is always counted: 8 bytes a bucket.
            bucket_arrays=2,
            unread=tuple(unread),
        )

    def allocated_entries(self) -> int | None:
        """Return the slab's object count: an upper bound on the entries of all namespaces in one cheap read (7 µs).

        None where it can't be read (only root can, and only kernels with the SLUB allocator have it).
        """
        try:
            return files.read_number(self._total_objects)
        except (OSError, ValueError):
            return None


def _meminfo(content: bytes) -> dict[bytes, int]:
    figures = {}
    for row in content.splitlines():
        name, _, rest = row.partition(b":")
        figures[name] = int(rest.split(None, 1)[0])
    return figures


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
