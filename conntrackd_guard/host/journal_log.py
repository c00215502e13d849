"""Sends log records to journald in its native protocol, without ever waiting for it.

`systemd.journal.sendv` blocks once about ten datagrams wait at a stopped journald; this doesn't.
Protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
_MOST_BYTES = 48 * 1024
"""A datagram larger than the socket's buffer would need a memory file; our records are 2 KiB."""


class JournalSender:
    """A datagram socket to journald, opened at the first need and again after each failure."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, fields: Mapping[str, str | int]) -> bool:
        """Send one record; False where journald is away or does not keep up."""
        datagram = b"".join(_field(name, str(value)) for name, value in fields.items())
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                self._socket.connect(self._path)
            self._socket.send(datagram)
        except BlockingIOError:
            return False
        except OSError:
            self._close()
            return False
        return True

    def _close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


def _field(name: str, value: str) -> bytes:
    content = value.encode("utf-8", "replace")
    if len(content) > _MOST_BYTES:
        content = content[:_MOST_BYTES] + b" [cut]"
    if b"\n" not in content:
        return name.encode("ascii") + b"=" + content + b"\n"
    return name.encode("ascii") + b"\n" + len(content).to_bytes(8, "little") + content + b"\n"
