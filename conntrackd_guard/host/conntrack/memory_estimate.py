"""Substitutes for figures that /proc/meminfo lacks. Memory that is unknown is not memory 0: a raise may still fit.

Each figure has an order of substitutes, and the one taken is named. Only without any of them is memory unknown.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

KIB = 1024
_HERE = Path("/")
"""The root whose memory the kernel counts."""
_ROWS = re.compile(
    rb"^(MemTotal|MemFree|MemAvailable|Active\(file\)|Inactive\(file\)|SReclaimable|Hugetlb): *([0-9]{1,12}) kB[ \t]*\n",
    re.MULTILINE,
)
_ZONE = re.compile(rb"^Node +[0-9]+, +zone +\S+\n", re.MULTILINE)
_MARK = re.compile(rb"^ +(low|high|managed) +([0-9]{1,12})\n", re.MULTILINE)
_PROTECTION = re.compile(rb"^ +protection: \(([0-9]{1,12}(?:, [0-9]{1,12})*)\)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Memory in bytes. `unread` names the figures that were replaced; `unknown` says why they are not enough."""

    total_bytes: int = 0
    hugetlb_bytes: int = 0
    available_bytes: int = 0
    unread: tuple[str, ...] = ()
    unknown: str = ""


def estimate(paths: Paths, content: bytes, problem: str, last_total: Callable[[], int]) -> Estimate:
    """Return what is known of the memory of a host whose meminfo is incomplete, or unreadable for a `problem`.

    `last_total` returns the last good MemTotal of this boot in bytes, 0 without one.
    """
    rows = {name.decode(): int(number) * KIB for name, number in _ROWS.findall(content)}
    meminfo, unread = paths.proc / "meminfo", list[str]()
    total = rows.get("MemTotal", 0)
    if not total:
        total, source = last_total(), "the last reading in this boot"
        if not total:
            total, source = _physical_bytes(paths.root), "the kernel's count of physical pages"
        unread.append(f"{meminfo} ({problem or 'no valid MemTotal'}): using {format_bytes(total)}, {source}")
    available = rows.get("MemAvailable")
    if available is None or available > total:
        available, source = _formula(rows, paths), "MemFree, the file cache and /proc/zoneinfo"
        if available is None:
            available, source = rows.get("MemFree"), "MemFree alone"
        unread.append(f"{meminfo} ({problem or 'no valid MemAvailable'}): available memory is calculated from {source}")
    if not total or available is None or available > total:
        missing = "MemAvailable or MemFree" if total else "MemTotal"
        unknown = f"{meminfo} ({problem or f'no valid {missing}'})"
        return Estimate(
            total_bytes=total, unknown=unknown, unread=(f"{unknown}: memory is unknown, so nothing is raised",)
        )
    hugetlb = rows.get("Hugetlb", 0)
    if hugetlb > total - available or ("Hugetlb" not in rows and b"Hugetlb:" in content):
        hugetlb = total - available
        unread.append(f"{meminfo} (no valid Hugetlb): counting all memory that is not available as huge pages")
    return Estimate(total_bytes=total, hugetlb_bytes=hugetlb, available_bytes=available, unread=tuple(unread))


def _physical_bytes(root: Path) -> int:
    """Return the kernel's own count, which is this host's; 0 below another root, or without one."""
    if root == _HERE:
        with suppress(OSError, ValueError):
            return max(0, os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _formula(rows: Mapping[str, int], paths: Paths) -> int | None:
    """Return MemAvailable as the kernel calculates it (`si_mem_available`, mm/show_mem.c), None if a term is missing."""
    try:
        zones = _ZONE.split(files.read(paths.proc / "zoneinfo"))[1:]
        free, reclaimable = rows["MemFree"], rows["SReclaimable"]
        cache = rows["Active(file)"] + rows["Inactive(file)"]
    except (OSError, KeyError):
        return None
    low = reserve = 0
    for zone in zones:
        marks, protection = dict(_MARK.findall(zone)), _PROTECTION.search(zone)
        if protection is None or len(marks) < 3:  # noqa: PLR2004 - low, high and managed
            return None
        protected = max(map(int, protection[1].split(b",")))
        low += int(marks[b"low"])
        reserve += min(int(marks[b"managed"]), int(marks[b"high"]) + protected)
    if not low:
        return None
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    low, reserve = low * page_bytes, reserve * page_bytes
    return max(0, free - reserve + cache - min(cache // 2, low) + reclaimable - min(reclaimable // 2, low))
