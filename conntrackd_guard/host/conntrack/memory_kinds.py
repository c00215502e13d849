"""Memory that `MemAvailable` gets wrong for entries: ZFS' cache, and what a 32-bit kernel has above low memory.

Used on hosts that have either.
"""

import re

_LOW = re.compile(rb"^(LowTotal|LowFree): *([0-9]{1,12}) kB[ \t]*\n", re.MULTILINE)
_ARCSTATS = re.compile(rb"^(size|c_min|(?:mru|mfu)_evictable_(?:data|metadata)) +[0-9]+ +([0-9]{1,18})\n", re.MULTILINE)
"""/proc/spl/kstat/zfs/arcstats: name, type, figure in bytes."""


def low_memory(meminfo: bytes, total: int, hugetlb: int, available: int) -> tuple[int, int, int] | None:
    """Return these three figures (bytes) for low memory, where a 32-bit kernel keeps entries; None if all memory is low.

    Caches and huge pages may lie above it, and huge pages do first. Raises ValueError if they can't be read.
    """
    rows = dict(_LOW.findall(meminfo))
    low, free = int(rows.get(b"LowTotal", 0)) * 1024, int(rows.get(b"LowFree", -1)) * 1024
    if b"LowTotal" in rows and (low == 0 or low >= total):
        return None
    if not 0 <= free <= low:
        raise ValueError("no valid LowTotal or LowFree")
    return low, min(low, max(0, hugetlb - (total - low))), min(available, free)


def zfs_reclaimable(arcstats: bytes, most: int) -> int:
    """Return the bytes of ZFS' cache that it gives back under pressure, as its `arc_evictable_memory()` calculates them.

    What is clean, and above the cache's minimum. Old versions don't show what is clean. Raises ValueError, also for
    more than `most`.
    """
    rows = {name: int(figure) for name, figure in _ARCSTATS.findall(arcstats)}
    if b"size" not in rows or b"c_min" not in rows:
        raise ValueError("no size or c_min")
    above = max(0, rows.pop(b"size") - rows.pop(b"c_min"))
    found = above if len(rows) < 4 else min(above, sum(rows.values()))  # noqa: PLR2004 - of two lists, data and metadata
    if found > most:
        raise ValueError("more than the host has")
    return found
