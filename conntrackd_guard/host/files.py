"""Read small files whole, replace files atomically, report what the host refuses."""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from conntrackd_guard.core.errors import HostError

_CHUNK_BYTES = 16 * 1024
_NUMBER_BYTES = 64
"""The kernel allocates a buffer of the size of a sysctl read: 1 MiB takes 0.35 ms, this takes 5 µs."""


@contextlib.contextmanager
def translate_errors(action: str, path: object, next_step: str, by_errno: Mapping[int, str] = {}) -> Iterator[None]:
    """Turn the system's errors into HostError; `by_errno` has other next steps for some of them."""
    try:
        yield
    except OSError as error:
        raise HostError(action, path, error, by_errno.get(error.errno or 0, next_step)) from error


def read(path: str | Path) -> bytes:
    """Return the content of a small file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = chunk = os.read(descriptor, _CHUNK_BYTES)
        while chunk:  # statistics of many CPUs come in parts
            chunk = os.read(descriptor, _CHUNK_BYTES)
            content += chunk
        return content
    finally:
        os.close(descriptor)


def read_number(path: str | Path) -> int:
    """Return the number at the start of a file in /proc or /sys. Raises OSError, or ValueError if there is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int((os.read(descriptor, _NUMBER_BYTES).split(None, 1) or [b""])[0])
    finally:
        os.close(descriptor)


def read_regular(path: Path, enough_bytes: int, flags: int = 0) -> bytes | None:
    """Return the content of a regular file, at least `enough_bytes` of a larger one; None of anything else.

    `flags` are more flags for open(2). Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)  # opening a FIFO must not block
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = b""
        while len(content) < enough_bytes and (chunk := os.read(descriptor, _CHUNK_BYTES)):
            content += chunk
        return content
    finally:
        os.close(descriptor)


def read_id(path: Path) -> str | None:
    """Return the id in a file, as the kernel's of this boot; None if it can't be read or is empty."""
    try:
        return read(path).decode("ascii", "replace").strip() or None
    except OSError:
        return None


def read_boot_id(path: Path) -> str:
    """Return the id of this boot. Raises HostError."""
    step = "Mount /proc (`mount -t proc proc /proc` in a chroot), or run this on the host itself."
    with translate_errors("read", path, step):
        return read(path).decode("ascii", "replace").strip()


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


def sync_folder(folder: Path | str) -> None:
    """Sync the names created or removed in a folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
