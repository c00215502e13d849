"""Servers that are slow, broken or hostile end in one clear line, and the token stays with its server."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from testbed.prometheus import pretender, send

from conntrackd_guard.core.errors import GuardError, HostError
from conntrackd_guard.replay.model import HostInput, Skipped, Span
from conntrackd_guard.replay.sources import prometheus, prometheus_api
from conntrackd_guard.replay.sources.prometheus_api import Api, Server, ServerError, TooLargeError

SPAN = Span(since=1_700_000_000, until=1_700_003_600)
EMPTY = json.dumps({"status": "success", "data": []}).encode()


def ask(url: str, **server: Any) -> Any:
    """Ask a server for something."""
    return Api(Server(url=url, **server)).ask("series", {})


def answering(body: bytes, status: int = 200, **headers: str) -> Any:
    """Return how a server answers everything the same."""
    return lambda request: send(request, body, status, **headers)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file with a bearer token."""
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    return path


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"", 200, "HTTP 200, 0 bytes that are no answer of the API. Name the address in front of /api/v1."),
        (b"<html>\x1b[2J", 200, "HTTP 200, 10 bytes that are no answer"),
        (b"[" * 1_000_000, 200, "HTTP 200, 1000000 bytes that are no answer"),
        (b'{"status":' + b"9" * 10_000 + b"}", 200, "that are no answer"),
        (b"\xff\xfe{}", 200, "that are no answer"),
        (b"[]", 200, "that are no answer"),
        (b'{"status":"success"}', 200, "that are no answer"),
        (b"", 401, "HTTP 401, 0 bytes that are no answer of the API. Name a --token-file with a token that may query."),
        (b"x", 302, "HTTP 302"),
        (b'{"status":"error","error":"\\u001b[2Jno\\n"}', 422, r"refuses the query (HTTP 422): \x1b[2Jno\n"),
        (b'{"status":"error","error":"' + b"x" * 9000 + b'"}', 400, "xxx"),
    ],
)
def test_garbage_is_one_short_clear_line(body: bytes, status: int, expected: str) -> None:
    """What was asked, what came, and what to check."""
    with pretender(answering(body, status)) as (url, _), pytest.raises(ServerError) as caught:
        ask(url)
    text = str(caught.value)
    assert url in text
    assert expected in text
    assert text.isprintable()
    assert len(text) < 400


def test_an_endless_answer_is_left_soon() -> None:
    """A gigabyte is never held: reading ends at the bound."""
    sent = 0

    def flood(request: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b"[" * 1_000_000)
            sent += 1_000_000

    with pretender(flood) as (url, _), pytest.raises(TooLargeError, match=r"larger than 8 MiB\. Narrow --match"):
        ask(url)
    assert sent < 64_000_000


def test_endless_redirects_end() -> None:
    """Whatever their bodies are: none is read."""

    def redirect(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", request.path + "x")
        request.end_headers()
        while True:
            request.wfile.write(b"x" * 1_000_000)

    with pretender(redirect) as (url, requests), pytest.raises(ServerError, match="more than 5 redirects"):
        ask(url)
    assert len(requests) == 6


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://127.0.0.1/", "//", "http://127.0.0.1:99999/", "http://[::"]
)
def test_a_redirect_leads_to_http_only(place: str) -> None:
    """Never to a file of this host."""
    with pretender(answering(b"", 302, Location=place)) as (url, _), pytest.raises(ServerError):
        ask(url)


def test_the_token_goes_to_its_own_server_only(token: Path) -> None:
    """A redirect to another host or port gets none; one within the server does."""
    with pretender(answering(EMPTY)) as (other, others):

        def redirect(request: BaseHTTPRequestHandler) -> None:
            send(request, b"", 307, Location=f"{other}/x" if "second" in request.path else "/second")

        with pretender(redirect) as (url, requests):
            assert ask(url, token_file=token, token_over_http=True) == []
    assert [request.headers["Authorization"] for request in requests] == ["Bearer s3cret"] * 2
    assert [request.headers["Authorization"] for request in others] == [None]


def test_the_token_is_not_sent_over_plain_http_unasked(token: Path) -> None:
    """Not even a connection is made."""
    with pretender(answering(EMPTY)) as (url, requests), pytest.raises(ServerError, match="--token-over-http"):
        ask(url, token_file=token)
    assert requests == []


@pytest.mark.parametrize("content", ["", "\n", "a b", "a\r\nX-Evil: 1", "ü", "\x00"])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: str) -> None:
    """Its content appears nowhere."""
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(ServerError, match="as a bearer token") as caught:
        Api(Server(url="https://127.0.0.1", token_file=path))
    assert "Evil" not in str(caught.value)


def test_a_missing_token_or_ca_file_is_named(tmp_path: Path) -> None:
    """The path, the reason, the next step."""
    with pytest.raises(HostError, match=r"Can't read .*/none: No such file"):
        Api(Server(url="https://127.0.0.1", token_file=tmp_path / "none"))
    with pytest.raises(HostError, match=r"Can't read .*/none: No such file.* PEM"):
        Api(Server(url="https://127.0.0.1", ca_file=tmp_path / "none"))


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "http://", "http:///x", "http://x:0", "http://x:y", "http://\x1b[2J", "", "x", "http://u:secret@x"],
)
def test_an_address_that_can_not_be_asked_is_refused(url: str) -> None:
    """A password in an address would be seen in the list of processes."""
    with pytest.raises(ServerError) as caught:
        Api(Server(url=url))
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_nobody_there_is_a_clear_line() -> None:
    """The usual first failure."""
    with pretender(answering(EMPTY)) as (url, _):
        pass
    with pytest.raises(
        ServerError, match=f"Can't read {url}: Connection refused. Check its address and that it is up."
    ):
        ask(url)


