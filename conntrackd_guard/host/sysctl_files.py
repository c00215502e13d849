"""Who else sets the limit at boot: the files that systemd-sysctl and `sysctl --system` read."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
_KEYS = ("net/netfilter/nf_conntrack_max", "net/nf_conntrack_max")
"""The second is an alias of the same variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One line that sets the limit."""

    path: Path
    line: int
    value: str


def assignments(root: Path) -> list[Assignment]:
    """Return every line that sets the limit, in the order in which systemd-sysctl applies the files. Never raises."""
    by_name: dict[str, Path] = {}
    for folder in FOLDERS:
        for path in sorted((root / folder).glob("*.conf")):
            by_name.setdefault(path.name, path)  # the earlier folder masks the later
    files = [by_name[name] for name in sorted(by_name)]
    if (root / "etc/sysctl.conf").exists():
        files.append(root / "etc/sysctl.conf")  # procps applies it last of all
    return [found for path in files for found in _of_file(path)]


def _of_file(path: Path) -> list[Assignment]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for number, row in enumerate(text.splitlines(), start=1):
        name, equals, value = row.strip().partition("=")
        if not equals or name.startswith(("#", ";")):
            continue
        key = _normal(name.strip().removeprefix("-"))
        if any(fnmatch.fnmatchcase(wanted, key) for wanted in _KEYS):
            found.append(Assignment(path=path, line=number, value=value.strip()))
    return found


def _normal(name: str) -> str:
    """`.` and `/` are one separator; the first of them decides which one the name is written with."""
    first = next((char for char in name if char in "./"), "/")
    return name if first == "/" else name.translate(str.maketrans("./", "/."))
