"""Read the kernel's messages in journal files with python-systemd's C reader. Only `journal_file` uses it, too.

`systemd.journal.Reader` is built on `systemd._reader`. Without that class the daemon is 2.4 MB smaller, and reading an
entry takes 2 µs instead of 16.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from systemd import _reader

from conntrackd_guard.core.kernel_messages import MARKS, KernelEvent, recognise
from conntrackd_guard.host import files

READ_ERRORS = (OSError, ValueError, KeyError, RuntimeError)
"""Raised for damaged, vanishing or foreign files. UnicodeDecodeError is a ValueError."""

MATCHES = ("_TRANSPORT=kernel", "SYSLOG_FACILITY=0")
"""Both are needed: messages that root writes to /dev/kmsg have the transport, too, but never facility 0."""
_OS_ROOT = 1 << 4
"""SD_JOURNAL_OS_ROOT of sd-journal.h."""
_FOLDERS = ("var/log/journal", "run/log/journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The result of one turn. `ended`: nothing is left for now; `skipped`: unreadable entries."""

    entries: int
    skipped: int
    events: tuple[KernelEvent, ...]
    cursor: str | None
    ended: bool


class KernelJournal:
    """An open journal with the kernel's own messages only: this system's, or that of the host below `root`.

    Methods raise READ_ERRORS.
    """

    def __init__(self, root: Path | None) -> None:
        self._root, own = root, None
        if root is None:
            self._reader = _reader._Reader(_reader.SYSTEM | _reader.LOCAL_ONLY)  # noqa: SLF001 - see the first lines
        else:
            self._reader = _reader._Reader(_reader.SYSTEM | _OS_ROOT, path=str(root))  # noqa: SLF001
            own = files.read_id(root / "etc/machine-id")  # LOCAL_ONLY is not allowed with a root
        try:
            for match in (
                *MATCHES,
                *((f"_MACHINE_ID={own}",) if own else ()),
            ):  # before any seek, or the place is lost
                self._reader.add_match(match)
        except BaseException:
            self._reader.close()
            raise
        try:
            self.has_inotify = self._reader.fileno() >= 0
        except OSError:  # the host is out of inotify instances
            self.has_inotify = False

    def close(self) -> None:
        """Unmap the files."""
        self._reader.close()

    def exists(self) -> bool:
        """Return whether there is any journal file that can be read."""
        if self._root is not None:  # has_persistent_files() of libsystemd 252 is false for every root
            return any(reason is None for _, reason in files_below(self._root))
        return self._reader.has_runtime_files() or self._reader.has_persistent_files()

    def process(self) -> None:
        """Process that files were added, removed or rotated. Without it a follower misses everything after a rotation."""
        self._reader.process()

    def place_after(self, cursor: str) -> bool | None:
        """Move so that the next entry is the first after `cursor`; return whether the current entry is itself new.

        It is if the saved one was vacuumed: read it first. None: there is nothing at or after the cursor, which is from
        the future (a clock set back) or another journal. Raises ValueError for a malformed cursor.
        """
        self._reader.seek_cursor(cursor)
        if not self._reader._next():  # noqa: SLF001
            return None
        return not self._reader.test_cursor(cursor)

    def place_at_end(self) -> None:
        """Move to the newest entry, so that the next one is the first to come."""
        self._reader.seek_tail()
        if not self._reader._previous():  # noqa: SLF001
            self._reader.seek_head()  # else a reader of systemd 257 that found nothing never finds anything

    def place_at_start(self) -> None:
        """Move before the oldest entry."""
        self._reader.seek_head()

    def here(self) -> tuple[str, int | None]:
        """Return boot id and kernel timestamp (µs) of the current entry; empty and None if there is none."""
        try:
            stamp = self._get("_SOURCE_MONOTONIC_TIMESTAMP")
            return _dashed(self._get("_BOOT_ID")), int(stamp) if stamp.isdigit() else None
        except READ_ERRORS:
            return "", None

    def cursor(self) -> str | None:
        """Return the cursor of the current entry, None if there is none or it can't be read."""
        try:
            return self._reader._get_cursor()  # noqa: SLF001
        except READ_ERRORS:
            return None

    def drain(self, most: int, *, this_one_first: bool = False) -> Drained:
        """Read up to `most` entries; `this_one_first` begins with the current one.

        Raises if the first step fails; a later failure only ends the turn.
        """
        entries = skipped = 0
        events: list[KernelEvent] = []
        ended = False
        while entries < most:
            try:
                if not (this_one_first and entries == 0) and not self._reader._next():  # noqa: SLF001
                    ended = True
                    break
            except READ_ERRORS:
                if entries:
                    break  # the next turn meets the damage again
                raise
            entries += 1
            try:
                if (event := self._event()) is not None:
                    events.append(event)
            except READ_ERRORS:
                skipped += 1
        cursor = self.cursor() if entries else None
        return Drained(entries=entries, skipped=skipped, events=tuple(events), cursor=cursor, ended=ended)

    def _event(self) -> KernelEvent | None:
        """Return the current entry as an event, None if it doesn't concern the guard."""
        message = self._get("MESSAGE")
        if not any(mark in message for mark in MARKS):
            return None
        recognised = recognise(message.decode("utf-8", "replace"))
        if recognised is None:
            return None
        boot_id, stamp_us = self.here()
        return KernelEvent(
            message=recognised,
            stamp_us=stamp_us,
            boot_id=boot_id,
            source="journal",
            cursor=self.cursor(),
            wall_seconds=self._reader._get_realtime() / 1e6,  # noqa: SLF001
        )

    def _get(self, field: str) -> bytes:
        """Return a field of the current entry (the first, if it is repeated), empty if it is absent."""
        try:
            return self._reader._get(field)  # noqa: SLF001
        except KeyError:
            return b""


def files_below(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield the system's journal files below `root`, each with why this libsystemd can't read it, None if it can.

    Opening a journal skips such files without an error: a newer journald may have written them.
    """
    for path in sorted(chain.from_iterable((root / folder).rglob("system*.journal") for folder in _FOLDERS)):
        reason = None
        try:
            _reader._Reader(0, files=[str(path)]).close()  # noqa: SLF001
        except FileNotFoundError:
            continue  # rotated away
        except READ_ERRORS as error:
            reason = getattr(error, "strerror", None) or str(error)
        yield path, reason


def newest_message(root: Path | None) -> tuple[bool, str, int | None]:
    """Return whether there is a journal, and boot id and kernel timestamp (µs) of the newest kernel message in it.

    Raises READ_ERRORS.
    """
    with contextlib.closing(KernelJournal(root)) as journal:
        if not journal.exists():
            return False, "", None
        journal.place_at_end()
        return True, *journal.here()


def _dashed(content: bytes) -> str:
    """Return a boot id as in /proc/sys/kernel/random/boot_id; the journal omits the dashes."""
    text = content.decode("ascii", "replace")
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
