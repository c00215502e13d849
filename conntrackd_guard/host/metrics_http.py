"""The endpoint that Prometheus scrapes: the text exposition over HTTP/1.0, on loopback only.

Built on `socketserver`: `http.server` would add 1.7 MiB to the daemon, and bounds neither a request's time nor its size.
"""

import errno
import socket
import socketserver
import threading
import time

from conntrackd_guard.host import files

ADDRESS = "127.0.0.1"
REQUEST_SECONDS = 2.0
"""Requests are answered one at a time, so each has a deadline; a scrape on the same host takes milliseconds."""
_MAX_REQUEST_BYTES = 8192
"""Prometheus sends about 400 bytes."""
_HEADERS = "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\r\n"
_NOT_ALLOWED = b"HTTP/1.0 405 Method Not Allowed\r\nAllow: GET\r\n\r\n"
_NEXT_STEPS = {
    errno.EADDRINUSE: "Another program listens there: set another port in `metrics_http`.",
    errno.EAFNOSUPPORT: "The unit must allow it: see `RestrictAddressFamilies=` in guard.yaml(5), under metrics_http.",
}


class Endpoint:
    """Serves the last text it got, on any path; a scrape reads nothing from the host."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._server: _Server | None = None

    def show(self, text: str) -> None:
        """Serve `text` from now on; the first call opens the port. Raises HostError."""
        body = text.encode()
        answer = _HEADERS.format(len(body)).encode() + body
        if self._server is not None:
            self._server.answer = answer
            return
        with files.translate_errors("listen on", f"{ADDRESS}:{self.port}", "Check `metrics_http`.", _NEXT_STEPS):
            self._server = _Server((ADDRESS, self.port), socketserver.BaseRequestHandler)
        self._server.answer = answer  # before the first request is read
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Close the port, within half a second."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None


class _Server(socketserver.TCPServer):
    """Answers in one thread: clients can't make it use more threads or memory."""

    allow_reuse_address = True
    answer = b""

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], _: object) -> None:
        """Answer one client; close the connection if its request is not complete in time."""
        assert isinstance(request, socket.socket)  # noqa: S101 - the type of a TCP server's requests
        received = _receive(request)
        if received:
            request.settimeout(REQUEST_SECONDS)
            request.sendall(self.answer if received.startswith(b"GET ") else _NOT_ALLOWED)

    def handle_error(self, *_: object) -> None:
        """Ignore a client that disconnects: otherwise any local user could fill the log."""


def _receive(connection: socket.socket) -> bytes:
    """Return a request's head; b"" if it is too long, or incomplete after REQUEST_SECONDS. Raises OSError."""
    deadline = time.monotonic() + REQUEST_SECONDS
    received = b""
    while b"\r\n\r\n" not in received:
        left = deadline - time.monotonic()
        if left <= 0 or len(received) > _MAX_REQUEST_BYTES:
            return b""
        connection.settimeout(left)
        chunk = connection.recv(_MAX_REQUEST_BYTES)
        if not chunk:
            return b""
        received += chunk
    return received
