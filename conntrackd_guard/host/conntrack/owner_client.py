"""The guard's end of the helper that reads number and owner of namespaces, for which the guard has no rights.

The guard listens; a peer may answer if it has CAP_SYS_PTRACE itself. An answer decides whether a namespace is root's, and
gives nothing else: it is bounded, of a fixed form, and about an id that was asked for.
"""

import os
import re
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.owner_helper import MOST_BYTES
from conntrackd_guard.host.processes import maps_all_users

DEADLINE_SECONDS = 0.05
"""A scan waits this long at most. What is not answered by then keeps its last answer until the next scan."""
ABSENT_SECONDS = 10.0
"""The helper connects within a second of the guard's start, or ten on a slow machine. From here on it is missing."""
HELPER_UID = 2_023_061_806
"""The helper's user in a container (Containerfile, the chart). Above the ids of containers and below those of systemd."""
_SILENT_SECONDS = 10.0
"""A helper that leaves a request unanswered this long is let go: it takes 20 µs a namespace."""
_BATCH = 256
"""Ids in a request."""
_MOST_ACCEPTED = 64
"""Connections looked at in one tick: any user may connect."""
_ANSWER = re.compile(rb"([0-9]{1,10}):([1-9][0-9]{0,9}):([ru])")
_MOST_NUMBER = 2**32 - 1
_CREDENTIALS = struct.Struct("iII")
_STATUS = re.compile(rb"^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)\n.*^CapEff:\t([0-9a-f]{1,16})\n", re.MULTILINE | re.DOTALL)
_CAP_SYS_PTRACE = 1 << 19  # linux/capability.h

Wanted = Mapping[int, Sequence[int]]
"""Processes or threads in each namespace, by its key."""
Identities = Mapping[int, tuple[int, bool]]
"""Number, and whether another user namespace than the initial one owns it, by key."""


def reads_owners(proc: Path) -> bool:
    """Return whether this process reads the owners itself, or can't find out."""
    try:
        status = _STATUS.search(files.read(proc / "self/status"))
    except OSError:
        return True
    return status is None or bool(int(status[5], 16) & _CAP_SYS_PTRACE)


