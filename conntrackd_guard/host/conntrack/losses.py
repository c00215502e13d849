"""What a table loses beside a full table: inserts that fail, and chains that are too long."""

from __future__ import annotations

from dataclasses import dataclass

from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import inside, process_of
from conntrackd_guard.host.paths import Paths

_STAT = "net/stat/nf_conntrack"
_CHAIN_COLUMNS = (b"chainlength", b"chaintoolong")
"""The column was renamed; kernels before 5.15 have neither, and lose nothing to chains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCounters:
    """Cumulative, summed over CPUs."""

    insert_failed: int
    chain_too_long: int


def read_losses(place: NetNamespace, paths: Paths, *, enter: bool) -> LossCounters | None:
    """Return a table's counters, None where they can't be read. `enter` allows to enter its namespace."""
    for pid in ("self",) if place.initial else place.pids:
        try:
            with process_of(place, str(paths.proc), pid) as folder:
                return parse_losses(files.read(f"/proc/self/fd/{folder}/{_STAT}"))  # the folder that is held
        except (OSError, ValueError):
            continue
    if place.initial or not enter:
        return None
    try:
        return parse_losses(inside(place, lambda: files.read(f"/proc/thread-self/{_STAT}")))
    except (OSError, ValueError):
        return None


def parse_losses(content: bytes) -> LossCounters:
    """Read /proc/net/stat/nf_conntrack: hexadecimal rows, one a CPU. Raises ValueError for anything else."""
    header, *rows = content.splitlines() or [b""]
    names = header.split()
    failed = names.index(b"insert_failed")
    chains = [names.index(name) for name in _CHAIN_COLUMNS if name in names]
    figures = [row.split() for row in rows]
    if any(len(row) < len(names) for row in figures):
        raise ValueError("a row without all columns")
    return LossCounters(
        insert_failed=sum(int(row[failed], 16) for row in figures),
        chain_too_long=sum(int(row[column], 16) for row in figures for column in chains),
    )
