"""What this process, or the running guard, may open and write: tried without changing anything."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_WRITE_BIT = 0o200


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a file system has left."""

    free_bytes: int
    inodes_left: bool
    writable: bool


def refusal(path: Path, flags: int) -> OSError | None:
    """Open and close a file (`flags` as for os.open, never one that creates or truncates); return why it can't be."""
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error
    return None


def room(path: Path) -> Room:
    """Return what is left where `path` is, or will be; for one out of reach, where its folder is. Raises OSError."""
    while not os.path.exists(path):
        path = path.parent
    found = os.statvfs(path)
    return Room(
        free_bytes=found.f_bavail * found.f_frsize,
        inodes_left=found.f_files == 0 or found.f_favail > 0,  # 0 in all: a file system that makes them as needed
        writable=not found.f_flag & os.ST_RDONLY,
    )


def is_initial(limit: Path) -> bool | None:
    """Return whether this is the initial network namespace; None without connection tracking.

    Every other one shows the limit without the owner's right to write it. Raises OSError but for a missing file.
    """
    try:
        return bool(limit.stat().st_mode & _WRITE_BIT)
    except FileNotFoundError:
        return None


def same_namespace(proc: Path, pid: int) -> bool | None:
    """Return whether that process is in this network namespace; None where it can't be told. Never raises."""
    try:
        return os.stat(proc / str(pid) / "net/stat").st_ino == os.stat(proc / "self/net/stat").st_ino
    except OSError:
        return None
