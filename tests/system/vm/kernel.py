"""What differs between kernels and the guard relies on, by version; and the checks that this kernel is as expected."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ground import equal
from machine import SYSCTL, limit
from scratch_namespace import ScratchNamespace

VERSION = tuple(int(part) for part in os.uname().release.split(".")[:2])
ENTRIES_A_BUCKET = 4 if VERSION < (5, 15) else 1
"""By default, the limit is so many times the number of buckets."""
LOWEST_LIMIT = None if VERSION < (6, 0) else 0 if VERSION < (7, 2) else 1
"""The lowest limit that the kernel takes (measured on 5.10, 6.1, 6.12, 6.18, 7.2 and 7.3); None: any int."""
UNLIMITED = {None: -1, 0: 0, 1: None}[LOWEST_LIMIT]
"""A limit that means none. It is an unsigned number for the kernel: -1 is more than any count."""
HAS_CHAIN_LIMIT = VERSION >= (5, 15)
_INT_MAX = 2**31 - 1
_COLUMNS = {"entries", "drop", "early_drop", "insert_failed"}
_CHAIN_COLUMNS = {"chainlength", "chaintoolong"}
_SLAB = Path("/sys/kernel/slab/nf_conntrack")
_SLAB_SIZES = (256, 320)
"""Bytes of an entry: the guard assumes 320 at most."""


def message(number: int | None) -> str:
    """Return the kernel's message about a full table; `number` is the namespace's, None for the initial one."""
    where = "" if number is None or VERSION < (6, 17) else f" in netns {number}"
    return f"nf_conntrack: nf_conntrack: table full{where}, dropping packet"


def default_limit() -> int:
    """Return the limit that this kernel takes by default for its number of buckets."""
    return ENTRIES_A_BUCKET * int((SYSCTL / "nf_conntrack_buckets").read_text("ascii"))


def the_counters_are_those_that_the_guard_reads() -> str:
    """The statistics file has a row for each CPU, the total on each row, and losses to long chains where there are any."""
    head, *rows = Path("/proc/net/stat/nf_conntrack").read_text("ascii").splitlines()
    names = head.split()
    equal(_COLUMNS - {*names}, set())
    equal(bool(_CHAIN_COLUMNS & {*names}), HAS_CHAIN_LIMIT)
    equal(len(rows), os.cpu_count())
    equal(len({row.split()[names.index("entries")] for row in rows}), 1)
    return f"{len(rows)} rows of {head}"


def bytes_an_entry(table: ScratchNamespace, flows: int) -> float:
    """Return the kernel memory that each of so many new entries takes. Entries that are gone leave memory to reuse."""
    before = _kernel_bytes()
    table.fill(flows)
    return (_kernel_bytes() - before) / table.count()


def planned_bytes() -> tuple[int, float]:
    """Return the size of an entry's slab object, and what the guard plans for an entry: (slab + 256) × 1.1."""
    slab = int((_SLAB / "slab_size").read_text("ascii"))
    equal(slab in _SLAB_SIZES, True)  # noqa: FBT003 - what `in` returns
    return slab, 1.1 * (slab + 256)


def slab_objects() -> int:
    """Return the entries of all namespaces that memory is taken for, including free ones that the kernel keeps."""
    return int((_SLAB / "total_objects").read_text("ascii").split()[0])


def the_limit_takes_the_range_that_is_known() -> str:
    """The guard never writes a limit that the kernel refuses, and knows which ones mean none."""
    before = limit()
    taken = [value for value in (-_INT_MAX - 1, -1, 0, 1, _INT_MAX) if _takes(value)]
    Path(SYSCTL / "nf_conntrack_max").write_text(f"{before}\n", "ascii")
    lowest = -_INT_MAX - 1 if LOWEST_LIMIT is None else LOWEST_LIMIT
    equal(taken, [value for value in (-_INT_MAX - 1, -1, 0, 1, _INT_MAX) if value >= lowest])
    return f"takes {', '.join(f'{value:,}' for value in taken)}"


def _takes(value: int) -> bool:
    with contextlib.suppress(OSError):
        Path(SYSCTL / "nf_conntrack_max").write_text(f"{value}\n", "ascii")
        equal(limit(), value)
        return True
    return False


def _kernel_bytes() -> int:
    """Return the kernel memory that can't be reclaimed."""
    rows = dict(row.split(":") for row in Path("/proc/meminfo").read_text("ascii").splitlines())
    return int(rows["SUnreclaim"].split()[0]) * 1024
