"""Ways into another network namespace: the files of a process in it, or a call from inside."""

from __future__ import annotations

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

T = TypeVar("T")


@contextmanager
def process_of(place: NetNamespace, proc: str, pid: int | str) -> Iterator[int]:
    """Give a descriptor of the process's folder, for `dir_fd`: held, so its number can't change hands.

    Raises OSError, ESTALE where the process is in another namespace by now.
    """
    folder = os.open(f"{proc}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.stat("net/stat", dir_fd=folder).st_ino != place.key:
            raise OSError(errno.ESTALE, "another namespace by now")
        yield folder
    finally:
        os.close(folder)


def inside(place: NetNamespace, look: Callable[[], T]) -> T:
    """Return what `look` returns when called within the namespace of `place`, in a thread that ends with it.

    Needs CAP_SYS_ADMIN. Raises OSError, its own or that of `look`, or the ValueError of `look`.
    """
    found: list[T] = []
    failed: list[OSError | ValueError] = []

    def enter_and_look() -> None:
        try:
            _enter(place)
            found.append(look())
        except (OSError, ValueError) as error:
            failed.append(error)

    try:
        thread = threading.Thread(target=enter_and_look, name="inside")
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no thread to be had") from error
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def nsenter_prefix(place: NetNamespace, paths: Paths) -> str:
    """Return the words that run a command within the namespace of `place`, safe to print and to paste."""
    if place.initial:
        return ""
    named = f"{paths.named_namespaces}/"
    if place.enter.startswith(named):
        return f"ip netns exec {shlex.quote(printable(place.enter.removeprefix(named)))} "
    return f"nsenter --net={shlex.quote(printable(place.enter))} "


def _enter(place: NetNamespace) -> None:
    import ctypes  # noqa: PLC0415 - 1 MB, for hosts where /proc does not tell

    descriptor = os.open(place.enter, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if os.fstat(descriptor).st_ino != place.namespace:
            raise OSError(errno.ESTALE, "another namespace by now")
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:  # os.setns came with 3.12
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
