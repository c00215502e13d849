"""Find network namespaces and the ways to read each of them."""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.owner_helper import inspect_namespace
from conntrackd_guard.host.paths import Paths

_MOUNTED = re.compile(r"^\S+ \S+ \S+ net:\[(\d{1,18})\] (\S+) ", re.MULTILINE)
_OCTAL = re.compile(r"\\([0-7]{3})")
"""/proc/PID/mountinfo, proc(5): the root of a mounted namespace is its number; blanks in a path are octal."""
_PIDS_KEPT = 4
"""Processes remembered for each namespace: one that ends leaves others to read it through."""
_LINKS_OF_ONE_THREAD = 3
"""Links of /proc/PID/task: two, and one a thread."""
_THREADS = 64
"""Threads looked at in each process, about 13 µs each; the kernel lists the oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetNamespace:
    """A network namespace and the ways to read it."""

    key: int
    """Inode of its /proc/PID/net/stat, or of the namespace if it has no process; unique while it exists."""
    namespace: int | None
    """The number in kernel messages; None if unreadable (needs ptrace rights)."""
    label: str
    initial: bool = False
    pids: tuple[int, ...] = ()
    enter: str = ""
    """A path for setns(2), used if /proc does not show its table."""
    user_owned: bool = False
    """Another user namespace than the initial one owns it, or its owner can't be read."""
    owner_unknown: bool = False
    """Its owner can't be read."""

    @property
    def number(self) -> int:
        """The id of its table: the number in kernel messages, or else the key."""
        return self.key if self.namespace is None else self.namespace


ReadOwners = Callable[[Mapping[int, Sequence[int]]], Mapping[int, tuple[int, bool]]]
"""Returns number and whether user-owned by key, of those known, for the processes of each key."""


class NamespaceScanner:
    """Scans /proc and the mounts. Takes about 30 µs per process, 15 per further thread: not for every tick."""

    def __init__(self, paths: Paths, read_owners: ReadOwners | None = None) -> None:
        """Take number and owner of other namespaces from `read_owners`; by default read them, which takes ptrace rights."""
        self._read_owners = read_owners
        self._proc = str(paths.proc)
        self._root = str(paths.root).rstrip("/")
        self._named = str(paths.named_namespaces)

    def scan(self) -> tuple[list[NetNamespace], bool]:
        """Return every readable namespace, and whether none was unreadable. Never raises."""
        own = None
        with contextlib.suppress(OSError):
            own = os.stat(f"{self._proc}/self/net/stat").st_ino
        pids, complete = self._pids_by_key()
        found = []
        others = {key: members for key, members in pids.items() if key != own}
        # Read at each scan: the kernel reuses a freed inode number for the next namespace at once.
        identities = {} if self._read_owners is None else self._read_owners(others)
        for key, members in pids.items():
            if key == own or self._read_owners is None:
                identity = self._identify(["self"] if key == own else [str(pid) for pid in members])
            else:
                identity = identities.get(key)
            namespace, user_owned = (None, True) if identity is None else identity
            found.append(
                NetNamespace(
                    key=key,
                    namespace=namespace,
                    label="initial" if key == own else f"process {members[0]}",
                    initial=key == own,
                    pids=tuple(members),
                    enter=f"{self._proc}/{members[0]}/ns/net",
                    user_owned=user_owned and key != own,
                    owner_unknown=identity is None and key != own,
                )
            )
        return self._with_mounted(found), complete

    def names(self) -> tuple[int, int] | None:
        """Return what differs once a name in /run/netns comes or goes, which is a reason to scan: one cheap look."""
        try:
            status = os.stat(self._named)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def _pids_by_key(self) -> tuple[dict[int, list[int]], bool]:
        found: dict[int, list[int]] = {}
        complete = True
        prefix = self._proc + "/"
        try:
            names = os.listdir(self._proc)
        except OSError:
            return found, False
        for name in names:
            if not name.isdecimal():
                continue
            key = None
            try:
                key = os.stat(prefix + name + "/net/stat").st_ino
            except (FileNotFoundError, ProcessLookupError):
                pass  # it has ended, or its first thread has
            except OSError:
                complete = False  # hidden (hidepid) or refused: its namespace may have a table
                continue
            if key is not None:
                members = found.setdefault(key, [])
                if len(members) < _PIDS_KEPT:
                    members.append(int(name))
            try:
                if os.stat(prefix + name + "/task").st_nlink > _LINKS_OF_ONE_THREAD:
                    self._add_threads(found, int(name), key)
            except OSError:
                pass  # it has ended
        return found, complete

    def _add_threads(self, found: dict[int, list[int]], pid: int, key: int | None) -> None:
        """Add the threads of a process that are in another namespace than its first one, which is in `key`.

        /proc/TID is not listed, but has what /proc/PID has. Raises OSError if the process ends.
        """
        for thread in os.listdir(f"{self._proc}/{pid}/task")[:_THREADS]:
            with contextlib.suppress(OSError):  # it has ended
                in_key = os.stat(f"{self._proc}/{thread}/net/stat").st_ino
                members = found.setdefault(in_key, []) if in_key != key else []
                if len(members) < _PIDS_KEPT:
                    members.append(int(thread))

    def _identify(self, pids: list[str]) -> tuple[int, bool] | None:
        """Return the namespace number, and whether a user namespace other than the initial one owns it.

        None if that can't be read by any of the processes: each may have ended, or it takes ptrace rights.
        """
        for pid in pids:
            with contextlib.suppress(OSError):
                return inspect_namespace(f"{self._proc}/{pid}/ns/net")
        return None

    def _with_mounted(self, found: list[NetNamespace]) -> list[NetNamespace]:
        """Add names from mounts (`ip netns`, Docker), and namespaces without a process."""
        by_number = {netns.namespace: index for index, netns in enumerate(found) if netns.namespace is not None}
        for number, path in self._mounted():
            label = printable(path.removeprefix(self._named + "/").removeprefix(self._root + "/run/"))
            index = by_number.get(number)
            if index is None:
                owner_unknown = False
                try:
                    _, user_owned = inspect_namespace(path)
                except OSError:
                    user_owned = owner_unknown = True
                by_number[number] = len(found)
                found.append(
                    NetNamespace(
                        key=number,
                        namespace=number,
                        label=label,
                        enter=path,
                        user_owned=user_owned,
                        owner_unknown=owner_unknown,
                    )
                )
            elif found[index].label.startswith("process "):
                found[index] = replace(found[index], label=label, enter=path)  # which outlives its processes
        return found

    def _mounted(self) -> list[tuple[int, str]]:
        """Return number and path of each mounted network namespace, those of `ip netns` first."""
        try:
            mounts = files.read(f"{self._proc}/self/mountinfo").decode("utf-8", "replace")
        except OSError:
            return []
        found = [
            (int(number), self._path(_OCTAL.sub(lambda escaped: chr(int(escaped[1], 8)), point)))
            for number, point in _MOUNTED.findall(mounts)
        ]
        return sorted(found, key=lambda mounted: (not mounted[1].startswith(self._named), mounted))

    def _path(self, point: str) -> str:
        """Return the path of a mount point. In a container it names the folder of the host's files already."""
        return point if point.startswith(f"{self._root}/") else self._root + point
