"""Which network namespaces exist, and how each can be reached."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

_NS_GET_USERNS = 0xB701  # _IO(0xb7, 1), linux/nsfs.h
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO, linux/proc_ns.h
_WHOLE_MAP = [b"0", b"0", b"4294967295"]
_PIDS_KEPT = 4
"""Processes remembered for a namespace, so that one that ends does not lose it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A network namespace and the ways to it."""

    key: int
    """Inode of its /proc/PID/net/stat (or of the namespace, where no process is in it): unique while it lives."""
    namespace: int | None
    """The number that kernel lines use; None where it may not be read (it needs ptrace rights)."""
    label: str
    initial: bool = False
    pids: tuple[int, ...] = ()
    enter: str = ""
    """A path to enter it by, where no process is in it."""
    user_owned: bool = False


class NamespaceScanner:
    """Walks /proc and /run/netns. About 13 µs a process: for the watch to call seldom, not every tick."""

    def __init__(self, paths: Paths) -> None:
        self._proc = str(paths.proc)
        self._named = str(paths.named_namespaces)

    def scan(self) -> tuple[list[Place], bool]:
        """Return every namespace in reach, and whether nothing was out of reach. Never raises."""
        own = self._key("self")
        pids, complete = self._pids_by_key()
        places = []
        for key, members in pids.items():
            # Asked anew each time: the kernel gives a freed inode number to the next namespace at once.
            namespace, user_owned = self._identify("self" if key == own else str(members[0]))
            label = "initial" if key == own else f"process {members[0]}"
            places.append(
                Place(
                    key=key,
                    namespace=namespace,
                    label=label,
                    initial=key == own,
                    pids=tuple(members[:_PIDS_KEPT]),
                    user_owned=user_owned and key != own,
                )
            )
        return self._with_names(places), complete

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
        for name in os.listdir(self._proc):
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

    def _identify(self, pid: str) -> tuple[int | None, bool]:
        """Return the namespace number, and whether a user namespace other than the initial one owns it."""
        path = f"{self._proc}/{pid}/ns/net"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None, self._outside_initial_user_namespace(pid)
        try:
            return os.fstat(descriptor).st_ino, _user_owned(descriptor)
        finally:
            os.close(descriptor)

    def _outside_initial_user_namespace(self, pid: str) -> bool:
        """Second best without ptrace rights: the user namespace of a process inside it."""
        try:
            return files.read(f"{self._proc}/{pid}/uid_map").split() != _WHOLE_MAP
        except OSError:
            return False

    def _with_names(self, places: list[Place]) -> list[Place]:
        """Add the namespaces of /run/netns: a name for those with processes, a way in for those without."""
        by_number = {place.namespace: place for place in places if place.namespace is not None}
        for name in sorted(self.names()):
            path = f"{self._named}/{name}"
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                number, user_owned = os.fstat(descriptor).st_ino, _user_owned(descriptor)
            finally:
                os.close(descriptor)
            place = by_number.get(number)
            if place is None:
                by_number[number] = Place(key=number, namespace=number, label=name, enter=path, user_owned=user_owned)
                places.append(by_number[number])
            elif not place.initial:
                named = Place(
                    key=place.key,
                    namespace=number,
                    label=name,
                    pids=place.pids,
                    enter=path,
                    user_owned=place.user_owned,
                )
                places[places.index(place)] = named
        return places


def _user_owned(descriptor: int) -> bool:
    try:
        owner = fcntl.ioctl(descriptor, _NS_GET_USERNS)
    except OSError:
        return (
            True  # EPERM: owned by a user namespace that is not below ours; not a namespace at all: not trusted either
        )
    try:
        return os.fstat(owner).st_ino != _INITIAL_USER_NAMESPACE
    finally:
        os.close(owner)
