"""Send log records to journald in its native protocol, without ever waiting for it.

`systemd.journal.sendv` blocks once about ten datagrams are queued at a stopped journald; this doesn't.
Protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

import contextlib
import errno
import socket
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
MOST_BYTES = 8192
"""Of one value. A record's usual size is 2 KiB in all; a datagram may have about 200 KiB (`net.core.wmem_default`)."""
_FEWEST_BYTES = 256
"""Of one value, for a record that is still too large."""
_CUT = b" [cut]"

Value = str | int | bytes


class JournalSender:
    """A datagram socket to journald, opened at first use and again after each failure."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, fields: Mapping[str, Value]) -> bool:
        """Send one record; return False if journald is away or too slow. Never waits, never raises OSError."""
        most = MOST_BYTES
        for _ in range(3):  # as it is, again to a restarted journald, and shortened
            try:
                content = b"".join(_field(name, value, most) for name, value in fields.items())
                self._opened().sendto(content, self._path)  # not connected: the unit forbids connect(2)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in {errno.EMSGSIZE, errno.ENOBUFS}:
                    most = _FEWEST_BYTES
                else:
                    self.close()
            else:
                return True
        return False

    def close(self) -> None:
        """Close the socket; the next `send` opens another."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _opened(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        return self._socket


def _field(name: str, value: Value, most: int) -> bytes:
    """Return one field: `NAME=value`, or with its length first if it contains a newline."""
    content = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    if len(content) > most:
        content = content[: most - len(_CUT)].decode("utf-8", "ignore").encode() + _CUT  # never half a character
    if b"\n" not in content:
        return name.encode("ascii") + b"=" + content + b"\n"
    return name.encode("ascii") + b"\n" + len(content).to_bytes(8, "little") + content + b"\n"
