"""The endpoint that Prometheus itself scrapes: on loopback, by the official client library, which is imported only here."""

from __future__ import annotations

import errno
import importlib
import io
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.metrics import Family, Kind

ADDRESS = "127.0.0.1"
REQUEST_SECONDS = 2.0
"""One request is answered after the other, so none may take longer; a scrape on the same host takes milliseconds."""
_MOST_REQUEST_BYTES = 8192
"""What a scrape asks fits in 400."""
_NEXT_STEPS = {
    errno.EADDRINUSE: "Another program listens there: name another port in `metrics_http`.",
    errno.EAFNOSUPPORT: "The unit must be allowed to: see `RestrictAddressFamilies=` in the README, under Metrics.",
}


class Endpoint:
    """Answers with what it was last shown; a scrape reads nothing of the host."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._families: tuple[Family, ...] = ()
        self._client: Any = None
        self._server: socketserver.TCPServer | None = None

    def show(self, families: tuple[Family, ...]) -> None:
        """Answer with these from now on; the first call opens the port. Raises HostError."""
        self._families = families
        if self._server is None:
            self._client = _client_library()
            server = self._listening(self._client)
            threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
            self._server = server

    def close(self) -> None:
        """Close the port, within half a second."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None

    def collect(self) -> Iterator[Any]:
        """Yield the families in the library's own form, which asks for them at each scrape."""
        for family in self._families:
            core = self._client.core
            if family.kind is Kind.COUNTER:
                told = core.CounterMetricFamily(family.name.removesuffix("_total"), family.text, labels=family.labels)
            else:
                told = core.GaugeMetricFamily(family.name, family.text, labels=family.labels)
            for values, figure in family.samples:
                told.add_metric(values, figure)
            yield told

    def _listening(self, client: Any) -> socketserver.TCPServer:
        registry = client.CollectorRegistry()
        registry.register(self)
        try:
            return _Server(
                (ADDRESS, self.port), type("Handler", (_OneRequest, client.MetricsHandler.factory(registry)), {})
            )
        except OSError as error:
            step = _NEXT_STEPS.get(error.errno or 0, "Check `metrics_http`.")
            raise HostError("listening on", f"{ADDRESS}:{self.port}", error, step) from error


class _Server(socketserver.TCPServer):
    """One request at a time, so that nobody can make it cost threads or memory."""

    allow_reuse_address = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that went away: any user could fill the log."""


class _OneRequest:
    """Reads a request as a whole, within its time and size; what is not whole by then is answered as no request."""

    connection: socket.socket
    rfile: Any

    def setup(self) -> None:
        """Come before the library's own handler."""
        super().setup()  # type: ignore[misc] # of the handler that is mixed in
        self.connection.settimeout(REQUEST_SECONDS)
        self.rfile = io.BytesIO(_request(self.connection))


def _request(connection: socket.socket) -> bytes:
    deadline = time.monotonic() + REQUEST_SECONDS
    request = b""
    while b"\r\n\r\n" not in request:
        left = deadline - time.monotonic()
        if left <= 0 or len(request) > _MOST_REQUEST_BYTES:
            return b""
        connection.settimeout(left)
        chunk = connection.recv(_MOST_REQUEST_BYTES)
        if not chunk:
            return b""
        request += chunk
    connection.settimeout(REQUEST_SECONDS)
    return request


def _client_library() -> Any:
    """Import the library. Raises HostError where it is missing."""
    if sys.modules.get("ssl", sys) is None:
        del sys.modules["ssl"]  # see `lean`: this library does not go without
    try:
        client = importlib.import_module("prometheus_client")
        importlib.import_module("prometheus_client.core")
    except ImportError as error:
        cause = OSError(errno.ENOENT, f"{error}")
        step = "Install python3-prometheus-client, or set `metrics_http: none`."
        raise HostError("importing", "prometheus_client", cause, step) from error
    return client
