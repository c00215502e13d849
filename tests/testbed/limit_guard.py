"""Lowers this machine's conntrack limit for a test, and puts it back in every case.

`nf_conntrack_max` is one value for the whole machine, so whoever lowers it for a test can hurt others. A `LimitGuard`
therefore starts a process of its own that remembers the values and restores them when the pipe to its parent closes:
at the end, and also when everything else was killed with SIGKILL. `main` is that process.

It lowers nothing while that could hurt somebody else (see `bystanders`): asked before every write, and each second. No
guard can start meanwhile: it would raise for what happens in a test, and keep that limit for the next boot.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.bystanders import acting_guard, foreign_entries, no_guard_starts, unseen_entries

LOCK = Path("/run/lock/conntrackd-guard-limit.lock")
"""Held by the one keeper of this machine, and by whatever else changes the limit for a test."""
_VALUES = {
    "limit": Path("/proc/sys/net/netfilter/nf_conntrack_max"),
    "buckets": Path("/proc/sys/net/netfilter/nf_conntrack_buckets"),
    "message_cost": Path("/proc/sys/net/core/message_cost"),
}
_LOOK_SECONDS = 1.0
_AFTERMATH_SECONDS = 0.3
"""A guard killed together with the parent may still be in its last write; the values are put back once more after it."""


_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from testbed.limit_guard import main; sys.exit(main())"


class RefusedError(Exception):
    """The keeper would not change a value; the text says why."""


class LimitGuard:
    """The limit of this machine, on loan until `close`, the end of this process, or its death.

    Waits `wait_seconds` for another keeper to finish. Raises RefusedError when that doesn't happen, without root, where
    the kernel tracks no connections, and while a guard acts on this host.
    """

    def __init__(self, *, wait_seconds: float = 600.0) -> None:
        self._process = subprocess.Popen(
            ["/usr/bin/python3", "-BEs", "-c", _PROGRAM, str(Path(__file__).resolve().parents[1]), str(wait_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd="/",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.saved_limit = int(self._answer())

    def own(self, namespace: int) -> None:
        """Let the network namespace with this inode hold entries while the limit is lowered."""
        self._ask(f"own {namespace}")

    def set_limit(self, value: int) -> None:
        """Write nf_conntrack_max. Raises RefusedError while that could hurt somebody else."""
        self._ask(f"limit {value}")

    def set_buckets(self, value: int) -> None:
        """Write nf_conntrack_buckets. Raises RefusedError as `set_limit` does."""
        self._ask(f"buckets {value}")

    def set_message_cost(self, seconds: int) -> None:
        """Write net.core.message_cost: the kernel logs at most ten lines in that time, 0 lifts the limit."""
        self._ask(f"message_cost {seconds}")

    def check(self) -> None:
        """Raise RefusedError when the limit had to be put back because a guard started or another namespace began to track."""
        self._ask("check")

    def close(self) -> None:
        """Put every value back, and wait until that is done."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait(timeout=30)
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        word, _, text = self._process.stdout.readline().rstrip("\n").partition(" ")
        if word != "ok":
            raise RefusedError(text or "the keeper of the limit has ended")
        return text


class _LimitProcess:
    """The process that holds the locks and the values to put back. Raises OSError."""

    def __init__(self) -> None:
        self._guards = contextlib.ExitStack()
        self._guards.enter_context(no_guard_starts())
        self._saved = {name: _read(path) for name, path in _VALUES.items()}
        self._own: frozenset[int] = frozenset()
        self._changed = False
        self._tripped = ""

    def saved_limit(self) -> int:
        return self._saved["limit"]

    def obey(self, command: str) -> str:
        """Do one command and return the answer."""
        name, _, value = command.partition(" ")
        if name == "own":
            self._own |= {int(value)}
            return "ok"
        if self._tripped:
            return f"refused {self._tripped}"
        if name == "check":
            return "ok"
        if why := acting_guard() or foreign_entries(self._own) or unseen_entries():
            return f"refused {why}"
        self._changed = True
        try:
            _write(_VALUES[name], int(value))
        except OSError as error:
            return f"refused writing {value} to {_VALUES[name]}: {error.strerror}"
        return "ok"

    def look(self) -> None:
        """Put everything back at once when a guard has started, or a namespace that isn't our own holds entries."""
        if self._tripped:
            return
        if why := acting_guard() or (foreign_entries(self._own) if self._changed else None):
            self._tripped = f"the limit was put back early: {why}"
            self.restore()
            self.let_guards_start()

    def let_guards_start(self) -> None:
        self._guards.close()

    def restore(self) -> None:
        for name, value in self._saved.items():
            try:
                if _read(_VALUES[name]) != value:  # a resize of the buckets stalls traffic: not without need
                    _write(_VALUES[name], value)
            except OSError as error:
                sys.stderr.write(f"could not put {_VALUES[name]} back to {value}: {error}\n")


def _read(path: Path) -> int:
    return int(path.read_text("ascii"))


def _write(path: Path, value: int) -> None:
    path.write_text(f"{value}\n", "ascii")


def _lock(wait_seconds: float) -> int:
    """Return the descriptor of the held lock. Raises TimeoutError after `wait_seconds`."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def give_up(*_: object) -> None:
        raise TimeoutError(f"another run on this machine holds {LOCK}")

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, wait_seconds)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # waiting in the kernel's queue, not polling: first come, first served
    signal.setitimer(signal.ITIMER_REAL, 0)
    return descriptor


def _serve(keeper: _LimitProcess) -> None:
    """Obey until the pipe closes."""
    pending = b""
    next_look = 0.0
    while True:
        readable, _, _ = select.select([0], [], [], _LOOK_SECONDS)
        if readable:
            piece = os.read(0, 65536)
            if not piece:
                return
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                sys.stdout.write(keeper.obey(line.decode()) + "\n")
                sys.stdout.flush()
        if time.monotonic() >= next_look:
            keeper.look()
            next_look = time.monotonic() + _LOOK_SECONDS


def _begin(wait_seconds: float) -> _LimitProcess:
    """Return the keeper of the held lock. Raises OSError, and RefusedError while a guard acts on this host."""
    _lock(wait_seconds)
    if os.geteuid() != 0:
        raise PermissionError(1, "changing the limit needs root")
    if why := acting_guard():
        raise RefusedError(why)
    return _LimitProcess()


def main() -> int:
    """Be the keeper until standard input closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    try:
        keeper = _begin(float(sys.argv[2]))
    except (OSError, RefusedError) as error:
        sys.stdout.write(f"refused {error}\n")
        return 1
    sys.stdout.write(f"ok {keeper.saved_limit()}\n")
    sys.stdout.flush()
    try:
        _serve(keeper)
    finally:
        keeper.restore()
        time.sleep(_AFTERMATH_SECONDS)
        keeper.restore()
        keeper.let_guards_start()
    return 0
