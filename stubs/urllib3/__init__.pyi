"""The part of urllib3 1.26 and 2 that the guard uses."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from urllib3 import exceptions as exceptions

class Timeout:
    def __init__(self, *, connect: float, read: float) -> None: ...

class HTTPResponse:
    status: int
    headers: Mapping[str, str]
    def read(self, amt: int, decode_content: bool) -> bytes: ...

class HTTPSConnectionPool:
    def __init__(
        self, host: str, port: int, *, timeout: Timeout, maxsize: int, cert_reqs: str, ca_certs: str
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def urlopen(
        self,
        method: str,
        url: str,
        *,
        body: bytes,
        headers: Mapping[str, str],
        retries: bool,
        redirect: bool,
        preload_content: bool,
    ) -> HTTPResponse: ...
