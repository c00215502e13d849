"""What can stand at the path of a file instead of it, made by a mistake or by malice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

MB = 1_000_000


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'{"a": "')
        file.truncate(100 * MB)


def _digits(path: Path) -> None:
    path.write_text('{"version": 1, "until_seconds": ' + "9" * 5000 + "}\n")


KINDS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a folder that is not empty": lambda path: (path / "inside").mkdir(parents=True),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a dangling link": lambda path: path.symlink_to(path.with_name("nowhere") / "nothing"),
    "JSON 100,000 deep": lambda path: path.write_bytes(b'{"a":' * 100_000),
    "5,000 digits": _digits,
    "an infinite number": lambda path: path.write_text(json.dumps({"until_seconds": 1.0}).replace("1.0", "1e999")),
    "bytes that are no text": lambda path: path.write_bytes(bytes(range(256)) * 100),
    "100 MB": _huge,
}
"""Each makes one at a path where nothing is."""


def replace(path: Path, kind: str) -> None:
    """Put that kind of file at a path, with its folders, instead of the file that may be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    KINDS[kind](path)
