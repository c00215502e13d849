"""The endpoint: what a scrape gets, and what nobody can do to it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest
from testbed.exposition import samples
from testbed.figures import figures, seen, tables

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.metrics import families
from conntrackd_guard.core.prometheus import text
from conntrackd_guard.host import metrics_http
from conntrackd_guard.host.metrics_http import ADDRESS, Endpoint

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = families(figures(seen(*tables(30))))


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((ADDRESS, 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def endpoint(port: int) -> Iterator[Endpoint]:
    """An endpoint that answers."""
    served = Endpoint(port)
    served.show(FAMILIES)
    yield served
    served.close()


def scrape(port: int, **headers: str) -> str:
    """Return what is answered there."""
    request = urllib.request.Request(f"http://{ADDRESS}:{port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own address
        body: bytes = answer.read()
    return body.decode()


def test_a_scrape_gets_what_the_file_says(endpoint: Endpoint) -> None:
    """The same series with the same figures, as text and as OpenMetrics; the next ones once they are shown."""
    expected = samples(text(FAMILIES))
    assert samples(scrape(endpoint.port)) == expected
    open_metrics = scrape(endpoint.port, Accept="application/openmetrics-text; version=1.0.0")
    assert samples(open_metrics, "prometheus_client.openmetrics.parser") == expected
    endpoint.show(FAMILIES[:1])
    assert samples(scrape(endpoint.port)) == expected[:1]


def test_it_listens_on_loopback_only(endpoint: Endpoint) -> None:
    """Nothing from outside reaches it, whatever a firewall says."""
    listening = f"127.0.0.1:{endpoint.port}"
    done = subprocess.run(["ss", "-Hltn", f"sport = {endpoint.port}"], capture_output=True, text=True, check=True)
    assert [line.split()[3] for line in done.stdout.splitlines()] == [listening]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", b"GET /" + b"x" * 100_000, b"\x16\x03\x01\r\n\r\n"])
def test_a_client_that_asks_nothing_keeps_no_other_away(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], sent: bytes
) -> None:
    """One that is silent, slow, endless or speaks something else is left after a while, and nothing is logged of it."""
    monkeypatch.setattr(metrics_http, "REQUEST_SECONDS", 0.1)
    with socket.create_connection((ADDRESS, endpoint.port)) as client:
        client.sendall(sent)
        assert scrape(endpoint.port)
    assert capfd.readouterr() == ("", "")


def test_a_request_without_an_end_is_cut_off(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before its time is over: it would grow in memory until then."""
    monkeypatch.setattr(metrics_http, "REQUEST_SECONDS", 1000.0)
    # Cut off before all was sent, or with some of it unread, the kernel may tell it as an error.
    with contextlib.suppress(ConnectionError), socket.create_connection((ADDRESS, endpoint.port), timeout=30) as client:
        client.sendall(b"GET /" + b"x" * 1_000_000)
        assert client.recv(1) == b""


def test_a_port_that_is_taken_is_told(endpoint: Endpoint) -> None:
    """With the setting to change; and it is free again once closed."""
    second = Endpoint(endpoint.port)
    with pytest.raises(HostError, match=rf"listening on {ADDRESS}:{endpoint.port}: .* in use.*`metrics_http`"):
        second.show(FAMILIES)
    assert scrape(endpoint.port)  # the port then lingers in TIME_WAIT
    endpoint.close()
    second.show(FAMILIES)
    assert scrape(endpoint.port)
    second.close()


def test_a_unit_without_network_is_told(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd makes the call fail, with where to read on."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(metrics_http, "_Server", refuse)
    with pytest.raises(HostError, match=r"not supported.*`RestrictAddressFamilies=`"):
        Endpoint(port).show(FAMILIES)


def test_a_missing_library_is_told_until_it_is_there(port: int) -> None:
    """One clear line; installed meanwhile, it serves."""
    hidden = [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]
    endpoint = Endpoint(port)
    with pytest.MonkeyPatch.context() as patch:
        for name in hidden:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "prometheus_client", cast("ModuleType", None))  # Python's own mark
        with pytest.raises(HostError, match=r"^importing prometheus_client: .*Install python3-prometheus-client"):
            endpoint.show(FAMILIES)
    endpoint.show(FAMILIES)
    assert scrape(port)
    endpoint.close()


def test_the_library_comes_with_the_endpoint_only_and_works_in_the_lean_daemon(port: int) -> None:
    """The daemon does without TLS to save memory, and the library does not import without it."""
    program = f"""
import sys
import conntrackd_guard.daemon.import_stubs, conntrackd_guard.daemon.loop, conntrackd_guard.recording.worker
from conntrackd_guard.host.metrics_http import Endpoint
assert not {{"prometheus_client", "http.server"}} & sys.modules.keys()
Endpoint({port}).show(())
assert "prometheus_client" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
