"""Who changed the limit: named on evidence of time and value only, else `unknown`."""

from __future__ import annotations

import os
from pathlib import Path

from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files
from conntrackd_guard.host.other_writers import other_writers
from conntrackd_guard.host.sysctl_files import assignments

UNKNOWN = "unknown"
STARTED_SECONDS = 60.0
"""A program that sets the limit does so as it starts; on a busy node that takes tens of seconds."""
_OWN = "conntrackd-guard"
_MOST_NAMED = 3


def attribute_change(root: Path, limit: int, seen_seconds: float) -> str:
    """Return who may have set `limit` shortly before `seen_seconds` (CLOCK_BOOTTIME), with the evidence. Never raises.

    A program counts where it started just before and sets this very value; a sysctl file where a line holds it.
    """
    found = []
    for writer in other_writers(root, os.cpu_count() or 1):
        ago = None if writer.pid is None else _started_ago(root, writer.pid, seen_seconds)
        if writer.sets == limit and ago is not None and -1.0 <= ago <= STARTED_SECONDS:
            found.append(f"{writer.evidence}; it started {max(0.0, ago):.0f} s before")
    files_of_others = (line for line in assignments(root) if line.number == limit and _OWN not in line.path)
    found += [f"{line.path}:{line.line} holds this value" for line in files_of_others]
    return printable("; ".join(found[:_MOST_NAMED])) or UNKNOWN


def _started_ago(root: Path, pid: int, seen_seconds: float) -> float | None:
    """Return how long before that a process started; None where it has ended."""
    try:
        fields = files.read(root / "proc" / str(pid) / "stat").rpartition(b")")[2].split()
        return seen_seconds - int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22: start time in ticks since boot
    except (OSError, ValueError, IndexError):
        return None
