"""Number and owner of a network namespace; and the process that reads them for a guard without CAP_SYS_PTRACE.

conntrackd-guard-namespaces.service runs this file by its path: it imports nothing of the package. It confines itself,
connects to the guard's sockets, each a path in its arguments, and answers until it is ended. A guard sends the ids of
processes or threads, separated by blanks, in one packet. The answer is one packet too: `ID:NUMBER:r` for each of them that
can be read, with `u` instead of `r` if another user namespace than the initial one owns the network namespace, then a
newline.
"""

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
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


_CALLS = {
    # read write close fstat lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn ioctl mremap madvise getpid connect
    # sendto recvfrom getsockopt exit fcntl futex restart_syscall clock_gettime clock_nanosleep exit_group newfstatat
    # ppoll getrandom statx poll; then openat, socket, mmap
    "x86_64": (0xC000003E, (
        0, 1, 3, 5, 8, 11, 12, 13, 14, 15, 16, 25, 28, 39, 42, 44, 45, 55, 60, 72, 202, 219, 228, 230, 231, 262, 271, 318,
        332, 7,
    ), (257, 41, 9)),
    "aarch64": (0xC00000B7, (
        63, 64, 57, 80, 62, 215, 214, 134, 135, 139, 29, 216, 233, 172, 203, 206, 207, 209, 93, 25, 98, 128, 113, 115, 94,
        79, 73, 278, 291,
    ), (56, 198, 222)),
}  # fmt: skip
"""AUDIT_ARCH (linux/audit.h) and the system calls that answering needs (asm/unistd.h), by machine."""
_ARGUMENTS = (
    (2, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0),  # openat only reads
    (0, 0xFFFFFFFF, socket.AF_UNIX),
    (2, 4, 0),  # mmap without PROT_EXEC
)
"""For the last three: the number of an argument, its bits that matter, and their value."""


def confine() -> None:
    """Leave this process only the system calls that it needs, files to read, and local sockets. Raises OSError, KeyError.

    CAP_SYS_PTRACE opens /proc/PID/root, with directories of the host that every user may write. Neither a unit nor a pod can
    allow openat for reading alone; a container runtime's list of system calls even grows with that capability.
    """
    import ctypes  # noqa: PLC0415 - not for the guard, which imports this file

    audit, calls, limited = _CALLS[os.uname().machine]
    load, masked, equal, done = 0x20, 0x54, 0x15, 0x06  # linux/bpf_common.h; offsets are those of struct seccomp_data
    allow, refuse = (done, 0, 0, 0x7FFF0000), (done, 0, 0, 0x00050000 | errno.EPERM)
    program = [(load, 0, 0, 4), (equal, 1, 0, audit), refuse, (load, 0, 0, 0)]
    for call in calls:
        program += [(equal, 0, 1, call), allow]
    for call, (index, bits, value) in zip(limited, _ARGUMENTS, strict=True):
        program += [(equal, 0, 5, call), (load, 0, 0, 16 + 8 * index), (masked, 0, 0, bits)]
        program += [(equal, 0, 1, value), allow, refuse]
    instructions = b"".join(struct.pack("HBBI", *instruction) for instruction in [*program, refuse])
    code = ctypes.create_string_buffer(instructions, len(instructions))
    header = struct.pack("HP", len(program) + 1, ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong)
    for option, value, argument in ((38, 1, None), (22, 2, header)):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
        if prctl(option, value, argument, 0, 0):
            raise OSError(ctypes.get_errno(), "the helper can't confine itself")


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
    if os.uname().machine in _CALLS and sys.maxsize > 1 << 32:
        confine()
    connections: dict[str, socket.socket | None] = dict.fromkeys(sys.argv[1:])
    while True:
        serve(connections)


if __name__ == "__main__":
    main()