@pytest.mark.parametrize("in_header", [False, True])
def test_a_dripping_answer_has_a_deadline(monkeypatch: pytest.MonkeyPatch, *, in_header: bool) -> None:
    """A byte now and then keeps no client for ever."""
    monkeypatch.setattr(prometheus_api, "REQUEST_SECONDS", 0.3)

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"X: " if in_header else b"\r\n"))
        for _ in range(600):
            request.wfile.write(b" ")
            time.sleep(0.05)

    with pretender(drip) as (url, _), pytest.raises(ServerError, match="no whole answer in 0 s"):
        ask(url)


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times in all."""
    monkeypatch.setattr(prometheus_api, "RETRY_PAUSES", (0.0, 0.0))

    def busy(request: BaseHTTPRequestHandler) -> None:
        send(request, *((EMPTY, 200) if len(requests) == 3 else (b"", 503)))

    with pretender(busy) as (url, requests):
        assert ask(url) == []
    with pretender(answering(b"", 503)) as (url, requests), pytest.raises(ServerError, match="HTTP 503"):
        ask(url)
    assert len(requests) == 3


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that no authority signed, with its key."""
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path.with_suffix(".key"), "-out", path),
        ],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """How a server shows that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


def test_tls_needs_a_trusted_certificate(tls: ssl.SSLContext, certificate: Path, token: Path) -> None:
    """--ca-file names whom to trust; the token is sent then."""
    with pretender(answering(EMPTY), tls) as (url, requests):
        with pytest.raises(ServerError, match=r"its certificate is not trusted: self.signed certificate"):
            ask(url, token_file=token)
        assert requests == []
        assert ask(url, token_file=token, ca_file=certificate) == []
        assert requests[0].headers["Authorization"] == "Bearer s3cret"


def test_a_redirect_from_https_to_http_is_refused(tls: ssl.SSLContext, certificate: Path) -> None:
    """What was asked over TLS is not to be had by everybody on the way."""
    with (
        pretender(answering(EMPTY)) as (plain, requests),
        pretender(answering(b"", 302, Location=plain), tls) as (url, _),
    ):
        with pytest.raises(ServerError, match="it redirects from https to http://"):
            ask(url, ca_file=certificate)
        assert requests == []


LABELS = {"__name__": prometheus.ENTRIES, "instance": "web1"}


def reading(*answers: Any) -> list[HostInput | Skipped]:
    """Return what finding and reading hosts yields where the server answers so, the last for all others."""
    left = list(answers)

    def answer(request: BaseHTTPRequestHandler) -> None:
        data = left.pop(0) if len(left) > 1 else left[0]
        send(request, json.dumps({"status": "success", "data": data, "warnings": ["\x1b[2Jsome"]}).encode())

    with pretender(answer) as (url, _):
        found = list(prometheus.find(Server(url=url), "", SPAN))
        read: list[HostInput | Skipped] = []
        for one in found:
            read += [one] if isinstance(one, Skipped) else one.read(SPAN)
    return read


def matrix(*values: Any, **labels: Any) -> dict[str, Any]:
    """Return a query's result."""
    return {"result": [{"metric": LABELS | labels, "values": list(values)}]}


@pytest.mark.parametrize("series", [{}, 1, "x", [1], [{"a": 1}], [None], [[]]])
def test_labels_of_another_shape_end_in_a_clear_line(series: Any) -> None:
    """A list of label sets is expected."""
    with pytest.raises(ServerError, match="something else than a list of series"):
        reading(series)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"result": {}},
        matrix(1),
        matrix([]),
        matrix([1]),
        matrix(["1", "2"]),
        matrix([1, 2]),
        matrix([1, None]),
        matrix([-1, "2"]),
        matrix([1e300, "2"]),
        matrix([float("nan"), "2"]),
        matrix([float("inf"), "2"]),
        matrix([True, "2"]),
        matrix({"a": 1}),
        matrix("ab"),
    ],
)
def test_samples_of_another_shape_end_in_a_clear_line(answer: Any) -> None:
    """Nothing is made of them."""
    with pytest.raises(ServerError, match="something else than"):
        reading([LABELS], answer)


def test_values_that_are_no_counts_are_left_out() -> None:
    """As if they had not been scraped; the result says how many."""
    texts = ("1", "1.6e+06", "NaN", "+Inf", "-5", "9" * 30, "9" * 9000, "x", "", "7.9")
    points = matrix(*([1_700_000_000 + second, text] for second, text in enumerate(texts)))
    (found,) = reading([LABELS], points, {"result": []})
    assert isinstance(found, HostInput)
    entries = [sample.entries for sample in found.samples]
    assert entries == [1, 1_600_000, None, None, None, None, None, None, None, 7]
    assert "values left out because they are no counts: 7" in found.notes
    assert r"the server warns: \x1b[2Jsome" in found.notes


def test_series_of_other_targets_and_unordered_points_are_sorted_out() -> None:
    """A label set that contains another's is another target; times ascend, each once."""
    points = matrix([1_700_000_060, "2"], [1_700_000_000, "1"], [1_700_000_060, "3"])
    points["result"] += matrix([1_700_000_000, "9"], replica="b")["result"] + ["x", {"metric": 5}]
    (found,) = reading([LABELS], points, {"result": []})
    assert isinstance(found, HostInput)
    assert [(sample.wall_seconds, sample.entries) for sample in found.samples] == [
        (1_700_000_000, 1),
        (1_700_000_060, 3),
    ]


def test_a_label_that_is_no_text_costs_its_host_only() -> None:
    """JSON can hold half a character, which no request can."""
    with pytest.raises(GuardError, match="lone surrogate"):
        reading([LABELS | {"instance": "\ud800"}])
