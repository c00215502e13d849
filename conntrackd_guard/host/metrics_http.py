"""The endpoint that Prometheus scrapes and a kubelet probes: HTTP/1.0, without authentication.

One thread, at most MOST_CLIENTS connections: clients can't make it use more threads or memory, nor keep others from being
answered. `http.server` would add 1.7 MiB to the daemon, and bounds neither a request's time nor its size.
"""

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from conntrackd_guard.core.configuration import Listen
from conntrackd_guard.host import files

REQUEST_SECONDS = 2.0
"""From accepting a connection to its end; a scrape on the same host takes milliseconds."""
MOST_CLIENTS = 8
"""Connections at a time. One more closes the oldest: a scrape's request is there when it is accepted, so the oldest is
one that sends nothing."""
_BACKLOG = 128
_MAX_REQUEST_BYTES = 8192
"""Prometheus sends about 400 bytes."""
_PAUSE_SECONDS = 0.1
"""After an error of accept(2), such as no descriptor left: the connection waits, and poll(2) returns at once."""
_TYPES = {True: "text/plain; version=0.0.4; charset=utf-8", False: "text/plain; charset=utf-8"}
_NOT_ALLOWED = b"HTTP/1.0 405 Method Not Allowed\r\nAllow: GET\r\n\r\n"
_NEXT_STEPS = {
    errno.EADDRINUSE: "Another program listens there: set another port in `metrics_http`.",
    errno.EADDRNOTAVAIL: "This host does not have that address: set another one in `metrics_http`.",
    errno.EAFNOSUPPORT: "The unit must allow it: see `RestrictAddressFamilies=` in guard.yaml(5), under metrics_http.",
}


class Endpoint:
    """Serves the last text it got on any path but /healthz; a scrape reads nothing from the host.

    /healthz answers 200 while `alive` returns true, else 503. `alive` is called by the endpoint's thread.
    """

    def __init__(self, listen: Listen, alive: Callable[[], bool]) -> None:
        self.listen, self._alive = listen, alive
        self._scrape = _answer(503, "The guard is starting.\n")
        self._server: _Server | None = None

    def open(self) -> None:
        """Listen, unless it does already. Raises HostError."""
        if self._server is None:
            with files.translate_errors("listen on", self.listen, "Check `metrics_http`.", _NEXT_STEPS):
                self._server = _Server(_listener(self.listen), self._reply)
            self._server.start()

    def show(self, text: str) -> None:
        """Serve `text` from now on."""
        self._scrape = _answer(200, text, metrics=True)

    def close(self) -> None:
        """Close the port and all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def _reply(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        if method != b"GET":
            return _NOT_ALLOWED
        if rest.split(b" ", 1)[0].partition(b"?")[0] != b"/healthz":
            return self._scrape
        return _answer(200, "ok\n") if self._alive() else _answer(503, "The main loop does not answer.\n")


def _listener(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(tuple(listen))
        listener.listen(_BACKLOG)
        listener.settimeout(0)
    except BaseException:
        listener.close()
        raise
    return listener


def _answer(status: int, text: str, *, metrics: bool = False) -> bytes:
    body, reason = text.encode(), {200: "OK", 503: "Service Unavailable"}[status]
    head = f"HTTP/1.0 {status} {reason}\r\nContent-Type: {_TYPES[metrics]}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(0)
        self.deadline = time.monotonic() + REQUEST_SECONDS
        self.answer: memoryview | None = None
        """What is left to send, None until the request's head is complete."""
        self._received = b""

    def turn(self, reply: Callable[[bytes], bytes]) -> bool:
        """Receive or send what is possible now; return False once the connection is over."""
        try:
            if self.answer is None:
                chunk = self.connection.recv(_MAX_REQUEST_BYTES)
                self._received += chunk
                if b"\r\n\r\n" not in self._received:
                    return bool(chunk) and len(self._received) <= _MAX_REQUEST_BYTES
                self.answer = memoryview(reply(self._received))
            self.answer = self.answer[self.connection.send(self.answer) :]
            return bool(self.answer)
        except BlockingIOError:
            return True
        except OSError:  # it has disconnected: logging that would let anyone fill the log
            return False


class _Server(threading.Thread):
    """Answers all connections of a listening socket, which it closes in the end."""

    def __init__(self, listener: socket.socket, reply: Callable[[bytes], bytes]) -> None:
        super().__init__(name="metrics", daemon=True)
        self._listener, self._reply = listener, reply
        self._clients: dict[int, _Client] = {}
        """By descriptor, the oldest first."""
        self._poll = select.poll()
        self._stopped = os.eventfd(0, os.EFD_CLOEXEC)
        for descriptor in (listener.fileno(), self._stopped):
            self._poll.register(descriptor, select.POLLIN)

    def stop(self) -> None:
        """End the thread."""
        os.eventfd_write(self._stopped, 1)
        self.join()
        os.close(self._stopped)

    def run(self) -> None:
        """Serve until `stop`."""
        ready: list[int] = []
        while self._stopped not in ready:
            for descriptor in ready:
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._clients:  # not closed in this turn
                    self._serve(descriptor)
            now = time.monotonic()
            for descriptor in [number for number, client in self._clients.items() if client.deadline <= now]:
                self._end(descriptor)
            oldest = next(iter(self._clients.values()), None)
            wait = None if oldest is None else 1000 * (oldest.deadline - now) + 1
            ready = [descriptor for descriptor, _ in self._poll.poll(wait)]
        for descriptor in [*self._clients]:
            self._end(descriptor)
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            time.sleep(_PAUSE_SECONDS)
            return
        if len(self._clients) >= MOST_CLIENTS:
            self._end(next(iter(self._clients)))
        self._clients[connection.fileno()] = _Client(connection)
        self._serve(connection.fileno())

    def _serve(self, descriptor: int) -> None:
        client = self._clients[descriptor]
        if client.turn(self._reply):
            self._poll.register(descriptor, select.POLLIN if client.answer is None else select.POLLOUT)
        else:
            self._end(descriptor)

    def _end(self, descriptor: int) -> None:
        with suppress(KeyError):  # answered in the turn that accepted it
            self._poll.unregister(descriptor)
        self._clients.pop(descriptor).connection.close()
