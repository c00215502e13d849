"""An API server for tests: TLS, a scripted answer for each request, and a record of what was sent."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conntrackd_guard.host.paths import Paths

TOKEN = "a.token"  # noqa: S105 - of a test


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the server got."""

    method: str
    path: str
    content_type: str
    authorization: str
    body: dict[str, Any]


@dataclass(kw_only=True)
class Reply:
    """What the server answers: a status with a message, after `slow` seconds a byte."""

    status: int = 201
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    slow: float = 0.0
    content: bytes | None = None
    """Instead of a Status with the message."""


class ApiServer:
    """Answers with `reply`, which a test sets."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[Request] = []
        self.reply: Callable[[Request], Reply] = lambda _: Reply()

    def bodies(self, method: str, part: str) -> list[dict[str, Any]]:
        """Return what was sent with a method to paths that contain `part`."""
        return [one.body for one in self.requests if one.method == method and part in one.path]

    def events(self) -> list[dict[str, Any]]:
        """Return the Events that were created."""
        return self.bodies("POST", "/events")

    def conditions(self) -> list[dict[str, Any]]:
        """Return the conditions that were sent."""
        return [body["status"]["conditions"][0] for body in self.bodies("PATCH", "/nodes/")]


def certificate(folder: Path) -> Path:
    """Make a certificate for 127.0.0.1, with its key in the same file, and return that."""
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def trust(paths: Paths, pem: Path) -> None:
    """Put token and certificate where a pod has them."""
    paths.service_account.mkdir(parents=True)
    (paths.service_account / "token").write_text(f"{TOKEN}\n")
    (paths.service_account / "ca.crt").write_bytes(pem.with_name("cert.pem").read_bytes())


@contextmanager
def api_server(pem: Path) -> Iterator[ApiServer]:
    """Serve on a free port of 127.0.0.1."""
    api: ApiServer

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

        def _serve(self) -> None:
            length = int(self.headers["Content-Length"])
            request = Request(
                method=self.command,
                path=self.path,
                content_type=self.headers["Content-Type"],
                authorization=self.headers["Authorization"],
                body=json.loads(self.rfile.read(length)),
            )
            api.requests.append(request)
            reply = api.reply(request)
            content = reply.content
            if content is None:
                content = json.dumps({"kind": "Status", "message": reply.message}).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                for byte in content if reply.slow else ():
                    self.wfile.write(bytes([byte]))
                    time.sleep(reply.slow)
                if not reply.slow:
                    self.wfile.write(content)
            except OSError:
                pass  # the client has had enough

        do_POST = do_PATCH = do_GET = _serve  # noqa: N815 - the library's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    api = ApiServer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
