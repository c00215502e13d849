"""Configuration in several folders (`*.d`): a file in an earlier folder masks a file of the same name in a later one."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from conntrackd_guard.core.sysctl_precedence import (
    FOLDERS,
    LAST_FOLDER,
    LAST_NAME,
    LIMIT_KEYS,
    Assignment,
    SysctlFile,
    Tool,
    writes,
)
from conntrackd_guard.host import files

MAX_BYTES = 1 << 20
"""Larger files are not read: a hundred times what such a file holds."""


def list_files(root: Path, folders: Iterable[str], suffix: str) -> Iterator[tuple[str, Path]]:
    """Yield (folder, file) for every name with that suffix, masked and hidden ones included. Never raises."""
    for folder in folders:
        here = root / folder.lstrip("/")
        try:
            names = sorted(name for name in os.listdir(here) if name.endswith(suffix))
        except OSError:
            continue
        for name in names:
            yield folder, here / name


def effective_files(root: Path, folders: Iterable[str], suffix: str) -> list[Path]:
    """Return the files that no other masks, in name order. Never raises."""
    by_name: dict[str, Path] = {}
    for _, path in list_files(root, folders, suffix):
        if not path.name.startswith("."):
            by_name.setdefault(path.name, path)
    return [by_name[name] for name in sorted(by_name)]


def matching(root: Path, pattern: str) -> list[Path]:
    """Return the files below `root` with such a path, sorted; none if a folder can't be read. Never raises."""
    try:
        return sorted(root.glob(pattern))
    except OSError:
        return []


def read_text(path: Path) -> str | None:
    """Return a file's content: "" if it is missing or not a regular file, None if it can't be read or is too large."""
    try:
        return files.read(path, MAX_BYTES).decode("utf-8", "surrogateescape")
    except (FileNotFoundError, files.NotRegular):
        return ""  # a dangling link, or a link to /dev/null
    except OSError:
        return None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line) for each line that is neither empty nor a comment (`#`, `;`); nothing if unreadable."""
    for number, row in enumerate((read_text(path) or "").split("\n"), start=1):
        line = row.strip()
        if line and not line.startswith(("#", ";")):
            yield number, line


def sysctl_files(root: Path) -> list[SysctlFile]:
    """Return every file that systemd-sysctl or `sysctl --system` may read. Never raises."""
    found = [_sysctl_file(folder, path) for folder, path in list_files(root, FOLDERS, ".conf")]
    last = root / LAST_FOLDER.lstrip("/") / LAST_NAME
    return [*found, _sysctl_file(LAST_FOLDER, last)] if os.path.lexists(last) else found


def assignments(root: Path, keys: tuple[str, ...] = LIMIT_KEYS) -> list[Assignment]:
    """Return every line that sets the limit (or another of `keys`), in the order of `sysctl --system`. Never raises."""
    return list(writes(sysctl_files(root), Tool.PROCPS, keys))


def _sysctl_file(folder: str, path: Path) -> SysctlFile:
    try:
        link = os.readlink(path)
    except OSError:  # not a link
        link = ""
    return SysctlFile(folder=folder, name=path.name, path=str(path), content=read_text(path), link=link)
