"""Read the kernel's messages in one journal file from its start to its end, wherever it comes from.

A file at a time: libsystemd skips damaged files without an error when it opens several, and then nobody can name them.
Measured: 260,000 kernel entries a second on one core through the file's own index (systemd 252, every other entry a
kernel's). `journalctl -o cat` reads 220,000.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from systemd import _reader

from conntrackd_guard.core.kernel_messages import MARKS
from conntrackd_guard.host.kernel_log.journal_reader import MATCHES, READ_ERRORS

BOOT_MARKS = (b"Linux version ", b"Memory: ", b"smp: Brought up ", b"Brought up ", b"Out of memory: ")
"""Beginnings of the messages that describe the host."""
MOST_UNREADABLE = 1000
"""Entries of a file that can't be read, after which the rest is not worth trying (judgement)."""


class Found(NamedTuple):
    """A kernel message that may concern the guard, or describes the host."""

    wall_seconds: float
    """When the journal received it."""
    message: bytes


class JournalFile:
    """An open journal file. Use it as a context manager; all but `close` raise READ_ERRORS for a damaged file."""

    def __init__(self, path: Path) -> None:
        self._reader = _reader._Reader(0, files=[str(path)])  # noqa: SLF001 - as `journal_reader` explains
        self.entries = self.unreadable = 0
        """Kernel entries read, and those of them that could not be."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def values(self, field: str) -> set[str]:
        """Return the values that a field has anywhere in the file, from its index."""
        return {value.decode("utf-8", "replace") for value in self._reader.query_unique(field)}

    def search(self) -> Iterator[Found]:
        """Yield the kernel's own messages with one of MARKS, or that begin with one of BOOT_MARKS, in the file's order."""
        self._reader.flush_matches()
        for match in MATCHES:
            self._reader.add_match(match)
        self._reader.seek_head()
        step, get, realtime = self._reader._next, self._reader._get, self._reader._get_realtime  # noqa: SLF001
        full, suppressed, overflow = MARKS
        while step():
            self.entries += 1
            try:
                message = get("MESSAGE")
                if (
                    full in message or suppressed in message or overflow in message or message.startswith(BOOT_MARKS)
                ):  # unrolled: `any` with a generator takes three times as long
                    yield Found(realtime() / 1e6, message)
            except KeyError:  # without a message
                continue
            except READ_ERRORS:
                self.unreadable += 1
                if self.unreadable >= MOST_UNREADABLE:
                    raise
        self._check_complete()

    def _check_complete(self) -> None:
        """Count the entries backward, too: where an index is broken, libsystemd ends early or skips entries without an error.

        The second count takes 1 µs an entry. It finds all such readings in 500 damaged files (systemd 252).
        """
        reader = self._reader
        reached = reader._get_cursor() if self.entries else None  # noqa: SLF001
        reader.seek_tail()
        backward = _count(reader._previous)  # noqa: SLF001
        if backward != self.entries:  # or journald has added some meanwhile
            reader.seek_head() if reached is None else reader.seek_cursor(reached)
            added = _count(reader._next) - (reached is not None)  # noqa: SLF001
            if not self.entries <= backward <= self.entries + added:
                raise OSError(errno.EBADMSG, "its index is broken")


def _count(step: Callable[[], bool]) -> int:
    count = 0
    while step():
        count += 1
    return count


def reason(error: Exception) -> str:
    """Return the reason of one of READ_ERRORS."""
    with contextlib.suppress(AttributeError):
        if error.strerror:  # type: ignore[attr-defined]
            return str(error.strerror)  # type: ignore[attr-defined]
    return str(error) or type(error).__name__
