"""Detect whom a lower conntrack limit would hurt on this host: an acting guard, and tables with entries.

Namespaces are found by their processes and mounts. If only a socket or an open descriptor keeps one, its entries show
only in the kernel's allocation for all namespaces together, and only beyond those that processors cache (a few hundred
entries each). Guards and tables of another kernel are out of scope.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

GUARD_LOCK = Path("/run/conntrackd-guard/lock")
"""Held by the guard that acts on this host while it runs."""
SLAB = Path("/sys/kernel/slab/nf_conntrack")
"""The kernel's allocation for the entries of all namespaces."""
_SHEAVES_EACH = 16
"""Arrays of free entries per processor: three of its own, and ten for its memory node (mm/slub.c, 6.18 to 7.3)."""
_DYING_SECONDS = 5.0
"""The kernel empties the tables of ended namespaces in the background, within this time."""


def acting_guard() -> str | None:
    """Return which guard acts on this host and how to stop it, None if none does (needs root).

    Takes a shared lock and releases it at once, so two checks don't take each other for a guard.
    """
    try:
        descriptor = os.open(GUARD_LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{GUARD_LOCK} can't be opened ({error.strerror}), so a guard may be acting on this host"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 32).strip()
        who = f"process {int(holder)}" if holder.isdigit() else "a process"
        return f"a guard acts on this host ({who} holds {GUARD_LOCK}); stop it first: systemctl stop conntrackd-guard"
    finally:
        os.close(descriptor)
    return None


@contextlib.contextmanager
def no_guard_starts() -> Iterator[None]:
    """Hold the lock that a guard takes at start, so that none starts. Raises OSError while one acts.

    Polling would not be enough: a guard raises within 20 ms of its start and persists that limit for the next boot.
    """
    made = not GUARD_LOCK.exists()
    GUARD_LOCK.parent.mkdir(exist_ok=True)
    descriptor = os.open(GUARD_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())  # a refused guard names this process
        yield
        if made:
            with contextlib.suppress(OSError):  # a refused guard has left its folders there
                GUARD_LOCK.unlink()
                GUARD_LOCK.parent.rmdir()
    finally:
        os.close(descriptor)


def foreign_entries(own: frozenset[int] = frozenset()) -> str | None:
    """Return which namespace outside `own` holds entries or is unreadable, None if there is none (needs root).

    A process that enters one of `own` just then looks like another one with its entries: a second look decides.
    """
    return _foreign_entries(own) and _foreign_entries(own)


def _foreign_entries(own: frozenset[int]) -> str | None:
    try:
        for number, place, count in _tables():
            if number in own or count == 0:
                continue
            return f"{place} can't be read" if count is None else f"{place} holds {count:,} conntrack entries"
    except OSError as error:
        return f"{error.filename} can't be read ({error.strerror})"
    return None


def unseen_entries() -> str | None:
    """Return how many entries no reachable namespace holds, None if there are none or it is unknown (needs root)."""
    deadline = time.monotonic() + _DYING_SECONDS
    while (unseen := _allocated() - sum(count or 0 for _, _, count in _tables())) > 0:
        if time.monotonic() > deadline:
            return f"{unseen:,} conntrack entries or more are in no network namespace that can be found"
        time.sleep(0.1)
    return None


def _allocated() -> int:
    """Return the least number of entries that exist: the kernel also counts free ones that processors cache.

    Each has a slab in use, and more in a list. (`cpu_slabs` leaves out the list of a processor that only ever freed.)
    """
    try:
        objects, slab = _figure("objects"), _figure("objs_per_slab")
    except OSError:
        return 0  # another allocator, or one without these figures
    processors = os.cpu_count() or 1
    kept = slab * (processors + _figure_or_0("slabs_cpu_partial", r"\((\d+)\)"))
    return objects - kept - _figure_or_0("sheaf_capacity") * _SHEAVES_EACH * processors


def _figure(name: str, pattern: str = r"(\d+)") -> int:
    found = re.search(pattern, (SLAB / name).read_text("ascii"))
    return int(found[1]) if found else 0


def _figure_or_0(name: str, pattern: str = r"(\d+)") -> int:
    """Return a figure that not all kernels have, else 0."""
    try:
        return _figure(name, pattern)
    except FileNotFoundError:
        return 0


def _tables() -> Iterator[tuple[int | None, str, int | None]]:
    """Yield each reachable network namespace: its number, a name for people, its entries (None: unreadable).

    Raises OSError if the namespaces can't be listed.
    """
    for inode, number, place, ways in _namespaces():
        counts = (_entries(way) for way in ways)
        count = next((count for count in counts if count is not None), None)
        if count is not None or any(_inode(way) == inode for way in ways):  # else it has ended meanwhile
            yield number, place, count


def _entries(way: str) -> int | None:
    """Return the number of entries in the namespace behind a path, None if unreadable."""
    if way.startswith("/proc/"):
        try:
            rows = Path(way, "nf_conntrack").read_text("ascii").splitlines()
            return int(rows[1].split()[0], 16)
        except (OSError, IndexError):  # ended, or a kernel without CONFIG_NF_CONNTRACK_PROCFS: read from inside
            way = way.replace("/net/stat", "/ns/net")
    command = ["nsenter", f"--net={way}", "cat", "/proc/sys/net/netfilter/nf_conntrack_count"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 else None


def _namespaces() -> Iterator[tuple[int, int | None, str, list[str]]]:
    """Yield each reachable network namespace: the inode of its paths, its number, a name for people, the paths."""
    known = set()
    for inode, pids in _processes().items():
        numbers = (_inode(f"/proc/{pid}/ns/net") for pid in pids)
        number = next((number for number in numbers if number), None)
        known.add(number)
        place = f"the network namespace of process {pids[0]}"
        yield inode, number, place, [f"/proc/{pid}/net/stat" for pid in pids]
    mounts: dict[int, list[str]] = {}
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        root, mounted = line.split()[3:5]
        if root.startswith("net:["):  # a namespace kept alive by a mount: `ip netns`, docker
            way = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mounted)
            mounts.setdefault(int(root[5:-1]), []).append(way)
    for number, ways in mounts.items():
        if number not in known:
            yield number, number, f"the network namespace {ways[0]!a}", ways


def _processes() -> dict[int, list[str]]:
    """Return all processes by the inode of /proc/PID/net/stat, which is unique per namespace and readable by everyone."""
    found: dict[int, list[str]] = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            found.setdefault(os.stat(f"/proc/{pid}/net/stat").st_ino, []).append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def _inode(path: str) -> int | None:
    """Return the inode, None if the path doesn't exist or its namespace is unreadable."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
