"""Facts about a process, from its folder in /proc."""

import os
import re
from pathlib import Path

from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

POD = re.compile(r"(?:.*-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?")
"""kubelet: `pod<uid>`, or `kubepods-burstable-pod<uid with _>.slice`; a static pod's uid has 32 hex digits."""
_TICKS_BELOW = 1 << 64
"""The kernel prints an unsigned 64-bit number."""
_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{12})[0-9a-f]{52}(?:\.scope)?(?:/[^/]*)*$")
_UNIT = re.compile(r"([^/]+\.(?:service|scope))(?:/[^/]*)*$")
_WHOLE_MAP = [b"0", b"0", b"4294967295"]


def started_ticks(folder: str | Path) -> int | None:
    """Return when a process started, in clock ticks after the boot (field 22, proc_pid_stat(5)); None if it has ended."""
    try:
        ticks = int(files.read(f"{folder}/stat").rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return ticks if ticks < _TICKS_BELOW else None


def maps_all_users(folder: str | Path) -> bool:
    """Return whether a process is in a user namespace that maps every uid to itself, as the initial one. Raises OSError."""
    return files.read(f"{folder}/uid_map").split() == _WHOLE_MAP


def own_pid(paths: Paths) -> int:
    """Return this process's id among the host's processes: a container may have ids of its own."""
    if paths.has_prefix:
        try:
            return int(os.readlink(paths.proc / "self"))
        except (OSError, ValueError):  # the procfs of another PID namespace
            pass
    return os.getpid()


def home(paths: Paths, pid: int) -> str:
    """Return the container or the unit that a process runs in, by its cgroup, printable; "" if that does not show it."""
    try:
        rows = files.read(f"{paths.proc}/{pid}/cgroup").decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for pattern, kind in ((_CONTAINER, "container "), (_UNIT, "")):
        for row in rows:
            if found := pattern.search(row):
                return printable(f"{kind}{found[1]}")
    return ""
