"""Ask a server with Prometheus' HTTP API, which may be slow, broken or hostile.

The standard library's client, one connection at a time: size, time and redirects are bounded here, and the token is sent
to the named server only. The environment's proxies are not used.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from conntrackd_guard import __version__
from conntrackd_guard.core.errors import GuardError, HostError
from conntrackd_guard.core.text import LONGEST_REASON, printable
from conntrackd_guard.host import files

LARGEST_ANSWER = 8 << 20
"""Four series of 11,000 points each are 1.4 MiB, 10,000 hosts' labels 3 MiB. Parsed, it takes up to 200 MiB."""
SILENCE_SECONDS = 30.0
"""Without a byte."""
REQUEST_SECONDS = 120.0
"""For one answer in all: Prometheus' own `--query.timeout` is 120 s."""
MOST_REDIRECTS = 5
RETRY_PAUSES = (1.0, 4.0)
"""Seconds before another attempt."""
_BUSY = frozenset((429, 502, 503, 504))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_CHUNK = 1 << 16
_LONGEST_TOKEN = 1 << 16


class ServerError(GuardError):
    """The server can't be asked, or its answer can't be used."""


class TooLargeError(ServerError):
    """The answer is larger than LARGEST_ANSWER, or the server refuses to collect it: ask for less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the API is, as settings say it; the token itself is read by whoever asks."""

    url: str
    """Up to the path in front of `/api/v1`."""
    token_file: Path | None = None
    """A bearer token; sent to `url`'s host and port only, and only over TLS unless `token_over_http`."""
    ca_file: Path | None = None
    """Certificates that sign the server's own, in place of the system's."""
    token_over_http: bool = False


class Api:
    """The API of one server. Methods raise ServerError; HostError for a file that can't be read."""

    def __init__(self, server: Server) -> None:
        self._base = _split(server.url.rstrip("/"))
        self._shown = printable(self._base.geturl())
        self._headers = {"Accept": "application/json", "User-Agent": f"conntrackd-guard/{__version__}"}
        self._token = None if server.token_file is None else _token(server.token_file)
        if self._token is not None and self._base.scheme == "http" and not server.token_over_http:
            raise ServerError(
                f"Not sending the bearer token to {self._shown}: plain HTTP shows it to everybody on the way."
                " Use https, or allow it with --token-over-http."
            )
        self._tls = _tls(server.ca_file) if self._base.scheme == "https" or server.ca_file is not None else None
        self.warnings: set[str] = set()
        """What the server answered beside its data, such as that some of it is missing."""

    def ask(self, path: str, parameters: Mapping[str, str]) -> Any:
        """Return the `data` of an answer to GET /api/v1/`path`."""
        url = f"{self._base.geturl()}/api/v1/{path}?{_encoded(parameters)}"
        for pause in (*RETRY_PAUSES, None):
            try:
                status, body = self._get(url)
            except (ConnectionResetError, BrokenPipeError) as error:
                if pause is None:
                    raise self._error(_reason(error), "Check the server.") from error
            except (OSError, HTTPException, ValueError) as error:
                raise self._error(_reason(error), "Check its address and that it is up.") from error
            else:
                if status not in _BUSY or pause is None:
                    return self._data(status, body)
            time.sleep(pause)
        raise AssertionError  # the last pause is None

    def _get(self, url: str) -> tuple[int, bytes]:
        """Follow redirects to an answer."""
        target = _split(url)
        for _ in range(MOST_REDIRECTS + 1):
            with self._answer(target) as answer:
                location = answer.getheader("Location")
                if answer.status not in _REDIRECTS or location is None:
                    return answer.status, self._body(answer)
                following = _split(urljoin(target.geturl(), location))
                if (target.scheme, following.scheme) == ("https", "http"):
                    raise self._error(
                        f"it redirects from https to {printable(following.geturl())}", "Check the server."
                    )
                target = following
        raise self._error(f"more than {MOST_REDIRECTS} redirects", "Name the address that they lead to.")

    @contextmanager
    def _answer(self, target: SplitResult) -> Iterator[HTTPResponse]:
        """Send a request; raise TimeoutError where the answer as a whole takes longer than REQUEST_SECONDS."""
        headers = dict(self._headers)
        if self._token is not None and _origin(target) == _origin(self._base):
            headers["Authorization"] = f"Bearer {self._token}"
        assert target.hostname is not None  # noqa: S101  _split
        if target.scheme == "https":
            self._tls = self._tls or _tls(None)
            connection: HTTPConnection = HTTPSConnection(
                target.hostname, target.port, timeout=SILENCE_SECONDS, context=self._tls
            )
        else:
            connection = HTTPConnection(target.hostname, target.port, timeout=SILENCE_SECONDS)
        connection.connect()
        is_late = threading.Event()
        timer = threading.Timer(REQUEST_SECONDS, _cut, (connection.sock, is_late))
        timer.daemon = True
        timer.start()
        try:
            connection.request("GET", f"{target.path or '/'}?{target.query}", headers=headers)
            with connection.getresponse() as answer:
                yield answer
            if is_late.is_set():  # an answer without a length ends wherever it is cut
                raise TimeoutError
        except (OSError, HTTPException, ValueError) as error:
            if is_late.is_set():
                raise TimeoutError(f"no whole answer in {REQUEST_SECONDS:.0f} s") from error
            raise
        finally:
            timer.cancel()
            connection.close()

    def _body(self, answer: HTTPResponse) -> bytes:
        parts, size = [], 0
        while part := answer.read(_CHUNK):
            parts.append(part)
            size += len(part)
            if size > LARGEST_ANSWER:
                raise TooLargeError(
                    f"Can't use the answer of {self._shown}: it is larger than {LARGEST_ANSWER >> 20} MiB."
                    " Narrow --match, --since or --until."
                )
        return b"".join(parts)

    def _data(self, status: int, body: bytes) -> Any:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            answer = {}
        if answer.get("status") == "success" and "data" in answer:
            warnings = answer.get("warnings")
            self.warnings.update(map(_short, warnings[:10] if isinstance(warnings, list) else ()))
            return answer["data"]
        if isinstance(found := answer.get("error"), str):
            kind = TooLargeError if "too many samples" in found else ServerError
            raise kind(f"{self._shown} refuses the query (HTTP {status}): {_short(found)}")
        raise self._error(f"HTTP {status}, {len(body)} bytes that are no answer of the API", _hint(status))

    def _error(self, what: str, next_step: str) -> ServerError:
        return ServerError(f"Can't read {self._shown}: {what}. {next_step}")


