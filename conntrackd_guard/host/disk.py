"""Wait for a disk no longer than an operator would: one that stalls keeps a system call, and its thread, for minutes."""

import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from conntrackd_guard.core.errors import HostError

PATIENCE_SECONDS = 3.0
"""A disk that is busy answers within tens of milliseconds; the lock of the drop-in is waited for a second less."""
READ = "read"
AT_ITS_END = "This command waits for it at its end."

T = TypeVar("T")

_late: dict[Path, Future[Any]] = {}
"""Reads that were not waited for any longer, by path."""


def answer(work: Callable[[], T], action: str, path: Path, next_step: str, *, more_seconds: float = 0.0) -> T:
    """Return what `work` returns, which may take `more_seconds` by itself; raise what it raises.

    Raises HostError if the disk does not answer. The work goes on, and the process ends only after it. While a read goes
    on, no other one of that path begins, as each would keep a thread. A write always begins: it may undo the one before.
    """
    error = OSError(errno.ETIMEDOUT, "its disk does not answer")
    if action == READ and (earlier := _late.get(path)) is not None and not earlier.done():
        raise HostError(action, path, error, next_step)
    result: Future[T] = Future()

    def do() -> None:
        try:
            result.set_result(work())
        except BaseException as found:  # noqa: BLE001 - for the thread that waits
            result.set_exception(found)

    threading.Thread(target=do).start()
    try:
        return result.result(PATIENCE_SECONDS + more_seconds)
    except TimeoutError:
        if result.done():  # the work's own: a network file system's, for example
            raise
        if action == READ:
            _late[path] = result
        raise HostError(action, path, error, next_step) from None
