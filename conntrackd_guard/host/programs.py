"""Running programs of root, known by more than the name that a process gives itself.

Any user can call a process `kube-proxy`, or run a set-user-ID program by that name, and /proc then shows root as its owner.
What does: its user ids, the network namespace (only the initial one has the limit), and who started it: a unit or a
container outside user sessions, or an executable of root with that name.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from conntrackd_guard.host import files
from conntrackd_guard.host.processes import POD

_ROOTS = re.compile(rb"^Uid:\t0\t0\t0\t0$", re.MULTILINE)
"""Real, effective, saved and file system user id (proc_pid_status(5)): a set-user-ID program has its caller's as the first."""
_CONTAINER = re.compile(r"(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?")
_SESSIONS = re.compile(r"user(?:\.slice|-\d+\.slice|@\d+\.service)")
"""Below these a user makes cgroups of any name."""


class Program(NamedTuple):
    """A process of root in the initial network namespace, in which a program with that name runs."""

    name: str
    """As its `comm`, at most 15 characters."""
    pid: int
    container: str = ""
    """Identity of its container, "" outside of one."""
    pod: str = ""
    """Uid of its pod, with dashes."""


def find(proc: Path, programs: Mapping[str, str]) -> list[Program]:
    """Return the running ones of `programs`: by the name of the process, what its unit or its executable is called."""
    found = []
    for entry in sorted(proc.glob("[0-9]*")):
        try:
            name = files.read(entry / "comm").decode("utf-8", "replace").strip()
            if name in programs and (program := _proven(entry, name, programs[name])):
                found.append(program)
        except OSError:
            continue  # it has ended
    return found


def sees_processes(root: Path) -> bool:
    """Return whether other users' processes are visible (`hidepid` hides them)."""
    return os.path.exists(root / "proc/1/comm")


def _proven(entry: Path, name: str, called: str) -> Program | None:
    """Return the process if it is root's, can write the limit, and is what it is called. Raises OSError if it has ended."""
    network = (os.stat(at / "net/stat").st_ino for at in (entry, entry.parent / "1"))
    if not _ROOTS.search(files.read(entry / "status")) or next(network) != next(network):
        return None
    parts = files.read(entry / "cgroup").decode("utf-8", "replace").replace(":", "/").replace("\n", "/").split("/")
    by_root = not any(map(_SESSIONS.fullmatch, parts))
    containers, pods = ([match[1] for match in map(one.fullmatch, parts) if match] for one in (_CONTAINER, POD))
    unit = re.compile(rf"(?:.*[.-])?{called}(?:[-@].*)?\.service")
    if by_root and (containers or any(map(unit.fullmatch, parts))):
        return Program(name, int(entry.name), *(one[0].replace("_", "-") if one else "" for one in (containers, pods)))
    return Program(name, int(entry.name)) if _runs(entry, called) else None


def _runs(entry: Path, called: str) -> bool:
    """Return whether a process runs an executable of root with that name; no if that can't be read (CAP_SYS_PTRACE)."""
    try:
        path, found = os.readlink(entry / "exe"), os.stat(entry / "exe")
    except OSError:
        return False
    is_safe = found.st_uid == 0 and not found.st_mode & (stat.S_ISUID | stat.S_IWGRP | stat.S_IWOTH)
    return is_safe and path.removesuffix(" (deleted)").rpartition("/")[2] == called
