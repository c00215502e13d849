"""The API server of the cluster that this pod belongs to: one bounded request at a time. The only importer of urllib3.

Answers are untrusted: at most 64 KiB is read, within REQUEST_SECONDS in all, and no redirect is followed. Token and
certificate are read for each request: the kubelet renews them.
"""

import json
import re
import signal
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import urllib3

from conntrackd_guard.core.errors import GuardError, HostError
from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

REQUEST_SECONDS = 15.0
"""Judgement: an API server under load answers 429 within a second, or lets a request wait."""
_MOST_ANSWER_BYTES = 64 * 1024
_MOST_TOKEN_BYTES = 64 * 1024
_MOST_TEXT = 300
_MOST_RETRY_DIGITS = 5
_TOKEN = re.compile(rb"[!-~]+")
_HOST = re.compile(r"[0-9A-Za-z.:-]{1,253}")
_PORT = re.compile("[0-9]{1,5}")
_MOST_PORT = 65_535
_NO_POD = "Run this in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT say where the API server is."
_NO_VOLUME = "The container needs a projected volume with serviceAccountToken and the ConfigMap kube-root-ca.crt."


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of the API server."""

    status: int
    text: str
    """What it says about a failure; safe to print."""
    retry_after_seconds: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether it did what it was asked for."""
        return 200 <= self.status < 300  # noqa: PLR2004 - HTTP

    def __str__(self) -> str:
        """Return status and text."""
        return f"{self.status} {self.text}".rstrip()


class ClusterApi:
    """Sends requests with the pod's own token. For the main thread: a timer ends a request that takes too long."""

    def __init__(self, paths: Paths, host: str, port: int) -> None:
        self._folder, self._host, self._port = paths.service_account, host, port
        self._ca = self._folder / "ca.crt"

    @classmethod
    def of_pod(cls, paths: Paths, environment: Mapping[str, str]) -> Self:
        """Return the API server that every pod has in its environment. Raises GuardError if there is none."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
        if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or int(port) > _MOST_PORT:
            raise GuardError(_NO_POD)
        return cls(paths, host, int(port))

    def create(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Create an object. Raises HostError if no answer came."""
        return self._send("POST", path, body, "application/json")

    def patch(self, path: str, body: Mapping[str, Any], *, by_key: bool = False) -> Answer:
        """Change an object; `by_key` merges lists by the key of their elements. Raises HostError if no answer came."""
        kind = "strategic-merge-patch" if by_key else "merge-patch"
        return self._send("PATCH", path, body, f"application/{kind}+json")

    def _send(self, method: str, path: str, body: Mapping[str, Any], content_type: str) -> Answer:
        headers = {
            "Authorization": f"Bearer {self._token()}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": content_type,
            "User-Agent": "conntrackd-guard",
        }
        address = f"https://{self._host}:{self._port}"
        try:
            with _deadline(REQUEST_SECONDS), self._pool() as pool:
                answer = pool.urlopen(
                    method,
                    path,
                    body=json.dumps(body).encode(),
                    headers=headers,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
                content = answer.read(_MOST_ANSWER_BYTES, decode_content=False)
                return _answer(answer.status, answer.headers.get("Retry-After"), content)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            cause = OSError(None, printable(_cause(error))[:_MOST_TEXT])
            raise HostError("reach the API server", address, cause, "Retrying.") from error

    def _pool(self) -> urllib3.HTTPSConnectionPool:
        timeout = urllib3.Timeout(connect=REQUEST_SECONDS, read=REQUEST_SECONDS)
        return urllib3.HTTPSConnectionPool(
            self._host, self._port, timeout=timeout, maxsize=1, cert_reqs="CERT_REQUIRED", ca_certs=str(self._ca)
        )

    def _token(self) -> str:
        """Return the current token. Raises HostError."""
        path = self._folder / "token"
        with files.translate_errors("read", path, _NO_VOLUME):
            token = files.read(path, _MOST_TOKEN_BYTES).strip()
        if not _TOKEN.fullmatch(token):
            raise HostError("read", path, None, _NO_VOLUME)
        return token.decode()


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after this time: a timeout of the socket starts again with each byte that comes."""

    def end(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"no whole answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _answer(status: int, retry_after: str | None, content: bytes) -> Answer:
    """Return what matters of an answer; one that is no object of Kubernetes has no text."""
    text = ""
    try:
        found = files.parse_json(content).get("message")
        text = found if isinstance(found, str) else ""
    except ValueError:
        pass
    seconds = (retry_after or "").strip()
    waits = seconds.isascii() and seconds.isdigit() and len(seconds) <= _MOST_RETRY_DIGITS
    return Answer(
        status=status,
        text=printable(text)[:_MOST_TEXT],
        retry_after_seconds=float(seconds) if waits else None,
    )


def _cause(error: Exception) -> str:
    """Return why no answer came, without the names of a library's objects."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLError | OSError) and not isinstance(inner, urllib3.exceptions.HTTPError):
            return inner.strerror or str(inner)
        inner = inner.__cause__ or inner.__context__
    return str(error).rsplit(": ", 1)[-1]
