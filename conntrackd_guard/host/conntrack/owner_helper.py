"""Number and owner of a network namespace; and the process that reads them for a guard without CAP_SYS_PTRACE.

conntrackd-guard-namespaces.service runs this file by its path: it imports nothing of the package. It connects to the
guard's sockets, each a path in its arguments, and answers until it is ended. A guard sends the ids of processes or
threads, separated by blanks, in one packet. The answer is one packet too: `ID:NUMBER:r` for each of them that can be
read, with `u` instead of `r` if another user namespace than the initial one owns the network namespace, then a newline.
"""

import contextlib
import fcntl
import os
import select
import socket
import sys

MOST_BYTES = 65_536
"""Of a packet."""
CONNECT_SECONDS = 1.0
"""Interval for looking for a guard that does not run yet."""
_WAIT_SECONDS = 10.0
"""For a guard to accept: others may stand in line."""
_ID_DIGITS = 10
_NS_GET_USERNS = 0xB701  # _IO(0xb7, 1), linux/nsfs.h
_PROC = os.environ.get("GUARD_ROOT", "").rstrip("/") + "/proc"
"""In a container, that of the host."""
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO, linux/proc_ns.h


def inspect_namespace(path: str) -> tuple[int, bool]:
    """Return a namespace's number, and whether another user namespace than the initial one owns it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.fstat(descriptor).st_ino, _user_owned(descriptor)
    finally:
        os.close(descriptor)


def _user_owned(descriptor: int) -> bool:
    try:
        owner = fcntl.ioctl(descriptor, _NS_GET_USERNS)
    except OSError:
        return True  # EPERM: its owner is not below our user namespace
    try:
        return os.fstat(owner).st_ino != _INITIAL_USER_NAMESPACE
    finally:
        os.close(owner)


def answer(request: bytes, proc: str = _PROC) -> bytes:
    """Return the answer to a request. Whatever else it asks for is left out."""
    answers = []
    for word in request.split():
        if word.isdigit() and len(word) <= _ID_DIGITS:
            with contextlib.suppress(OSError):  # it has ended
                number, user_owned = inspect_namespace(f"{proc}/{word.decode()}/ns/net")
                answers.append(b"%s:%d:%s" % (word, number, b"u" if user_owned else b"r"))
    return b" ".join(answers) + b"\n"


def connect(path: str) -> socket.socket | None:
    """Return a connection to the guard that listens there, None if none does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(_WAIT_SECONDS)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return None
    connection.settimeout(0)
    return connection


def serve(connections: dict[str, socket.socket | None]) -> None:
    """Connect where no connection is, and answer what comes within CONNECT_SECONDS, or at any time if all are there."""
    poller = select.poll()
    for path, known in connections.items():
        connections[path] = connection = known or connect(path)
        if connection is not None:
            poller.register(connection, select.POLLIN)
    is_whole = None not in connections.values()
    ready = {descriptor for descriptor, _ in poller.poll(None if is_whole else CONNECT_SECONDS * 1000)}
    for path, connection in connections.items():
        if connection is not None and connection.fileno() in ready and not _reply(connection):
            connection.close()
            connections[path] = None


def _reply(connection: socket.socket) -> bool:
    """Answer one request; return False if the guard has gone, or takes no answer."""
    try:
        request = connection.recv(MOST_BYTES)
        return bool(request) and connection.send(answer(request)) > 0
    except OSError:
        return False


def main() -> None:
    """Serve the guards that listen at the paths in the arguments."""
    connections: dict[str, socket.socket | None] = dict.fromkeys(sys.argv[1:])
    while True:
        serve(connections)


if __name__ == "__main__":
    main()
