"""Dask distributed as the executor: many machines. Optional; the workers need this package too."""

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.text import printable

_CONNECT_SECONDS = 10.0


@contextmanager
def executor(
    address: str, *, ca: Path | None = None, cert: Path | None = None, key: Path | None = None
) -> Iterator[Executor]:
    """Give the executor of the scheduler at `address`, over TLS with any of the three files. Raises GuardError."""
    try:
        distributed: Any = import_module("distributed")
    except ImportError as error:
        step = "Install it: apt install python3-distributed (elsewhere: pip install distributed)."
        raise GuardError(f"--dask needs Dask distributed ({error}). {step}") from error
    files = {"tls_ca_file": ca, "tls_client_cert": cert, "tls_client_key": key}
    names = {name: str(file) for name, file in files.items() if file is not None}
    try:
        _expect_scheduler(address, names)  # a client that can't connect takes 20 s more, and ends in a traceback
        security = distributed.Security(require_encryption=True, **names) if names else None
        client = distributed.Client(address, security=security, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        text = f"Can't reach Dask's scheduler at {printable(address)}: {printable(str(error))}."
        raise GuardError(f"{text} Check address and TLS files.") from error
    with client:
        yield client.get_executor(pure=False, retries=2)


def _expect_scheduler(address: str, files: dict[str, str]) -> None:
    """Raise OSError or ValueError unless something listens at the address and the TLS files can be used."""
    place = urlsplit(address)
    if place.scheme not in {"tcp", "tls"} or place.hostname is None or place.port is None:
        raise ValueError("expected tcp://HOST:PORT or tls://HOST:PORT")
    context = ssl.create_default_context(cafile=files.get("tls_ca_file"))
    if "tls_client_cert" in files:
        context.load_cert_chain(files["tls_client_cert"], files.get("tls_client_key"))
    socket.create_connection((place.hostname, place.port), _CONNECT_SECONDS).close()
