"""Memory that /proc/meminfo's `MemAvailable` alone gets wrong: ZFS' cache, and high memory of 32-bit kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from conntrackd_guard.host.conntrack.stat import Memory, MemoryReader
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

MIB = 1 << 20
GIB = 1 << 30
HEAD = "13 1 0x01 123 33456 5000 6000\nname                            type data\n"
ARC = "c 4 8413251584\nc_min 4 522915840\nc_max 4 8413251584\nsize 4 8413251584\n"
ABOVE = 8_413_251_584 - 522_915_840


def read(root: Path, arcstats: str | bytes | None = None, meminfo: str = "") -> Memory:
    """Read a host of 16 GiB with 400 MiB available, with these statistics of ZFS and further rows of /proc/meminfo."""
    proc = root / "proc"
    (proc / "spl/kstat/zfs").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemAvailable: {400 << 10} kB\n{meminfo}")
    if arcstats is not None:
        content = arcstats if isinstance(arcstats, bytes) else arcstats.encode()
        (proc / "spl/kstat/zfs/arcstats").write_bytes(content)
    return MemoryReader(Paths(root), RuntimeDir(Paths(root))).read()


def evictable(*figures: int) -> str:
    """Return the rows that show how much of the cache is clean."""
    names = ("mru_evictable_data", "mru_evictable_metadata", "mfu_evictable_data", "mfu_evictable_metadata")
    return "".join(f"{name} 4 {figure}\n" for name, figure in zip(names, figures, strict=False))


@pytest.mark.parametrize(
    ("arcstats", "zfs"),
    [
        (None, 0),
        (HEAD + ARC, ABOVE),
        (HEAD + ARC + evictable(GIB, MIB, 2 * GIB, 3), 3 * GIB + MIB + 3),  # the rest is in use
        (HEAD + ARC + evictable(4 * GIB, 0, 4 * GIB, 0), ABOVE),  # its minimum stays
        (HEAD + ARC + evictable(GIB), ABOVE),  # rows of another version
        (HEAD + "c_min 4 522915840\nsize 4 1000\n", 0),
    ],
)
def test_the_cache_above_its_minimum_is_available(tmp_path: Path, arcstats: str | None, zfs: int) -> None:
    """ZFS gives back what is clean and above its minimum; the kernel's own figure doesn't count it."""
    memory = read(tmp_path, arcstats)
    assert (memory.zfs_bytes, memory.available_bytes) == (zfs, 400 * MIB + zfs)
    assert not [text for text in memory.unread if "arcstats" in text]


@pytest.mark.parametrize(
    "arcstats",
    [
        "",
        HEAD,
        HEAD + "size 4 8413251584\n",
        HEAD + "size 4 \nc_min 4 1\n",
        HEAD + "size 4 x\nc_min 4 1\n",
        HEAD + "size 4 -1\nc_min 4 1\n",
        HEAD + "size 4 8413251584\nc_min 4 -522915840\n",
        HEAD + f"size 4 {16 * GIB}\nc_min 4 0\n",  # with what is available more than the host has
        HEAD + "size 4 8413251584x\nc_min 4 1\n",
        HEAD + "total_size 4 8413251584\nc_min 4 1\n",
        HEAD + f"size 4 {'9' * 5000}\nc_min 4 0\n",
        b"\xff\xfe size\nsize 4 \xff\nc_min 4 1\n",
    ],
)
def test_a_cache_that_cannot_be_read_counts_as_used(tmp_path: Path, arcstats: str | bytes) -> None:
    """Nothing is added, and the figure is named."""
    memory = read(tmp_path, arcstats)
    assert (memory.zfs_bytes, memory.available_bytes) == (0, 400 * MIB)
    assert ["arcstats" in text and "counted as used" in text for text in memory.unread].count(True) == 1


@pytest.mark.parametrize(
    ("rows", "figures"),
    [
        # 16 GiB, 880 MiB of it low, 100 MiB of that free: neither high memory nor ZFS' cache holds an entry
        (f"LowTotal: {880 << 10} kB\nLowFree: {100 << 10} kB\n", (880 * MIB, 0, 100 * MIB)),
        # huge pages fill high memory first
        (f"LowTotal: {880 << 10} kB\nLowFree: {100 << 10} kB\nHugetlb: {1 << 20} kB\n", (880 * MIB, 0, 100 * MIB)),
        (
            f"LowTotal: {880 << 10} kB\nLowFree: {100 << 10} kB\nHugetlb: {15_974 << 10} kB\n",
            (880 * MIB, 470 * MIB, 100 * MIB),
        ),
        # less is available than is free in low memory
        (f"LowTotal: {880 << 10} kB\nLowFree: {500 << 10} kB\n", (880 * MIB, 0, 400 * MIB)),
    ],
)
def test_low_memory_bounds_entries(tmp_path: Path, rows: str, figures: tuple[int, int, int]) -> None:
    """A 32-bit kernel keeps entries in low memory: budget and `min_available` are shares of that."""
    memory = read(tmp_path, HEAD + ARC, rows)
    assert (memory.total_bytes, memory.hugetlb_bytes, memory.available_bytes) == figures
    assert (memory.is_low, memory.zfs_bytes) == (True, 0)


@pytest.mark.parametrize("low", [0, 16 << 20, 17 << 20])
def test_all_memory_is_low_without_high_memory(tmp_path: Path, low: int) -> None:
    """Kernels that support high memory show these rows on hosts without it, too."""
    memory = read(tmp_path, None, f"LowTotal: {low} kB\nLowFree: 1 kB\n")
    assert (memory.total_bytes, memory.available_bytes, memory.is_low) == (16 * GIB, 400 * MIB, False)
