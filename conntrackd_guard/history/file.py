"""Open a history file: folders, rights, migrations, damage, and readers without write permission."""

import errno
import grp
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.history.schema import MIGRATIONS

FOLDER_MODE: Final = 0o750
FILE_MODE: Final = 0o640
READERS: Final = "adm"
"""Debian's group of those who may read logs."""

BUSY_MS: Final = 5000
CACHE_KIB: Final = 256
"""SQLite's page cache in the guard. Its default, 2,000 KiB, is a twelfth of what the guard may take."""
WAL_BYTES: Final = 4 * 2**20
CHECK_BYTES: Final = 32 * 2**20
"""Up to this size a file that was not closed cleanly is checked at start (some 50 ms). WAL itself survives kill -9
and a power cut; only a broken disk damages a file, and in a larger one a bad page is found when it is first read."""

CHECK_SECONDS: Final = 5.0
"""For the pages of a file that became smaller."""
PROGRESS_STEPS: Final = 10_000
"""SQLite's steps between two readings of the clock: well under a millisecond."""

_SUFFIXES: Final = ("", "-wal", "-shm")
"""Of the files of one database."""
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NEXT_STEPS: Final = {
    sqlite3.SQLITE_FULL: "Free space on that file system.",
    sqlite3.SQLITE_READONLY: "Make the file and its folder writable for the guard.",
    sqlite3.SQLITE_CANTOPEN: "Check that the folder exists and that you may enter it.",
    sqlite3.SQLITE_BUSY: "Another process holds the file; try again.",
    sqlite3.SQLITE_IOERR: "Check the disk: the kernel's log has the cause.",
}


class HistoryDamaged(HostError):  # noqa: N818 - a state of the file
    """The file is no intact SQLite database: `set_aside` it and start a new one."""


