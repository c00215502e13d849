"""Simulate systemd-sysctl and `sysctl --system`: which line of which sysctl file finally sets the limit.

Pure: the files come from `host.conf_dirs`. The rules are those of systemd 252 to 257 and procps 4.0.2 to 4.0.4; a test
compares this module with the programs themselves. Keys are assumed to exist, as after the module has loaded. Braces in
a glob (systemd only) and `..` in a key are not supported.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from conntrackd_guard.core.limits import MODULUS, signed
from conntrackd_guard.core.model import INT_MAX

FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
"""A file in an earlier folder masks one of the same name in a later folder."""
LAST_FOLDER, LAST_NAME = "/etc", "sysctl.conf"
"""/etc/sysctl.conf: procps reads it last, systemd only through a link in one of FOLDERS."""
LIMIT_KEYS = ("net/netfilter/nf_conntrack_max", "net/nf_conntrack_max")
"""The second is an alias of the same variable."""
BUCKET_KEYS = ("net/netfilter/nf_conntrack_buckets",)

_NUMBER = re.compile(r"(-?)(0[xX][0-9a-fA-F]+|(0[0-7]*)|[1-9][0-9]{0,9})(?![^ \t])")
"""The kernel reads the first number of a value, followed by white space or nothing; more digits exceed INT_MAX."""


class Tool(StrEnum):
    """A program that applies sysctl files: the first at boot, the second when called."""

    SYSTEMD = "systemd-sysctl"
    PROCPS = "sysctl --system"


@dataclass(frozen=True, slots=True, kw_only=True)
class SysctlFile:
    """A file in one of FOLDERS, or /etc/sysctl.conf."""

    folder: str
    name: str
    path: str
    """For people; includes the root of a test's tree."""
    content: str | None
    """None if unreadable."""
    link: str = ""
    """Its target, if it is a link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A line that sets the limit."""

    path: str
    line: int
    value: str
    link: str = ""

    @property
    def number(self) -> int | None:
        """The value as the kernel reads it (hexadecimal, octal, -1 as 4,294,967,295), None if no kernel takes it."""
        found = _NUMBER.match(self.value)
        if found is None:
            return None
        sign, text, octal = found.groups()
        number = int(text, 8 if octal else 0)
        if number > INT_MAX + bool(sign):
            return None
        return -number % MODULUS if sign else number

    def is_accepted(self, lowest: int) -> bool:
        """Return whether the kernel takes the value; `lowest` is the lowest that it takes (`limits.lowest_accepted`)."""
        return self.number is not None and signed(self.number) >= lowest


class _Setting(NamedTuple):
    """A parsed line."""

    key: str
    """A path below /proc/sys; for procps as spelled in the file."""
    assignment: Assignment
    writes: bool
    """Whether it has a value; without one it only excludes the key from globs."""


def final_assignment(
    files: Iterable[SysctlFile], tool: Tool, lowest: int = 0, keys: tuple[str, ...] = LIMIT_KEYS
) -> Assignment | None:
    """Return the line that finally sets the limit (or another of `keys`), None if the tool leaves it unset.

    `lowest`: see `Assignment.is_accepted`.
    """
    return next((line for line in reversed(writes(files, tool, keys)) if line.is_accepted(lowest)), None)


def overriding(
    files: Sequence[SysctlFile], tool: Tool, ours: str, lowest: int = 0, keys: tuple[str, ...] = LIMIT_KEYS
) -> tuple[int, Assignment] | None:
    """Return what the file `ours` sets, and the line that has it end at another value; None if no line does.

    It may be a line that the kernel refuses, or one without a value: then it ends unset.
    `lowest`: see `Assignment.is_accepted`.
    """
    lines, final = named(files, tool, keys), final_assignment(files, tool, lowest, keys)
    wanted = next((line.number for line in reversed(lines) if line.path == ours), None)
    if final is None:
        final = next((line for line in reversed(lines) if line.path != ours), None)
    return None if wanted is None or final is None or final.number == wanted else (wanted, final)


def read_before(files: Sequence[SysctlFile], ours: str) -> frozenset[str]:
    """Return the paths of the files that every tool reads before the file `ours`."""
    orders = [[file.path for file in reading_order(files, tool)] for tool in Tool]
    return frozenset[str].intersection(*(frozenset(order[: order.index(ours)]) for order in orders if ours in order))


