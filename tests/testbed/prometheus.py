"""A real Prometheus whose database is filled with a made past, and servers that only pretend to be one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from conntrackd_guard.replay.model import Sample
from conntrackd_guard.replay.sources.prometheus import MEMORY, SERIES
from testbed.exposition import EXTRACTED, promtool

_SERVER = EXTRACTED.with_name("prometheus")
_READY_SECONDS = 30.0

Past = dict[str, list[Sample]]
"""Samples by the value of `instance`."""


HEADS = tuple(f"# TYPE {name} gauge\n" for name in (*SERIES, MEMORY))


def lines(past: Past) -> Iterator[str]:
    """Yield the past as node_exporter's metrics in OpenMetrics' text."""
    for head, block in zip(HEADS, blocks(past), strict=True):
        yield head
        yield block
    yield "# EOF\n"


def blocks(past: Past, *, total_bytes: int = 8 << 30) -> Iterator[str]:
    """Yield the lines of each metric in the order of HEADS, as one text."""
    labels = {instance: _labels(instance) for instance in past}
    for field, name in enumerate(SERIES, start=1):
        yield "".join(
            f"{name}{labels[instance]} {one[field]} {one[0]}\n"
            for instance, samples in past.items()
            for one in samples
            if one[field] is not None
        )
    yield "".join(
        f"{MEMORY}{labels[instance]} {total_bytes} {one[0]}\n" for instance, samples in past.items() for one in samples
    )


def fill(folder: Path, text: Iterable[str]) -> None:
    """Write the past into a database that `running` opens."""
    source = folder.with_suffix(".txt")
    with source.open("w", encoding="utf-8") as file:
        file.writelines(text)
    filled = subprocess.run(
        [promtool(), "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=720h", source, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert filled.returncode == 0, filled.stderr[-2000:]
    source.unlink()


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run Prometheus on that database and yield its address."""
    server = shutil.which("prometheus") or str(_SERVER)
    assert os.access(server, os.X_OK), "needs prometheus: run scripts/test, or install Debian's"
    settings = folder.with_suffix(".yml")
    settings.write_text("{}\n")
    address = f"127.0.0.1:{_free_port()}"
    command = [
        server,
        f"--config.file={settings}",
        f"--storage.tsdb.path={folder}",
        "--storage.tsdb.retention.time=20y",
        f"--web.listen-address={address}",
    ]
    with folder.with_suffix(".log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            end = time.monotonic() + _READY_SECONDS
            while not _is_ready(f"http://{address}"):
                assert process.poll() is None, folder.with_suffix(".log").read_text()[-2000:]
                assert time.monotonic() < end, "Prometheus does not get ready"
                time.sleep(0.1)
            yield f"http://{address}"
        finally:
            process.terminate()


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def pretender(answer: Answer, tls: Any = None) -> Iterator[tuple[str, list[BaseHTTPRequestHandler]]]:
    """Run a server that answers each GET by `answer`; yield its address and the requests that came."""
    requests: list[BaseHTTPRequestHandler] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self)
            with suppress(OSError):  # the client has left
                answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_address[1]}", requests
        finally:
            server.shutdown()
            thread.join()


def send(request: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    """Answer a request."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _labels(instance: str) -> str:
    escaped = instance.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{{instance="{escaped}",job="node"}}'


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/-/ready", timeout=5) as answer:  # noqa: S310 - http to this host
            return bool(answer.status == 200)
    except OSError:
        return False
