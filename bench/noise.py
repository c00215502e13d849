"""Load beside the guard: a big journal, many namespaces and processes, unrelated messages."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.ground import Ground, wait_for

_JOURNAL_SOCKET = "/run/systemd/journal/socket"
_PORT = 9
_HEAD = b"PRIORITY=6\nSYSLOG_IDENTIFIER=bench\nMESSAGE="
_TICK_SECONDS = 0.01
_ENTRY_BYTES = 4096
NAMESPACES, PROCESSES = 250, 5_000
"""Of a busy container host."""
_ENTRIES_PER_NAMESPACE = 10
_TABLE = "conntrackd_guard_bench"
_FIREWALL = f"""add table inet {_TABLE} {{ flags owner; }}
add chain inet {_TABLE} out {{ type filter hook output priority 0; }}
add rule inet {_TABLE} out oifname "lo" udp dport {_PORT} log prefix "bench: " level info
"""
"""`flags owner`: the kernel removes the table with the nft process that made it. The table tracks nothing."""


def grow_journal(megabytes: int) -> None:
    """Fill the private journal up to `megabytes` with entries of 4 KiB that don't compress."""
    wanted = megabytes * 2**20
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(_JOURNAL_SOCKET)
        while _journal_bytes() < wanted:
            for _ in range(2000):
                sender.send(_HEAD + os.urandom(_ENTRY_BYTES // 2).hex().encode())


def user_messages(rate: int) -> contextlib.AbstractContextManager[None]:
    """Send `rate` messages a second to the journal, like any service."""
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(_JOURNAL_SOCKET)
    return _paced(rate, lambda: sender.send(_HEAD + b"something unrelated happened"))


@contextlib.contextmanager
def kernel_messages(rate: int) -> Iterator[None]:
    """Make the kernel log `rate` firewall messages a second, for packets on the loopback."""
    nft = subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert nft.stdin is not None  # noqa: S101  requested as a pipe
    nft.stdin.write(_FIREWALL.encode())
    nft.stdin.flush()
    show = ["nft", "list", "chain", "inet", _TABLE, "out"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            wait_for(lambda: b"log" in subprocess.run(show, capture_output=True, check=False).stdout, "the nft rule")
            with _paced(rate, lambda: sender.sendto(b"x", ("127.0.0.1", _PORT))):
                yield
        finally:
            nft.kill()
            nft.wait()


@contextlib.contextmanager
def crowd(ground: Ground, namespaces: int, processes: int) -> Iterator[None]:
    """Keep `namespaces` tracking namespaces with a few entries each, and `processes` sleeping processes."""
    with contextlib.ExitStack() as stack:
        for _ in range(namespaces):
            ground.flows(stack.enter_context(ground.scratch()), 0, _ENTRIES_PER_NAMESPACE)
        command = [str(ground.tool("crowd")), str(processes)]
        sleepers = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert sleepers.stdin is not None and sleepers.stdout is not None  # noqa: S101, PT018  requested as pipes
        try:
            if sleepers.stdout.readline() != b"ready\n":
                raise OSError(f"could not make {processes} processes")
            yield
        finally:
            sleepers.stdin.close()
            sleepers.wait()


@contextlib.contextmanager
def _paced(rate: int, send: Callable[[], object]) -> Iterator[None]:
    """Call `send` `rate` times a second until the end, ignoring errors."""
    end = threading.Event()

    def work() -> None:
        start, sent = time.monotonic(), 0
        while not end.wait(_TICK_SECONDS):
            due = int((time.monotonic() - start) * rate)
            for _ in range(sent, due):
                with contextlib.suppress(OSError):
                    send()
            sent = due

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _journal_bytes() -> int:
    return sum(file.stat().st_blocks * 512 for file in Path("/var/log/journal").rglob("*.journal"))