def writes(files: Iterable[SysctlFile], tool: Tool, keys: tuple[str, ...] = LIMIT_KEYS) -> tuple[Assignment, ...]:
    """Return the lines that the tool writes to any of `keys` (`net/…`), in its order."""
    settings = list(_settings(files, tool))
    if tool is Tool.SYSTEMD:
        settings = _last_per_key(settings)
    named = {setting.key for setting in settings}
    return tuple(
        setting.assignment
        for setting in settings
        for key in keys
        if setting.writes and _reaches(setting.key, key, named)
    )


def named(files: Iterable[SysctlFile], tool: Tool, keys: tuple[str, ...] = LIMIT_KEYS) -> tuple[Assignment, ...]:
    """Return every line that names the limit (or another of `keys`), in reading order; without `=` its value is "".

    Wildcards name nothing.
    """
    return tuple(setting.assignment for setting in _settings(files, tool) if _plain(setting.key) in keys)


def reading_order(files: Iterable[SysctlFile], tool: Tool) -> list[SysctlFile]:
    """Return the files that the tool reads, in its order: by name, across folders."""
    by_name: dict[str, SysctlFile] = {}
    last: list[SysctlFile] = []
    ranks = {folder: rank for rank, folder in enumerate(FOLDERS)}
    for file in sorted(files, key=lambda file: ranks.get(file.folder, len(FOLDERS))):
        if file.folder not in ranks:
            last = [file] if tool is Tool.PROCPS else []
        elif tool is Tool.PROCPS or not file.name.startswith("."):
            by_name.setdefault(file.name, file)
    return [by_name[name] for name in sorted(by_name, key=lambda name: name.encode("utf-8", "surrogateescape"))] + last


def _settings(files: Iterable[SysctlFile], tool: Tool) -> Iterator[_Setting]:
    """Yield the parsed lines of the files in reading order, without comments and invalid lines."""
    space = " \t\r\n" if tool is Tool.SYSTEMD else " \t\r\n\v\f"
    for file in reading_order(files, tool):
        for number, row in enumerate((file.content or "").split("\n"), start=1):
            text = row.strip(space)
            name, equals, value = text.partition("=")
            if text.startswith(("#", ";")) or not (equals or text.startswith("-")):
                continue
            name = name.removeprefix("-").rstrip(space)
            if tool is Tool.SYSTEMD:
                name = name.lstrip(space)  # procps keeps the space as part of the name
            key = _path(name) if tool is Tool.PROCPS else _plain(_path(name))
            assignment = Assignment(path=file.path, line=number, value=value.strip(space), link=file.link)
            yield _Setting(key, assignment, bool(equals))


def _path(name: str) -> str:
    """Return a name as a path below /proc/sys; its first separator decides between `.` and `/`."""
    first = next((char for char in name if char in "./"), "/")
    return name if first == "/" else name.translate(str.maketrans("./", "/."))


def _plain(path: str) -> str:
    """Return a normalized path: `/net//x` is `net/x`."""
    return "/".join(part for part in path.split("/") if part not in {"", "."})


def _last_per_key(settings: list[_Setting]) -> list[_Setting]:
    """Return one setting per key as systemd keeps it: the last value, at the position where it was first given."""
    kept: dict[str, _Setting] = {}
    for setting in settings:
        before = kept.get(setting.key)
        if before is None or (before.writes, before.assignment.value) != (setting.writes, setting.assignment.value):
            kept.pop(setting.key, None)
            kept[setting.key] = setting
    return list(kept.values())


def _reaches(key: str, wanted: str, named: set[str]) -> bool:
    """Return whether a setting for `key` writes to `wanted`; a glob doesn't if any line names `wanted`."""
    if not any(char in key for char in "*?["):
        return _plain(key) == wanted
    patterns, names = _plain(key).split("/"), wanted.split("/")
    return (
        wanted not in named
        and len(patterns) == len(names)  # wildcards don't match separators
        and all(
            fnmatch.fnmatchcase(name, pattern.replace("[^", "[!"))
            for name, pattern in zip(names, patterns, strict=True)
        )
    )
