"""Which network namespaces exist, and how each can be reached."""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass, replace

from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

_NS_GET_USERNS = 0xB701  # _IO(0xb7, 1), linux/nsfs.h
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO, linux/proc_ns.h
_WHOLE_MAP = [b"0", b"0", b"4294967295"]
_MOUNTED = re.compile(r"\S+ \S+ \S+ net:\[(\d+)\] (\S+) ")
_OCTAL = re.compile(r"\\([0-7]{3})")
"""/proc/PID/mountinfo, proc(5): the root of a mounted namespace is its name; blanks in a path are octal."""
_PIDS_KEPT = 4
"""Processes remembered for a namespace, so that one that ends does not lose it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetNamespace:
    """A network namespace and the ways to it."""

    key: int
    """Inode of its /proc/PID/net/stat (or of the namespace, where no process is in it): unique while it lives."""
    namespace: int | None
    """The number that kernel lines use; None where it may not be read (it needs ptrace rights)."""
    label: str
    initial: bool = False
    pids: tuple[int, ...] = ()
    enter: str = ""
    """A path to enter it by, where /proc tells nothing of its table."""
    user_owned: bool = False

    @property
    def number(self) -> int:
        """What a table of it is known by: the number that kernel lines use, else the key."""
        return self.key if self.namespace is None else self.namespace


class NamespaceScanner:
    """Walks /proc and the mounts. About 13 µs a process: for the watch to call seldom, not every tick."""

    def __init__(self, paths: Paths) -> None:
        self._proc = str(paths.proc)
        self._root = str(paths.root).rstrip("/")
        self._named = str(paths.named_namespaces)

    def scan(self) -> tuple[list[NetNamespace], bool]:
        """Return every namespace in reach, and whether nothing was out of reach. Never raises."""
        own = self._key("self")
        pids, complete = self._pids_by_key()
        places = []
        for key, members in pids.items():
            # Asked anew each time: the kernel gives a freed inode number to the next namespace at once.
            namespace, user_owned = self._identify(["self"] if key == own else [str(pid) for pid in members])
            label = "initial" if key == own else f"process {members[0]}"
            places.append(
                NetNamespace(
                    key=key,
                    namespace=namespace,
                    label=label,
                    initial=key == own,
                    pids=tuple(members),
                    enter=f"{self._proc}/{members[0]}/ns/net",
                    user_owned=user_owned and key != own,
                )
            )
        return self._with_mounted(places), complete

    def names(self) -> frozenset[str]:
        """Return what is in /run/netns now: a new entry is a reason to scan."""
        try:
            return frozenset(os.listdir(self._named))
        except OSError:
            return frozenset()

    def _key(self, pid: str) -> int | None:
        try:
            return os.stat(f"{self._proc}/{pid}/net/stat").st_ino
        except OSError:
            return None

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
            try:
                key = os.stat(prefix + name + "/net/stat").st_ino
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            except OSError:
                complete = False  # hidden (hidepid) or refused: something may track out of sight
                continue
            members = found.setdefault(key, [])
            if len(members) < _PIDS_KEPT:
                members.append(int(name))
        return found, complete

    def _identify(self, pids: list[str]) -> tuple[int | None, bool]:
        """Return the namespace number, and whether a user namespace other than the initial one owns it.

        A process may end meanwhile, so each is asked; what none of them tells is not trusted.
        """
        user_owned = None
        for pid in pids:
            try:
                descriptor = os.open(f"{self._proc}/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                user_owned = self._outside_initial_user_namespace(pid) if user_owned is None else user_owned
                continue
            try:
                return os.fstat(descriptor).st_ino, _user_owned(descriptor)
            finally:
                os.close(descriptor)
        return None, user_owned is not False

    def _outside_initial_user_namespace(self, pid: str) -> bool | None:
        """Second best without ptrace rights: the user namespace of a process inside it; None where it has ended."""
        try:
            return files.read(f"{self._proc}/{pid}/uid_map").split() != _WHOLE_MAP
        except OSError:
            return None

    def _with_mounted(self, places: list[NetNamespace]) -> list[NetNamespace]:
        """Add what holds a namespace by a mount (`ip netns`, Docker): a name, and a way into one without a process."""
        by_number = {place.namespace: index for index, place in enumerate(places) if place.namespace is not None}
        for number, path in self._mounted():
            label = printable(path.removeprefix(self._named + "/").removeprefix(self._root + "/run/"))
            index = by_number.get(number)
            if index is None:
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                except OSError:
                    user_owned = True
                else:
                    user_owned = _user_owned(descriptor)
                    os.close(descriptor)
                by_number[number] = len(places)
                places.append(
                    NetNamespace(key=number, namespace=number, label=label, enter=path, user_owned=user_owned)
                )
            elif places[index].label.startswith("process "):
                places[index] = replace(places[index], label=label)
        return places

    def _mounted(self) -> list[tuple[int, str]]:
        """Return number and path of each network namespace that a mount holds, those with a name of `ip netns` first."""
        try:
            rows = files.read(f"{self._proc}/self/mountinfo").decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        found = []
        for row in rows:
            match = _MOUNTED.match(row)
            if match is not None:
                path = self._root + _OCTAL.sub(lambda escaped: chr(int(escaped[1], 8)), match[2])
                found.append((int(match[1]), path))
        return sorted(found, key=lambda mounted: (not mounted[1].startswith(self._named), mounted))


def _user_owned(descriptor: int) -> bool:
    try:
        owner = fcntl.ioctl(descriptor, _NS_GET_USERNS)
    except OSError:
        return True  # EPERM: its owner is no user namespace below ours
    try:
        return os.fstat(owner).st_ino != _INITIAL_USER_NAMESPACE
    finally:
        os.close(owner)
