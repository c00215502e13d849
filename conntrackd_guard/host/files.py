"""Small files: read in one go, replaced in one step."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_CHUNK_BYTES = 16 * 1024
_NUMBER_BYTES = 64
"""The kernel allocates as much as a sysctl's reader asks for: 1 MiB costs 0.35 ms, this costs 5 µs."""


def read(path: str | Path) -> bytes:
    """Return the content of a small file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = chunk = os.read(descriptor, _CHUNK_BYTES)
        while chunk:  # a statistics file of many CPUs comes in parts
            chunk = os.read(descriptor, _CHUNK_BYTES)
            content += chunk
        return content
    finally:
        os.close(descriptor)


def read_number(path: str | Path) -> int:
    """Return the number that a file of /proc or /sys begins with. Raises OSError, or ValueError where there is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int((os.read(descriptor, _NUMBER_BYTES).split(None, 1) or [b""])[0])
    finally:
        os.close(descriptor)


def replace(path: Path | str, content: bytes, *, mode: int = 0o644, durable: bool) -> None:
    """Put `content` at `path` so that a reader sees the old file or the new one, never half of it.

    `durable` also survives a power cut (fsync of the file and its folder); leave it out under /run.
    Raises OSError; the temporary file is gone in every case.
    """
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(temporary, flags, mode)
        except FileExistsError:  # a kill left it, or somebody lies in wait in a shared folder: nothing of it is kept
            os.unlink(temporary)
            descriptor = os.open(temporary, flags, mode)
        try:
            left = memoryview(content)
            while left:  # a nearly full disk takes a part first, and says so at the next write only
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
    """Make names created or removed in `folder` survive a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
