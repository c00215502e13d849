"""Read small files whole, replace files atomically, report what the host refuses.

Every file of /proc, /sys, /etc and /run is untrusted text. The readers are bounded. What they return is whole and of the
expected form; everything else is an OSError or a ValueError, whatever the file contains.
"""

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_bytes

CHUNK_BYTES = 16 * 1024
MOST_BYTES = 16 << 20
"""More than any file read whole: the statistics of 4,096 CPUs take 600 KiB, a list of 50,000 mounts 10 MiB."""
JSON_BYTES = 1 << 20
"""Fifty times a record with its evidence."""
_ID_BYTES = 4096
_ASIDE_CHARACTERS = 50
"""Kept of the name of a file that is set aside, so that it stays within 255 bytes."""
NUMBER_BYTES = 64
"""The kernel allocates a buffer of the size of a sysctl read: 1 MiB takes 0.35 ms, this takes 5 µs."""
NUMBER = re.compile(rb"\s*([0-9]{1,18})\s")
"""A count or a size in /proc or /sys. The blank after it shows that the number was not cut short."""
_SIGNED = re.compile(rb"\s*(-?[0-9]{1,18})\s")
_ID = re.compile(rb"\s*([0-9A-Za-z._+~-]{1,64})\s+")


@contextlib.contextmanager
def translate_errors(action: str, path: object, next_step: str, by_errno: Mapping[int, str] = {}) -> Iterator[None]:
    """Turn the system's errors into HostError; `by_errno` has other next steps for some of them."""
    try:
        yield
    except OSError as error:
        raise HostError(action, path, error, by_errno.get(error.errno or 0, next_step)) from error


class NotRegular(OSError):  # noqa: N818 - a state of the file
    """The path leads to a folder, a FIFO, a socket or a device."""


def read(path: str | Path, most_bytes: int = MOST_BYTES, flags: int = 0) -> bytes:
    """Return the content of a regular file; `flags` are more flags for open(2).

    Raises OSError, also for more than `most_bytes`; NotRegular for anything but a regular file, of which nothing is read.
    """
    chunks, left = list[bytes](), most_bytes
    descriptor = open_read(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegular(errno.EINVAL, "not a regular file")
        while status.st_size <= most_bytes and left >= 0 and (chunk := os.read(descriptor, CHUNK_BYTES)):
            chunks.append(chunk)  # statistics of many CPUs come in parts, and no file of /proc has a size
            left -= len(chunk)
    finally:
        os.close(descriptor)
    if status.st_size > most_bytes or left < 0:
        raise OSError(errno.EFBIG, f"larger than {format_bytes(most_bytes)}")
    return b"".join(chunks)


def read_number(path: str | Path, *, signed: bool = False) -> int:
    """Return the whole number at the start of a file in /proc or /sys, which may be negative if it is `signed`.

    Raises OSError, or ValueError if there is none.
    """
    descriptor = open_read(path)
    try:
        match = (_SIGNED if signed else NUMBER).match(os.read(descriptor, NUMBER_BYTES))
    finally:
        os.close(descriptor)
    if match is None:
        raise ValueError("no whole number")
    return int(match[1])


def read_id(path: Path) -> str | None:
    """Return the id in a file, as the kernel's of this boot; None if it can't be read, or is empty or cut short."""
    try:
        match = _ID.fullmatch(read(path, _ID_BYTES))
    except OSError:
        return None
    return None if match is None else match[1].decode()


def read_json(path: Path | str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises OSError, or ValueError for anything else."""
    return parse_json(read(path, JSON_BYTES))


def parse_json(content: bytes) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError for anything else, also for what `json` reads beyond JSON (NaN)."""
    try:
        found = json.loads(content, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("no object")  # noqa: TRY004 - a fault of the content, not of the caller
    return found


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def open_read(path: str | Path, flags: int = 0) -> int:
    """Open a file to read; a FIFO does not block. Raises OSError, also for a path with a NUL."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    except ValueError as error:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error


def open_lock(path: Path) -> int:
    """Open or create a file to lock, not through a link. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegular(errno.EINVAL, "not a regular file")
    return descriptor


def read_boot_id(path: Path) -> str:
    """Return the id of this boot, "" if the file has no valid one. Raises HostError where /proc is not mounted."""
    if not os.path.lexists(path):
        step = "Mount /proc (`mount -t proc proc /proc` in a chroot), or run this on the host itself."
        raise HostError("read", path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), step)
    return read_id(path) or ""


def replace(path: Path | str, content: bytes, *, mode: int = 0o644, durable: bool) -> None:
    """Replace a file atomically: readers see the old content or the new one. `mode` ignores the umask.

    With `durable`, file and folder are synced, to survive a power cut; not needed under /run.
    Raises OSError; the temporary file is removed in every case.
    """
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(temporary, flags, mode)
        except FileExistsError:  # left by a kill, or planted in another user's folder: not followed
            os.unlink(temporary)
            descriptor = os.open(temporary, flags, mode)
        try:
            os.fchmod(descriptor, mode)
            left = memoryview(content)
            while left:  # a nearly full disk may write a part first, and fail at the next write
                left = left[os.write(descriptor, left) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(folder)


def set_aside(path: Path) -> str:
    """Rename a file, folder or link to a hidden name beside it and return that, safe to print. Raises HostError."""
    aside = path.with_name(f".set-aside-{path.name[:_ASIDE_CHARACTERS]}-{time.time_ns():x}")
    with translate_errors("set aside", path, "Remove it by hand."):
        os.rename(path, aside)
    return printable(str(aside))


def sync_folder(folder: Path | str) -> None:
    """Sync the names created or removed in a folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
