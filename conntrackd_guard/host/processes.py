"""Facts about a process, from its folder in /proc."""

from pathlib import Path

from conntrackd_guard.host import files

_TICKS_BELOW = 1 << 64
"""The kernel prints an unsigned 64-bit number."""
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