def _split(url: str) -> SplitResult:
    """Return the parts of a URL that can be asked. Raises ServerError."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        usable = False
    if not usable:
        raise ServerError(f"{_short(url)} is no http:// or https:// address of a server.")
    if parts.username is not None or parts.password is not None:
        raise ServerError(f"The address of {printable(parts.hostname or '')} contains a password. Use --token-file.")
    return parts


def _origin(target: SplitResult) -> tuple[str, str | None, int]:
    return target.scheme, target.hostname, target.port or {"http": 80, "https": 443}[target.scheme]


def _token(path: Path) -> str:
    """Read a bearer token. Raises HostError, ServerError."""
    next_step = "Name a file that holds the bearer token alone."
    try:
        content = files.read(path, _LONGEST_TOKEN)
    except OSError as error:
        raise HostError("read", path, error, next_step) from error
    token = content.decode("ascii", "replace").strip()
    if not token or not token.isprintable() or " " in token or not token.isascii():
        raise ServerError(f"Can't use {path} as a bearer token: it is empty or has spaces in it. {next_step}")
    return token


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """Return what verifies the server. Raises HostError."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # SSLError is one
        raise HostError("read", ca_file, error, "Name a file with certificates in PEM format.") from error


def _encoded(parameters: Mapping[str, str]) -> str:
    try:
        return urlencode(parameters)
    except UnicodeEncodeError as error:
        raise ServerError("A label of this host is no text (a lone surrogate), so it can't be asked for.") from error


def _cut(connected: socket.socket, is_late: threading.Event) -> None:
    """End a request from another thread."""
    is_late.set()
    with suppress(OSError):  # it has ended
        connected.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {_short(error.verify_message)}"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _short(text or type(error).__name__)


def _hint(status: int) -> str:
    if status in {401, 403}:
        return "Name a --token-file with a token that may query."
    return "Name the address in front of /api/v1."


def _short(text: object) -> str:
    return printable(str(text)[:LONGEST_REASON])
