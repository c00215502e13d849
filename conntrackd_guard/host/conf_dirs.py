"""Configuration in several folders: a file in an earlier one masks a file of the same name in a later one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST_BYTES = 1 << 20
"""Beyond this a file is not read: a hundred times what such a file holds."""


def listed(root: Path, folders: Iterable[str], suffix: str) -> Iterator[tuple[str, Path]]:
    """Yield (folder, file) for every name with that suffix, masked or not, hidden or not. Never raises."""
    for folder in folders:
        here = root / folder.lstrip("/")
        try:
            names = sorted(name for name in os.listdir(here) if name.endswith(suffix))
        except OSError:
            continue
        for name in names:
            yield folder, here / name


def unmasked(root: Path, folders: Iterable[str], suffix: str) -> list[Path]:
    """Return the files in force, in name order. Never raises."""
    by_name: dict[str, Path] = {}
    for _, path in listed(root, folders, suffix):
        if not path.name.startswith("."):
            by_name.setdefault(path.name, path)
    return [by_name[name] for name in sorted(by_name)]


def text(path: Path) -> str | None:
    """Return a file's content, "" for what is no regular file or not there, None where it can't be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not make it wait
    except FileNotFoundError:
        return ""  # a link that leads nowhere
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""  # /dev/null above all
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return content.decode("utf-8", "surrogateescape") if len(content) <= MOST_BYTES else None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line) for what is neither empty nor a comment (`#`, `;`); nothing where it can't be read."""
    for number, row in enumerate((text(path) or "").split("\n"), start=1):
        line = row.strip()
        if line and not line.startswith(("#", ";")):
            yield number, line