class OwnerClient:
    """Listens for the helper and keeps its last answers. While it can't listen, the helper is missing. Never raises."""

    def __init__(self, path: Path, proc: Path, *, in_container: bool = False) -> None:
        self._path, self._proc, self._in_container = path, proc, in_container
        self._listener = _listener(path)
        self._helper: socket.socket | None = None
        self._answers: dict[int, tuple[int, int, bool]] = {}
        """The process asked about, number, and whether user-owned, by key; the oldest answer first."""
        self._asked: dict[int, int] = {}
        """Keys by the ids in the request that is still to be answered."""
        self._asked_seconds = 0.0
        self._absent_since = time.monotonic()

    @property
    def is_missing(self) -> bool:
        """Whether no helper has been connected for ABSENT_SECONDS."""
        return self._helper is None and time.monotonic() - self._absent_since >= ABSENT_SECONDS

    def has_changed(self) -> bool:
        """Return whether a helper has come or gone since the last call: then the next scan finds other owners."""
        if self._helper is not None:
            if not self._asked or time.monotonic() - self._asked_seconds < _SILENT_SECONDS:
                self._take(self._helper, 0.0)
            else:
                self._let_go()
            return self._helper is None
        self._listener = listener = self._listener or _listener(self._path)
        for _ in range(_MOST_ACCEPTED):
            if listener is None:
                break
            try:
                peer, _ = listener.accept()
            except OSError:
                return False
            if self._may_answer(peer):
                peer.settimeout(0)
                self._helper = peer
                return True
            peer.close()
        return False

    def read(self, wanted: Wanted) -> Identities:
        """Return number and owner of namespaces, asked for within DEADLINE_SECONDS; without those never answered.

        An answer counts as long as the process that it was about is in the namespace.
        """
        deadline = time.monotonic() + DEADLINE_SECONDS
        if self._helper is not None and self._asked:
            self._take(self._helper, DEADLINE_SECONDS)
        self._answers = {key: known for key, known in self._answers.items() if known[0] in wanted.get(key, ())}
        keys = [key for key in wanted if key not in self._answers] + list(self._answers)
        ids = [(one, key) for key in keys for one in wanted[key]]
        for begin in range(0, len(ids), _BATCH):
            left = deadline - time.monotonic()
            if self._helper is None or self._asked or left <= 0:
                break
            self._ask(self._helper, dict(ids[begin : begin + _BATCH]))
            if self._helper is not None:
                self._take(self._helper, left)
        return self.known(wanted)

    def known(self, wanted: Wanted) -> Identities:
        """Return the last answers about these; callable from any thread."""
        found = {}
        for key, ids in wanted.items():
            known = self._answers.get(key)
            if known is not None and known[0] in ids:
                found[key] = known[1:]
        return found

    def close(self) -> None:
        """Stop listening."""
        self._let_go()
        if self._listener is not None:
            self._listener.close()

    def _ask(self, helper: socket.socket, ids: dict[int, int]) -> None:
        try:
            helper.send(b" ".join(b"%d" % one for one in ids))
        except OSError:
            self._let_go()
        else:
            self._asked, self._asked_seconds = ids, time.monotonic()

    def _take(self, helper: socket.socket, seconds: float) -> None:
        """Take the answer to the last request if it comes within that time, and notice if the helper has gone."""
        try:
            if seconds > 0:
                poller = select.poll()
                poller.register(helper, select.POLLIN)
                poller.poll(seconds * 1000)
            packet = helper.recv(MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._let_go()
            return
        asked, self._asked = self._asked, {}
        for one, number, owner in _ANSWER.findall(packet):
            key = asked.pop(int(one), None)
            if key is not None and int(number) <= _MOST_NUMBER:
                self._answers.pop(key, None)
                self._answers[key] = (int(one), int(number), owner == b"u")

    def _let_go(self) -> None:
        """Forget the helper and its answers: they may have been wrong."""
        if self._helper is not None:
            self._helper.close()
        self._helper, self._absent_since = None, time.monotonic()
        self._asked, self._answers = {}, {}

    def _may_answer(self, peer: socket.socket) -> bool:
        """Return whether a peer holds CAP_SYS_PTRACE in the initial user namespace, as the user that it connected as.

        Such a process sees all that the answers are about. A user's own program has another user id after it has run a
        privileged one, and as root of a user namespace another map of ids. In a container the user id alone decides:
        other containers' processes have no pid there, and only those of the pod reach the socket.
        """
        pid, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if self._in_container:
            return bool(uid == HELPER_UID)
        try:
            status = _STATUS.search(files.read(self._proc / str(pid) / "status"))
            is_initial = maps_all_users(self._proc / str(pid))
        except OSError:
            return False
        return (
            status is not None
            and is_initial
            and {int(one) for one in status.groups()[:4]} == {uid}
            and bool(int(status[5], 16) & _CAP_SYS_PTRACE)
        )


def _listener(path: Path) -> socket.socket | None:
    """Return a socket that listens at that path, None if the host refuses it. What is no socket there is set aside."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        if os.path.lexists(path):
            path.unlink() if path.is_socket() else files.set_aside(path)
        listener.bind(str(path))
        path.chmod(0o666)  # the helper's user is made at its start; `_may_answer` judges who connects
        listener.listen(_MOST_ACCEPTED)
    except (OSError, HostError):
        listener.close()
        return None
    return listener


def listen(path: Path, proc: Path, *, in_container: bool = False) -> OwnerClient | None:
    """Return a client for the helper, None if this process reads the owners itself. Never raises."""
    return None if reads_owners(proc) else OwnerClient(path, proc, in_container=in_container)
