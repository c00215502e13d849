"""Freeze a file system: reads are answered, writes wait.

Frozen file systems stay frozen when the process that froze them dies, and everything in the sandbox may be killed. So a
process outside does it, and thaws when it receives the request or when its parent is gone. Run as a program, this file is
that process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_FIFREEZE = 0xC0045877  # linux/fs.h
_FITHAW = 0xC0045878
_FROZEN = b"frozen"
_IMAGE_BYTES = 64 * 2**20
_ANSWER_BYTES = 256


class Freezer:
    """The process that freezes and thaws, from before the sandbox until the end. Needs root."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = ["/usr/bin/python3", "-BEs", __file__]
            self._process = subprocess.Popen(command, stdin=theirs, cwd="/", start_new_session=True)

    @contextlib.contextmanager
    def frozen(self, folder: Path) -> Iterator[None]:
        """Freeze the file system that `folder` is on, and thaw it at the end. Raises OSError if it can't be frozen."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            socket.send_fds(self._socket, [b"freeze"], [descriptor])
        finally:
            os.close(descriptor)
        answer = self._socket.recv(_ANSWER_BYTES)
        if answer != _FROZEN:
            raise OSError(f"could not freeze the file system of {folder}: {answer.decode() or 'the freezer has ended'}")
        try:
            yield
        finally:
            self._socket.send(b"thaw")
            self._socket.recv(_ANSWER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
        self._process.wait(timeout=30)


@contextlib.contextmanager
def file_system_of_its_own(folder: Path, image: Path) -> Iterator[None]:
    """Mount a new ext4 at `folder`, kept in the file `image`. Raises CalledProcessError without loop devices."""
    folder.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        image.unlink()


def _serve(connection: socket.socket) -> None:
    """Freeze the file systems whose descriptors arrive; thaw at the next message, or once no sender is left."""
    while True:
        _, descriptors, _, _ = socket.recv_fds(connection, _ANSWER_BYTES, 1)
        if not descriptors:
            return
        try:
            answer = _freeze(descriptors[0], connection)
        finally:
            os.close(descriptors[0])  # before the answer: it would keep the mount busy
        connection.send(answer)


def _freeze(descriptor: int, connection: socket.socket) -> bytes:
    """Keep the file system frozen until the next message; return the answer to it."""
    try:
        fcntl.ioctl(descriptor, _FIFREEZE, 0)
    except OSError as error:
        return str(error).encode()
    try:
        connection.send(_FROZEN)
        connection.recv(_ANSWER_BYTES)
    finally:
        fcntl.ioctl(descriptor, _FITHAW, 0)
    return b"thawed"


def main() -> int:
    """Serve until the other end of standard input is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=0) as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(connection)
    return 0


if __name__ == "__main__":
    sys.exit(main())
