"""Small files: read in one go, replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

_MOST_BYTES = 1 << 20
"""More than any file read this way holds (a statistics file is about 200 bytes a CPU)."""


def read(path: str | Path) -> bytes:
    """Return the content of a small file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes, *, mode: int = 0o644, durable: bool) -> None:
    """Put `content` at `path` so that a reader sees the old file or the new one, never half of it.

    `durable` also survives a power cut (fsync of the file and its folder); leave it out under /run.
    Raises OSError; the temporary file is gone in every case.
    """
    temporary = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
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
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names created or removed in `folder` survive a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