@contextmanager
def translate_errors(action: str, path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into HostError, or HistoryDamaged if the file is not intact."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
        cause = OSError(None, str(error))
        if code in _DAMAGE:
            next_step = "It is set aside when the guard starts or next writes."
            raise HistoryDamaged(action, path, cause, next_step) from error
        raise HostError(action, path, cause, _NEXT_STEPS.get(code, "See the message of SQLite.")) from error
    except OSError as error:
        denied = isinstance(error, PermissionError)
        next_step = f"Run as root or as a member of {READERS}." if denied else "Check that folder and disk."
        raise HostError(action, path, error, next_step) from error


def connect(path: Path, *, writes: bool, traceless: bool = False) -> tuple[sqlite3.Connection, str]:
    """Open the file and return it with a note for people, which may be empty.

    A writer creates folder and file and migrates an older schema. A `traceless` reader leaves no -wal and -shm behind;
    it is for a short read only.
    HostError: not there, not permitted, or written by a newer guard. HistoryDamaged: not intact.
    """
    with translate_errors("open the history", path):
        database, note = _writer(path) if writes else _reader(path, traceless=traceless)
        try:
            _check_version(database, path, writes=writes)
        except BaseException:
            database.close()
            raise
        return database, note


class OpenFile:
    """The files behind an open connection, to notice when other ones are at their place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {suffix: _identity(path, suffix) for suffix in _SUFFIXES}
        self._size = 0

    def change(self) -> str:
        """Return what happened to the file since, as the end of a sentence; "" if nothing did.

        Raises HostError, or HistoryDamaged if a part of the file was cut off.
        """
        with translate_errors("look for", self._path):
            try:
                status = self._path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return "was removed or renamed"
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                return "was replaced"
            if (status.st_dev, status.st_ino) != self._known[""]:
                return "was replaced"
        was, self._size = self._size, status.st_size
        if self._size < was:
            self._expect_sound(f"cut from {was:,} to {self._size:,} bytes")
        return ""

    def _expect_sound(self, what: str) -> None:
        """Raise HistoryDamaged unless a new connection, which has no page in memory, finds the file sound: VACUUM cuts it too."""
        try:
            other, _ = connect(self._path, writes=False)
            with closing(other), translate_errors("check", self._path):
                check_pages(other, self._path, CHECK_SECONDS)
        except HostError as error:
            raise HistoryDamaged("check", self._path, OSError(None, what), "It is set aside.") from error

    def leave(self, database: sqlite3.Connection) -> None:
        """Close the connection to a file that is elsewhere by now: it gets all of its WAL, and none stays for the next one."""
        with suppress(sqlite3.Error):
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with suppress(sqlite3.Error):
            database.close()
        if _identity(self._path, "") != self._known[""]:
            for suffix in _SUFFIXES[1:]:
                if _identity(self._path, suffix) == self._known[suffix]:
                    with translate_errors("remove the rest of", self._path):
                        self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def _identity(path: Path, suffix: str) -> tuple[int, int] | None:
    try:
        status = path.with_name(path.name + suffix).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def set_aside(path: Path, now: float, damage: HistoryDamaged) -> str:
    """Move a damaged file and its WAL aside and return the message to log. `now`: wall seconds."""
    aside = path.with_name(f"{path.name}.corrupt-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}")
    with translate_errors("set aside the damaged history", path):
        for suffix in _SUFFIXES:
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return (
        f"The history {path} is damaged ({damage.cause}). Moved it to {aside} and started a new one. "
        f"To read the rest of it: sqlite3 {aside} .recover"
    )


def _writer(path: Path) -> tuple[sqlite3.Connection, str]:
    _make_folder(path.parent)
    for suffix in _SUFFIXES:
        _expect_file(path.with_name(path.name + suffix), is_beside=bool(suffix))
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, FILE_MODE))
    _hand_to_readers(path, FILE_MODE)
    wal = path.with_name(path.name + "-wal")
    unclean = wal.exists() and wal.stat().st_size > 0  # a clean close removes it
    database = _open(path, "rw")
    try:
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if unclean and path.stat().st_size <= CHECK_BYTES:
            check_pages(database, path)
    except BaseException:
        database.close()
        raise
    return database, ""


def check_pages(database: sqlite3.Connection, path: Path, seconds: float = float("inf")) -> bool:
    """Raise HistoryDamaged if a page is damaged (some 50 ms for `CHECK_BYTES`); return False if not done in `seconds`."""
    deadline = time.monotonic() + seconds
    database.set_progress_handler(lambda: time.monotonic() > deadline, PROGRESS_STEPS)
    try:
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return False
    finally:
        database.set_progress_handler(None, 0)
    if found != "ok":
        raise HistoryDamaged("check", path, OSError(None, found), "It is set aside when the guard starts.")
    return True


def _expect_file(path: Path, *, is_beside: bool = False) -> None:
    """Raise HistoryDamaged if something else than a regular file is at `path`.

    A dangling link is an unmounted disk, unless it is in place of a file that SQLite keeps beside the history (`is_beside`).
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        if not is_beside or not path.is_symlink():
            return
        regular = False
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        regular = False
    if not regular:
        raise HistoryDamaged(
            "open", path, OSError(None, "not a regular file"), "It is set aside when the guard starts."
        )


def _reader(path: Path, *, traceless: bool) -> tuple[sqlite3.Connection, str]:
    """Open for reading; if SQLite may not create its -shm file, read the file alone, without the WAL."""
    _expect_file(path)
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # names "not there" and "not permitted" better than SQLite
    wal = path.with_name(path.name + "-wal")
    if traceless and not wal.exists():
        return _open(path, "ro&immutable=1"), ""  # nobody has it open, so the file is complete
    database = _open(path, "ro")
    try:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        database.close()
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        behind = wal.exists() and wal.stat().st_size > 0
        note = f"The newest decisions are in {wal}, which only root can read here." if behind else ""
        return _open(path, "ro&immutable=1"), note
    return database, ""


def _open(path: Path, mode: str) -> sqlite3.Connection:
    """Open an existing file. One connection is used by one thread at a time: the recorder's, once it runs."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False)


def _check_version(database: sqlite3.Connection, path: Path, *, writes: bool) -> None:
    """Migrate an older schema (writer), or refuse one that this version can't read."""
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    known = len(MIGRATIONS)
    if version > known:
        cause = OSError(None, f"it has schema {version}, this guard knows {known}")
        raise HostError("use the history", path, cause, "Use the newer guard that wrote it, or move the file away.")
    if version < known and not writes:
        cause = OSError(None, f"it has schema {version}, this guard reads {known}")
        raise HostError("read the history", path, cause, "Start the guard once: it migrates the file.")
    for number in range(version, known):
        database.execute("BEGIN IMMEDIATE")
        for statement in MIGRATIONS[number]:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {number + 1}")
        database.execute("COMMIT")


def _make_folder(folder: Path) -> None:
    """Create the folder for root and the readers; one that systemd created for root alone is opened to them."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        _hand_to_readers(folder, FOLDER_MODE)
    elif (folder.stat().st_mode & 0o777, folder.stat().st_gid) == (FOLDER_MODE, 0):
        _hand_to_readers(folder, FOLDER_MODE)


def _hand_to_readers(path: Path, mode: int) -> None:
    """Give the path to the group of readers. Without permission (no CAP_CHOWN, not in the group) it stays root's."""
    path.chmod(mode)
    with suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(READERS).gr_gid)
