"""Lower this machine's conntrack limit for a test, and restore it in every case.

`nf_conntrack_max` is one value for the whole machine, so whoever lowers it for a test can hurt others. A `LimitGuard`
therefore starts a separate process that saves the values and restores them when the pipe to its parent closes: at the
end, and even if everything else was killed with SIGKILL. `main` is that process.

It refuses while a lower limit could hurt others (see `bystanders`), checked before every write and every second. No guard
can start meanwhile: it would raise for the events of a test, and persist that limit for the next boot.
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
"""Held by the one limit guard of this machine, and by anything else that changes the limit for a test."""
_VALUES = {
    "limit": Path("/proc/sys/net/netfilter/nf_conntrack_max"),
    "buckets": Path("/proc/sys/net/netfilter/nf_conntrack_buckets"),
    "message_cost": Path("/proc/sys/net/core/message_cost"),
}
_CHECK_SECONDS = 1.0
_AFTERMATH_SECONDS = 0.3
"""A guard killed with the parent may still be in its last write, so the values are restored once more after this."""


_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from testbed.limit_guard import main; sys.exit(main())"


class RefusedError(Exception):
    """The value must not change now; the text is the reason."""


class LimitGuard:
    """Control of this machine's limit until `close`, or until this process ends or is killed.

    Waits up to `wait_seconds` for another one to finish. Raises RefusedError after that, without root, if the kernel
    tracks no connections, and while a guard acts on this host.
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
        """Write nf_conntrack_max. Raises RefusedError while that could hurt others."""
        self._ask(f"limit {value}")

    def set_buckets(self, value: int) -> None:
        """Write nf_conntrack_buckets. Raises RefusedError as `set_limit` does."""
        self._ask(f"buckets {value}")

    def set_message_cost(self, seconds: int) -> None:
        """Write net.core.message_cost: the kernel logs up to ten messages in that time; 0 means no limit."""
        self._ask(f"message_cost {seconds}")

    def check(self) -> None:
        """Raise RefusedError if the limit was restored early, because a guard started or another namespace got entries."""
        self._ask("check")

    def close(self) -> None:
        """Restore every value and wait until that is done."""
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
            raise RefusedError(text or "the process that guards the limit has ended")
        return text


class _LimitProcess:
    """Holds the locks and the values to restore. Raises OSError."""

    def __init__(self) -> None:
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(no_guard_starts())
        self._saved = {name: _read(path) for name, path in _VALUES.items()}
        self._own: frozenset[int] = frozenset()
        self._changed = False
        self._tripped = ""

    def saved_limit(self) -> int:
        return self._saved["limit"]

    def obey(self, command: str) -> str:
        """Execute one command and return the answer."""
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

    def check(self) -> None:
        """Restore everything at once if a guard has started or a foreign namespace holds entries."""
        if self._tripped:
            return
        if why := acting_guard() or (foreign_entries(self._own) if self._changed else None):
            self._tripped = f"the limit was restored early: {why}"
            self.restore()
            self.let_guards_start()

    def let_guards_start(self) -> None:
        self._lock.close()

    def restore(self) -> None:
        for name, value in self._saved.items():
            try:
                if _read(_VALUES[name]) != value:  # a resize of the buckets stalls traffic, so only if needed
                    _write(_VALUES[name], value)
            except OSError as error:
                sys.stderr.write(f"could not restore {_VALUES[name]} to {value}: {error}\n")


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
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits in the kernel's queue, so first come, first served
    signal.setitimer(signal.ITIMER_REAL, 0)
    return descriptor


def _serve(process: _LimitProcess) -> None:
    """Execute commands until the pipe closes."""
    pending = b""
    next_check = 0.0
    while True:
        readable, _, _ = select.select([0], [], [], _CHECK_SECONDS)
        if readable:
            piece = os.read(0, 65536)
            if not piece:
                return
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                sys.stdout.write(process.obey(line.decode()) + "\n")
                sys.stdout.flush()
        if time.monotonic() >= next_check:
            process.check()
            next_check = time.monotonic() + _CHECK_SECONDS


def _begin(wait_seconds: float) -> _LimitProcess:
    """Take the lock and the values. Raises OSError, and RefusedError while a guard acts on this host."""
    _lock(wait_seconds)
    if os.geteuid() != 0:
        raise PermissionError(1, "changing the limit needs root")
    if why := acting_guard():
        raise RefusedError(why)
    return _LimitProcess()


def main() -> int:
    """Run the separate process until standard input closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    try:
        process = _begin(float(sys.argv[2]))
    except (OSError, RefusedError) as error:
        sys.stdout.write(f"refused {error}\n")
        return 1
    sys.stdout.write(f"ok {process.saved_limit()}\n")
    sys.stdout.flush()
    try:
        _serve(process)
    finally:
        process.restore()
        time.sleep(_AFTERMATH_SECONDS)
        process.restore()
        process.let_guards_start()
    return 0
