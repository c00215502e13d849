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
from testbed.disks import until
from testbed.figures import figures, seen, tables

from conntrackd_guard.core.configuration import LOOPBACK as ADDRESS
from conntrackd_guard.core.configuration import Listen
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.metrics import exposition, families
from conntrackd_guard.host import metrics_http
from conntrackd_guard.host.metrics_http import MOST_CLIENTS, Endpoint

TEXT = exposition(families(figures(seen(*tables(30)))))


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((ADDRESS, 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def alive() -> list[bool]:
    """Whether the main loop works, as the last element."""
    return [True]


@pytest.fixture
def endpoint(port: int, alive: list[bool]) -> Iterator[Endpoint]:
    """An endpoint that answers."""
    served = Endpoint(Listen(ADDRESS, port), lambda: alive[-1])
    served.open()
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
    assert scrape(endpoint.listen.port) == TEXT
    endpoint.show("guard_x 1\n")
    assert scrape(endpoint.listen.port) == "guard_x 1\n"


def test_other_methods_are_refused(endpoint: Endpoint) -> None:
    """Only GET is answered with metrics."""
    request = urllib.request.Request(f"http://{ADDRESS}:{endpoint.listen.port}/metrics", method="DELETE")
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(request, timeout=30)  # noqa: S310 - our own address


def test_it_listens_on_loopback_only(endpoint: Endpoint) -> None:
    """Other hosts can't reach it."""
    listening = f"127.0.0.1:{endpoint.listen.port}"
    done = subprocess.run(
        ["ss", "-Hltn", f"sport = {endpoint.listen.port}"], capture_output=True, text=True, check=True
    )
    assert [line.split()[3] for line in done.stdout.splitlines()] == [listening]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", b"GET /" + b"x" * 100_000, b"\x16\x03\x01\r\n\r\n"])
def test_an_incomplete_request_blocks_others_only_briefly(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], sent: bytes
) -> None:
    """A silent, endless or foreign request is dropped at its deadline, and nothing is logged."""
    monkeypatch.setattr(metrics_http, "REQUEST_SECONDS", 0.1)
    with socket.create_connection((ADDRESS, endpoint.listen.port)) as client:
        client.sendall(sent)
        assert scrape(endpoint.listen.port)
    assert capfd.readouterr() == ("", "")


def test_a_request_without_an_end_is_cut_off(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is too long is dropped before its deadline, so memory is bounded."""
    monkeypatch.setattr(metrics_http, "REQUEST_SECONDS", 1000.0)
    # The client gets an error if the connection is closed with data unread.
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection((ADDRESS, endpoint.listen.port), timeout=30) as client,
    ):
        client.sendall(b"GET /" + b"x" * 1_000_000)
        assert client.recv(1) == b""


def test_a_port_in_use_is_reported(endpoint: Endpoint) -> None:
    """The error names the setting; after `close` the port is free again."""
    second = Endpoint(endpoint.listen, lambda: True)
    with pytest.raises(HostError, match=rf"listen on {ADDRESS}:{endpoint.listen.port}: .* in use.*`metrics_http`"):
        second.open()
    assert scrape(endpoint.listen.port)  # leaves the port in TIME_WAIT
    endpoint.close()
    second.open()
    second.show(TEXT)
    assert scrape(endpoint.listen.port)
    second.close()


def test_a_unit_without_network_is_reported(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that systemd's sandbox causes names the directive to change."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(HostError, match=r"not supported.*`RestrictAddressFamilies=`"):
        Endpoint(Listen(ADDRESS, port), lambda: True).open()


def probe(port: int, address: str = ADDRESS) -> tuple[int, bytes]:
    """Return status and body of /healthz as a kubelet gets them."""
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/healthz", timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_health_is_that_of_the_main_loop(endpoint: Endpoint, alive: list[bool]) -> None:
    """Liveness alone; without metrics yet, too."""
    assert probe(endpoint.listen.port) == (200, b"ok\n")
    alive.append(False)
    assert probe(endpoint.listen.port) == (503, b"The main loop does not answer.\n")
    assert scrape(endpoint.listen.port) == TEXT


def test_before_the_first_metrics_it_is_starting(port: int) -> None:
    """The port is open, so that a probe has an answer."""
    starting = Endpoint(Listen(ADDRESS, port), lambda: True)
    starting.open()
    try:
        assert probe(port) == (200, b"ok\n")
        with pytest.raises(urllib.error.HTTPError, match="503"):
            scrape(port)
    finally:
        starting.close()


def test_a_hundred_silent_clients_never_make_it_fail(endpoint: Endpoint) -> None:
    """They take the place of each other, not that of a client whose request is there; nor do they keep threads."""
    with contextlib.ExitStack() as silent:
        for number in range(100):
            silent.enter_context(socket.create_connection((ADDRESS, endpoint.listen.port), timeout=30))
            if number % 20 == 19:
                assert probe(endpoint.listen.port) == (200, b"ok\n")
                assert scrape(endpoint.listen.port) == TEXT
        assert endpoint._server is not None
        assert len(endpoint._server._clients) <= MOST_CLIENTS
    assert scrape(endpoint.listen.port) == TEXT


def test_a_client_that_reads_nothing_keeps_nobody_waiting(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer does not fit into the socket; it is closed at the deadline, the others are answered meanwhile."""
    monkeypatch.setattr(metrics_http, "REQUEST_SECONDS", 0.5)
    endpoint.show("x" * (8 << 20))
    with socket.create_connection((ADDRESS, endpoint.listen.port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert probe(endpoint.listen.port) == (200, b"ok\n")
        until(lambda: endpoint._server is not None and not endpoint._server._clients)
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := client.recv(1 << 20):
                received += len(chunk)
    assert received < 8 << 20


def test_an_answer_larger_than_the_socket_takes_is_sent_whole(endpoint: Endpoint) -> None:
    """In parts, as the client reads."""
    endpoint.show("x" * (8 << 20))
    assert len(scrape(endpoint.listen.port)) == 8 << 20


def test_ipv6_and_other_addresses(port: int) -> None:
    """As the setting has them; an address that this host lacks is reported."""
    six = Endpoint(Listen("::1", port), lambda: True)
    six.open()
    try:
        assert probe(port, "[::1]") == (200, b"ok\n")
    finally:
        six.close()
    with pytest.raises(HostError, match=rf"listen on 192.0.2.1:{port}: .*does not have that address"):
        Endpoint(Listen("192.0.2.1", port), lambda: True).open()
