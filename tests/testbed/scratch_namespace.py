"""A network namespace for a test to overfill: loopback only, ends with the process that created it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_SETUP = """
ip link set lo up
nft -f - <<'RULES'
table ip guard_scratch {
  chain output {
    type filter hook output priority 0
    ct state new counter
  }
}
RULES
echo ready
exec cat
"""
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_PORT = 9


class ScratchNamespace:
    """A child network namespace that tracks connections, held by one process that ends when this one does.

    `user_owned` creates it inside a user namespace, as any user could.
    Needs root, `nft`, `ip` and `conntrack`. Raises OSError or subprocess.CalledProcessError if one fails.
    """

    def __init__(self, *, user_owned: bool = False) -> None:
        owner = ["--user", "--map-root-user"] if user_owned else []
        self._holder = subprocess.Popen(
            ["unshare", *owner, "--net", "sh", "-ec", _SETUP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        # `cat` prints only its input, so the first line ends the set-up.
        if self._holder.stdout.readline() != "ready\n":
            self.close()
            raise OSError("could not set up a scratch network namespace (see the message above)")
        self.pid = self._holder.pid
        self.number = os.stat(f"/proc/{self.pid}/ns/net").st_ino
        self._made = 0
        self._receiver = self._socket()
        self._receiver.bind(("127.0.0.1", _PORT))
        self._receiver.setblocking(False)  # noqa: FBT003 - the name of the call explains it

    def fill(self, flows: int) -> None:
        """Add `flows` assured flows; stop at the first one that a full table refuses."""
        load_flows(flows, first=self._made, enter=("nsenter", f"--net=/proc/{self.pid}/ns/net"))
        self._made += flows

    def overflow(self, packets: int = 1) -> int:
        """Send UDP packets, each a new flow, over the loopback inside; return how many arrived."""
        self._drain()
        for _ in range(packets):
            with self._socket() as sender, contextlib.suppress(PermissionError):  # EPERM: dropped by a full table
                sender.sendto(b"x", ("127.0.0.1", _PORT))
        return self._drain()

    def count(self) -> int:
        """Return the number of entries."""
        return next(self._stat("entries"))

    def dropped(self) -> int:
        """Return the number of packets dropped since the start."""
        return sum(self._stat("drop"))

    def leave(self) -> None:
        """End the process in it; a socket keeps the namespace."""
        if self._holder.stdin:
            self._holder.stdin.close()
        self._holder.wait(timeout=10)

    def close(self) -> None:
        """End the namespace with everything in it."""
        self.leave()
        if self._holder.stdout:
            self._holder.stdout.close()
        if hasattr(self, "_receiver"):
            self._receiver.close()  # a socket keeps its namespace alive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _socket(self) -> socket.socket:
        """Return a UDP socket of the namespace: created in a thread that enters it, usable from every thread."""
        made: list[socket.socket] = []

        def enter_and_make() -> None:
            descriptor = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) == 0:
                    made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            finally:
                os.close(descriptor)

        thread = threading.Thread(target=enter_and_make)
        thread.start()
        thread.join()
        if not made:
            raise OSError("could not enter the scratch network namespace")
        return made[0]

    def _drain(self) -> int:
        arrived = 0
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(16):
                arrived += 1
        return arrived

    def _stat(self, column: str) -> Iterator[int]:
        head, *rows = Path(f"/proc/{self.pid}/net/stat/nf_conntrack").read_text("ascii").splitlines()
        place = head.split().index(column)
        return (int(row.split()[place], 16) for row in rows)


def load_flows(flows: int, *, first: int = 0, enter: Sequence[str] = ()) -> None:
    """Add assured flows, numbered from `first`, through netlink (about 80,000 per second), in the namespace of `enter`.

    Stops at the first one that a full table refuses. Raises OSError if `conntrack` fails otherwise.
    """
    load_lines((_flow(first + number) for number in range(flows)), enter=enter)


def load_lines(lines: Iterable[bytes], *, enter: Sequence[str] = ()) -> None:
    """Add flows from lines in the format of `conntrack -R`, as `load_flows` does."""
    command = [*enter, "conntrack", "-R", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as load:
        assert load.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            load.stdin.writelines(lines)
        with contextlib.suppress(BrokenPipeError):
            load.stdin.close()
        assert load.stderr is not None
        errors = load.stderr.read().decode(errors="replace")
    if load.returncode != 0 and "not enough memory" not in errors:  # ENOMEM is how a full table refuses
        raise OSError(f"conntrack -R failed: {errors.strip()}")


def _flow(number: int) -> bytes:
    """Return one line for `conntrack -R`: seen in both directions, so that the kernel doesn't evict it."""
    port = 1024 + number % 60000
    source = f"10.{number // 60000}.0.1"
    return (
        f"-A -s {source} -d 10.200.0.1 -r 10.200.0.1 -q {source} -p udp --sport {port} --dport 53 "
        f"--reply-port-src 53 --reply-port-dst {port} -t 600 -u SEEN_REPLY,ASSURED\n"
    ).encode()
