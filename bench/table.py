"""The table that a run prints."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement of one contender."""

    what: str
    who: str
    figure: str
    ratio: str = ""
    """Relative to other contenders of the same run."""
    target: str = ""
    met: bool | None = None


_VERDICT = {True: " — met", False: " — MISSED", None: ""}
_HEADS = ("measured", "who", "figure", "ratio", "target")


def render(rows: Iterable[Row]) -> str:
    """Return the rows as an aligned table, headed by the machine."""
    lines = [_HEADS] + [(row.what, row.who, row.figure, row.ratio, row.target + _VERDICT[row.met]) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([f"{_machine()}", "", *text])


def _machine() -> str:
    meminfo = Path("/proc/meminfo").read_text("ascii").splitlines()
    memory_kib = next(int(line.split()[1]) for line in meminfo if line.startswith("MemTotal"))
    processors = Path("/proc/stat").read_text("ascii").count("\ncpu")
    return f"Linux {platform.release()}, {processors} processors, {memory_kib / 2**20:.0f} GiB"
