"""Read the settings' files, without constructing or executing anything. The only I/O of this package.

YAML is read as nodes: every value is its text, so no tag, date or number rule of YAML applies.
"""

import os
import stat
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import yaml
from yaml.reader import ReaderError

from conntrackd_guard.core.text import printable
from conntrackd_guard.settings.keys import Settings
from conntrackd_guard.settings.settings import Entry, Problem, read_settings, shown

MAX_BYTES = 64 * 1024
"""Eight times a file that sets every key with all its comments."""

_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader if PyYAML has it: 0.4 ms instead of 6.5 ms for a full file (measured)."""

_MAX_DEPTH = 2
"""The file's own mapping and one mistaken list or mapping in it, which has its own message."""

_ROOT = 0
_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def load_settings(
    settings_file: Path,
    settings_folder: Path,
    *,
    only: Path | None = None,
    owner: int = _ROOT,
    in_container: bool = False,
) -> Settings:
    """Return the settings of `settings_file`, then of `settings_folder`/*.yaml in name order, or of `only` alone.

    Missing files are skipped, except `only`. Each file must belong to `owner` (uid) or root and be writable by no one
    else, and so must the folders, but in a container that of `settings_file`: the folder of a pod's volume is open to all,
    in a place that only root reaches. Raises SettingsError with every problem of every file.
    """
    problems = [] if in_container or only is not None else _folder(settings_file.parent, owner)
    return read_settings(chain(problems, _items(settings_file, settings_folder, only, owner)))


def _items(settings_file: Path, settings_folder: Path, only: Path | None, owner: int) -> Iterator[Entry | Problem]:
    """Yield the content of each file; later files override earlier ones."""
    if only is not None:
        yield from _file(only, owner, required=True)
        return
    yield from _file(settings_file, owner, required=False)
    names = list[str]()
    yield from _folder(settings_folder, owner, names)
    for name in sorted(name for name in names if not name.startswith(".")):
        if name.endswith(".yml"):
            yield Problem(
                place=_printed(settings_folder / name), text="only *.yaml is read; rename or remove this file"
            )
        elif name.endswith(".yaml"):
            yield from _file(settings_folder / name, owner, required=True)


def _folder(folder: Path, owner: int, names: list[str] | None = None) -> Iterator[Problem]:
    """Yield why a folder can't be used or trusted; add its names to `names`. A missing one is skipped."""
    try:
        problem = _untrusted(os.stat(folder), owner)
        if names is not None:
            names += os.listdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        problem = f"can't be opened: {error.strerror}; make it a folder or remove it"
    if problem:
        yield Problem(place=_printed(folder), text=problem)


def _file(path: Path, owner: int, *, required: bool) -> Iterator[Entry | Problem]:
    """Yield a file's entries and problems; nothing for a missing one that is not required."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if required or path.is_symlink():
            yield Problem(place=_printed(path), text=f"can't be opened: {error.strerror}; create or remove it")
        return
    except OSError as error:
        yield Problem(place=_printed(path), text=f"can't be opened: {error.strerror}; make it a file that you may read")
        return
    content = b""
    try:
        status = os.fstat(descriptor)
        regular = stat.S_ISREG(status.st_mode)
        problem = _untrusted(status, owner) if regular else "found something other than a regular file"
        if not problem:
            content = os.read(descriptor, MAX_BYTES + 1)  # a read of a regular file is short at its end only
    except OSError as error:
        problem = f"can't be read: {error.strerror}; check the disk"
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        problem = f"found more than {MAX_BYTES // 1024} KiB; settings need an eighth of that"
    if problem:
        yield Problem(place=_printed(path), text=problem)
    else:
        yield from entries(content, _printed(path))


def entries(content: bytes, file: str) -> Iterator[Entry | Problem]:
    """Yield the entries of one file's content, in order, and a problem for anything but a plain `key: value`."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Problem(place=f"{file}:{line}", text=f"found byte 0x{content[error.start]:02x}, expected UTF-8")
        return
    refused = list(_refused_events(text, file))
    if refused:
        yield from refused
        return
    root = yaml.compose(text, Loader=_LOADER)
    if root is None or (isinstance(root, yaml.ScalarNode) and not root.value and not root.style):  # "---" alone
        return
    if not isinstance(root, yaml.MappingNode):
        yield Problem(place=_place(file, root), text="found no settings, expected lines of the form key: value")
        return
    first: dict[str, int] = {}
    for key, value in root.value:
        line = key.start_mark.line + 1
        place = f"{file}:{line}"
        if not isinstance(key, yaml.ScalarNode):
            yield Problem(place=place, text="found a list or mapping as a key, expected a name")
        elif key.value in first:
            again = f"found again, first on line {first[key.value]}; keep one"
            yield Problem(place=place, text=f"{shown(key.value)}: {again}")
        elif not isinstance(value, yaml.ScalarNode):
            kind = "a list" if isinstance(value, yaml.SequenceNode) else "a mapping"
            yield Problem(place=place, text=f"{shown(key.value)}: found {kind}, expected a single value")
        else:
            first[key.value] = line
            yield Entry(place=place, key=key.value, value=value.value)


def _refused_events(text: str, file: str) -> Iterator[Problem]:
    """Yield a problem for each tag, anchor, alias and further document, or for the place where the YAML is invalid."""
    documents = depth = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            place = _place(file, event)
            if isinstance(event, yaml.AliasEvent):
                yield Problem(place=place, text=f"found the alias {shown(f'*{event.anchor}')}, expected a plain value")
            elif isinstance(event, yaml.NodeEvent) and event.anchor is not None:
                yield Problem(place=place, text=f"found the anchor {shown(f'&{event.anchor}')}, expected a plain value")
            if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
                yield Problem(place=place, text=f"found the YAML tag {shown(event.tag)}, expected a plain value")
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                yield Problem(place=place, text="found a second YAML document, expected one")
                return
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                yield Problem(place=place, text="found nested lists or mappings, expected key: value")
                return
    except yaml.YAMLError as error:
        yield _invalid(error, text, file)


def _invalid(error: yaml.YAMLError, text: str, file: str) -> Problem:
    """Return the problem of invalid YAML, with the line where the reader stopped."""
    line, why = text.count("\n") + 1, str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark is not None else line
        why = error.problem or why
    elif isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        why = error.reason
    return Problem(place=f"{file}:{line}", text=f"found invalid YAML ({why}), expected lines of the form key: value")


def _printed(path: Path) -> str:
    """Return a path safe to print: a name in a folder may hold a terminal's escapes."""
    return printable(str(path))


def _place(file: str, at: yaml.Event | yaml.Node) -> str:
    """Return `file:line` of a YAML event or node."""
    mark = at.start_mark
    return f"{file}:{mark.line + 1}" if mark is not None else file


def _untrusted(status: os.stat_result, owner: int) -> str:
    """Return why someone besides root and `owner` could set the limit through this file or folder, else ""."""
    if status.st_uid not in (_ROOT, owner):
        return f"found owner uid {status.st_uid}, expected root; sudo chown root"
    if status.st_mode & _FOR_OTHERS:
        return f"found mode {stat.S_IMODE(status.st_mode):04o}, writable by others; sudo chmod go-w"
    return ""
