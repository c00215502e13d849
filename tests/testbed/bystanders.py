"""Who on this host could be hurt when a test lowers the conntrack limit: a guard at work, and tables with entries in them.

A namespace is found by its processes and its mounts. One that a socket or an open descriptor alone keeps is found by
neither: its entries show only in what the kernel has allocated for all namespaces together, and only beyond what the
processors keep for themselves (a few hundred entries each). Guards and tables of another kernel are no business of ours.
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
"""Held by the guard that acts on this host, for as long as it runs."""
SLAB = Path("/sys/kernel/slab/nf_conntrack")
"""What the kernel has allocated for the entries of all namespaces."""
_SHEAVES_EACH = 16
"""Arrays of free entries for each processor: three of its own, and ten for its memory node (mm/slub.c of 6.18 to 7.3)."""
_DYING_SECONDS = 5.0
"""The kernel empties the tables of namespaces that ended in the background; so long it may take."""


def acting_guard() -> str | None:
    """Say which guard acts on this host and what to do, None when none does (needs root).

    Asks for a shared lock and gives it back at once, so two who ask don't take each other for a guard.
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
    """Hold the lock that a guard takes at its start, so that it declines meanwhile. Raises OSError while one acts.

    To look now and then would not do: a guard raises within 20 ms of its start, and keeps that limit for the next boot.
    """
    made = not GUARD_LOCK.exists()
    GUARD_LOCK.parent.mkdir(exist_ok=True)
    descriptor = os.open(GUARD_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())  # a guard that declines names this process
        yield
        if made:
            with contextlib.suppress(OSError):  # a guard that was declined has left its folders there
                GUARD_LOCK.unlink()
                GUARD_LOCK.parent.rmdir()
    finally:
        os.close(descriptor)


def foreign_entries(own: frozenset[int] = frozenset()) -> str | None:
    """Say which network namespace outside `own` holds a conntrack entry or can't be asked, None when none (needs root)."""
    try:
        for number, place, count in _tables():
            if number in own or count == 0:
                continue
            return f"{place} can't be read" if count is None else f"{place} holds {count:,} conntrack entries"
    except OSError as error:
        return f"{error.filename} can't be read ({error.strerror})"
    return None


def unseen_entries() -> str | None:
    """Say whether entries are alive that no namespace in reach holds, None when none are or it can't be told (needs root)."""
    deadline = time.monotonic() + _DYING_SECONDS
    while (unseen := _allocated() - sum(count or 0 for _, _, count in _tables())) > 0:
        if time.monotonic() > deadline:
            return f"{unseen:,} conntrack entries or more are in no network namespace that can be found"
        time.sleep(0.1)
    return None


def _allocated() -> int:
    """Return how many entries are alive at least: the kernel counts those that processors keep free as alive too.

    Each has a slab in use, and more in a list. (`cpu_slabs` leaves out the list of a processor that only ever freed.)
    """
    try:
        objects, slab = _figure("objects"), _figure("objs_per_slab")
    except OSError:
        return 0  # another allocator, or one built without its figures
    processors = os.cpu_count() or 1
    kept = slab * (processors + _figure_or_0("slabs_cpu_partial", r"\((\d+)\)"))
    return objects - kept - _figure_or_0("sheaf_capacity") * _SHEAVES_EACH * processors


def _figure(name: str, pattern: str = r"(\d+)") -> int:
    found = re.search(pattern, (SLAB / name).read_text("ascii"))
    return int(found[1]) if found else 0


def _figure_or_0(name: str, pattern: str = r"(\d+)") -> int:
    """Return a figure that some kernels don't have because they keep nothing of the kind."""
    try:
        return _figure(name, pattern)
    except FileNotFoundError:
        return 0


def _tables() -> Iterator[tuple[int | None, str, int | None]]:
    """Yield each network namespace in reach: its number, a name for people, its entries; None can't be read.

    Raises OSError where it may not even be listed.
    """
    for inode, number, place, ways in _namespaces():
        counts = (_entries(way) for way in ways)
        count = next((count for count in counts if count is not None), None)
        if count is not None or any(_inode(way) == inode for way in ways):  # else it has ended meanwhile
            yield number, place, count


def _entries(way: str) -> int | None:
    """Return how many entries the namespace behind a way in holds, None if it won't tell."""
    if way.startswith("/proc/"):
        try:
            rows = Path(way, "nf_conntrack").read_text("ascii").splitlines()
            return int(rows[1].split()[0], 16)
        except (OSError, IndexError):  # ended, or a kernel without CONFIG_NF_CONNTRACK_PROCFS: ask from inside
            way = way.replace("/net/stat", "/ns/net")
    command = ["nsenter", f"--net={way}", "cat", "/proc/sys/net/netfilter/nf_conntrack_count"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 else None


def _namespaces() -> Iterator[tuple[int, int | None, str, list[str]]]:
    """Yield each network namespace in reach: the inode its ways in have, its number, a name for people, the ways in."""
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
    """Return all processes by the inode of /proc/PID/net/stat: one for each network namespace, and open to everybody."""
    found: dict[int, list[str]] = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            found.setdefault(os.stat(f"/proc/{pid}/net/stat").st_ino, []).append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def _inode(path: str) -> int | None:
    """Return the inode, None where the path leads nowhere or its namespace may not be named."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
