"""One namespace's table: its count, counters and timeout, read without entering the namespace where possible."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import process_of, run_in_netns
from conntrackd_guard.host.paths import Paths

_STAT = "net/stat/nf_conntrack"
_COUNT = "proc/sys/net/netfilter/nf_conntrack_count"
_CHAIN_COLUMNS = (b"chainlength", b"chaintoolong")
"""Both names of one column; kernels before 5.15 have neither, and drop nothing for long chains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A table's figures; `drop` and `early_drop` are None where only the count could be had."""

    count: int
    drop: int | None
    early_drop: int | None
    source: str


def parse_statistics(content: bytes, source: str) -> Counters:
    """Read /proc/net/stat/nf_conntrack: one hexadecimal row per CPU, columns found by the header.

    `entries` repeats the namespace's total on each row; the counters are per CPU, u32, and wrap.
    Raises ValueError for anything else.
    """
    header, *rows = content.splitlines()
    names = header.split()
    entries, drop, early = names.index(b"entries"), names.index(b"drop"), names.index(b"early_drop")
    count = dropped = early_dropped = 0
    for row in rows:
        figures = row.split()
        count = int(figures[entries], 16)
        dropped += int(figures[drop], 16)
        early_dropped += int(figures[early], 16)
    return Counters(count=count, drop=dropped, early_drop=early_dropped, source=source)


class TableReader:
    """Reads the tables of network namespaces."""

    def __init__(self, paths: Paths) -> None:
        self._proc = str(paths.proc)
        self._root = str(paths.root)

    def read(self, netns: NetNamespace) -> Counters | None:
        """Return the figures of one table, None when its namespace can no longer be reached."""
        if netns.initial:
            return self._of_process("self", netns) or self._own_count()
        for pid in netns.pids:
            counters = self._of_process(str(pid), netns)
            if counters is not None:
                return counters
        try:
            return run_in_netns(netns, _entered) if netns.enter else None
        except (OSError, ValueError):
            return None

    def _of_process(self, pid: str, netns: NetNamespace) -> Counters | None:
        folder = f"{self._proc}/{pid}/"
        try:
            # Pids are reused: the inode shows whether the process is still in this namespace.
            if os.stat(folder + "net/stat").st_ino != netns.key:
                return None
            return parse_statistics(files.read(folder + _STAT), "statistics file")
        except (OSError, ValueError):
            return None

    def _own_count(self) -> Counters | None:
        """The initial namespace on a kernel without the statistics file (CONFIG_NF_CONNTRACK_PROCFS off)."""
        try:
            count = files.read_number(os.path.join(self._root, _COUNT))
        except (OSError, ValueError):
            return None
        return Counters(count=count, drop=None, early_drop=None, source="sysctl")


def _entered() -> Counters:
    """Return the figures of the namespace that the calling thread is in. Raises OSError or ValueError."""
    try:
        return parse_statistics(files.read("/proc/thread-self/" + _STAT), "statistics file, entered")
    except (OSError, ValueError):
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
