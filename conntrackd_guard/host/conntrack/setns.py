"""Read from another network namespace: through the files of a process in it, or by entering it."""

import ctypes
import errno
import os
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from conntrackd_guard.core.text import printable
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.paths import Paths

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SETNS = ctypes.CDLL(None, use_errno=True).setns
"""os.setns is new in Python 3.12. Loaded at start, for 0.25 MiB: the main loop must not wait for a disk."""

T = TypeVar("T")


@contextmanager
def process_of(netns: NetNamespace, proc: str, pid: int | str) -> Iterator[str]:
    """Return a path to /proc/PID for a `with`; while it is open, the pid can't be reused under it.

    Raises OSError: ESTALE if the process has left the namespace.
    """
    descriptor = os.open(f"{proc}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    folder = f"{proc}/self" if pid == "self" else f"/proc/self/fd/{descriptor}"  # this process does not end meanwhile
    try:
        if os.stat(f"{folder}/net/stat").st_ino != netns.key:
            raise OSError(errno.ESTALE, "the namespace has changed")
        yield folder
    finally:
        os.close(descriptor)


def run_in_netns(netns: NetNamespace, call: Callable[[], T]) -> T:
    """Return what `call` returns inside the network namespace, in a thread of its own.

    Needs CAP_SYS_ADMIN. Raises OSError, or what `call` raises.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def enter_and_call() -> None:
        try:
            _enter(netns)
            results.append(call())
        except Exception as error:  # noqa: BLE001 - for the thread that waits
            errors.append(error)

    try:
        thread = threading.Thread(target=enter_and_call, name="run_in_netns")
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "can't start a thread") from error
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def nsenter_prefix(netns: NetNamespace, paths: Paths) -> str:
    """Return the command prefix that enters the namespace, safe to print and to paste; "" for the initial one."""
    if netns.initial:
        return ""
    named = f"{paths.named_namespaces}/"
    if netns.enter.startswith(named):
        return f"ip netns exec {shlex.quote(printable(netns.enter.removeprefix(named)))} "
    return f"nsenter --net={shlex.quote(printable(netns.enter))} "


def _enter(netns: NetNamespace) -> None:
    descriptor = os.open(netns.enter, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if os.fstat(descriptor).st_ino != netns.namespace:
            raise OSError(errno.ESTALE, "the namespace has changed")
        if _SETNS(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
