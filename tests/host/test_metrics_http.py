"""The endpoint: what a scrape gets, and what clients can't do to it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from testbed.figures import figures, seen, tables

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.metrics import exposition, families
from conntrackd_guard.host import metrics_http
from conntrackd_guard.host.metrics_http import ADDRESS, Endpoint

TEXT = exposition(families(figures(seen(*tables(30)))))


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((ADDRESS, 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def endpoint(port: int) -> Iterator[Endpoint]:
    """An endpoint that answers."""
    served = Endpoint(port)
    served.show(TEXT)
    yield served
    served.close()


def scrape(port: int) -> str:
    """Scrape the metrics."""
    with urllib.request.urlopen(f"http://{ADDRESS}:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        body: bytes = answer.read()
    return body.decode()


def test_a_scrape_gets_the_last_text(endpoint: Endpoint) -> None:
    """Each scrape gets the text last shown, unchanged."""
    assert scrape(endpoint.port) == TEXT
    endpoint.show("guard_x 1\n")
    assert scrape(endpoint.port) == "guard_x 1\n"


def test_other_methods_are_refused(endpoint: Endpoint) -> None:
    """Only GET is answered with metrics."""
    request = urllib.request.Request(f"http://{ADDRESS}:{endpoint.port}/metrics", method="DELETE")
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(request, timeout=30)  # noqa: S310 - our own address


def test_it_listens_on_loopback_only(endpoint: Endpoint) -> None:
    """Other hosts can't reach it."""
    listening = f"127.0.0.1:{endpoint.port}"
    done = subprocess.run(["ss", "-Hltn", f"sport = {endpoint.port}"], capture_output=True, text=True, check=True)
    assert [line.split()[3] for line in done.stdout.splitlines()] == [listening]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", b"GET /" + b"x" * 100_000, b"\x16\x03\x01\r\n\r\n"])
def test_an_incomplete_request_blocks_others_only_briefly(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], sent: bytes
) -> None:
    """A silent, endless or foreign request is dropped at its deadline, and nothing is logged."""
    monkeypatch.setattr(metrics_http, "REQUEST_SECONDS", 0.1)
    with socket.create_connection((ADDRESS, endpoint.port)) as client:
        client.sendall(sent)
        assert scrape(endpoint.port)
    assert capfd.readouterr() == ("", "")


def test_a_request_without_an_end_is_cut_off(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is too long is dropped before its deadline, so memory is bounded."""
    monkeypatch.setattr(metrics_http, "REQUEST_SECONDS", 1000.0)
    # The client gets an error if the connection is closed with data unread.
    with contextlib.suppress(ConnectionError), socket.create_connection((ADDRESS, endpoint.port), timeout=30) as client:
        client.sendall(b"GET /" + b"x" * 1_000_000)
        assert client.recv(1) == b""


def test_a_port_in_use_is_reported(endpoint: Endpoint) -> None:
    """The error names the setting; after `close` the port is free again."""
    second = Endpoint(endpoint.port)
    with pytest.raises(HostError, match=rf"listen on {ADDRESS}:{endpoint.port}: .* in use.*`metrics_http`"):
        second.show(TEXT)
    assert scrape(endpoint.port)  # leaves the port in TIME_WAIT
    endpoint.close()
    second.show(TEXT)
    assert scrape(endpoint.port)
    second.close()


def test_a_unit_without_network_is_reported(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that systemd's sandbox causes names the directive to change."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(metrics_http, "_Server", refuse)
    with pytest.raises(HostError, match=r"not supported.*`RestrictAddressFamilies=`"):
        Endpoint(port).show(TEXT)
