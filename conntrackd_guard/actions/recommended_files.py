"""Put a recommendation in place for the next boot, in place of nothing that another file sets. No running value changes."""

import errno
from pathlib import Path
from typing import NamedTuple

from conntrackd_guard.core.errors import AnswerIsNo, HostError, NotPermitted
from conntrackd_guard.core.recommendation import LIMIT_KEY, Recommendation
from conntrackd_guard.core.sysctl_precedence import LIMIT_KEYS, Tool, named, writes
from conntrackd_guard.core.text import printable
from conntrackd_guard.host import conf_dirs, files
from conntrackd_guard.host.load_facts import hashsize_options
from conntrackd_guard.host.paths import Paths

MARK = "# Written by `guard recommend --write`."
"""The first line of its files; one without it is another's."""


class Written(NamedTuple):
    """What `--write` did: the file, what it left out, and the command that takes it back."""

    path: Path
    left_out: tuple[str, ...]
    undo: str
    is_new: bool
    """Whether the file did not have that content already."""


def write_sysctl(found: Recommendation, paths: Paths) -> Written:
    """Write the sysctl values that no other file sets. Raises AnswerIsNo if none is left, HostError, NotPermitted."""
    path, kept, left_out = paths.recommended_sysctl, dict[str, int](), list[str]()
    others = [file for file in conf_dirs.sysctl_files(paths.root) if file.path != str(path)]
    for file in others:
        if file.content is None:
            raise AnswerIsNo(printable(f"Nothing was written: {file.path} can't be read, and may set the same."))
    for name, value in found.values().items():
        keys = LIMIT_KEYS if name == LIMIT_KEY else (name.replace(".", "/"),)
        lines = [line for tool in Tool for line in (*named(others, tool, keys), *writes(others, tool, keys))]
        if lines:
            left_out.append(printable(f"{lines[-1].path}:{lines[-1].line} sets {name} already."))
        else:
            kept[name] = value
    if not kept:
        raise AnswerIsNo(f"Nothing was written: {' '.join(left_out)} Change it there.")
    return _replace(path, "".join(f"{name} = {value}\n" for name, value in kept.items()), left_out)


def write_module_options(found: Recommendation, paths: Paths) -> Written:
    """Write `hashsize=` unless another file has it. Raises AnswerIsNo, HostError, NotPermitted."""
    path = paths.recommended_module
    for place, value in hashsize_options(paths.root):
        if place != str(path):
            raise AnswerIsNo(printable(f"Nothing was written: {place} has hashsize={value} already. Change it there."))
    return _replace(path, f"options nf_conntrack hashsize={found.buckets}\n", [])


def _replace(path: Path, lines: str, left_out: list[str]) -> Written:
    """Replace the file at once, and keep an earlier one beside it under a name that no program reads."""
    before, content, kept = conf_dirs.read_text(path), f"{MARK}\n{lines}", Path(f"{path}.before")
    if before is None or path.is_symlink() or (before and not before.startswith(MARK)):
        raise AnswerIsNo(f"Nothing was written: {path} is not a file of `guard recommend`. Move it away first.")
    if before == content:
        return Written(path, tuple(left_out), f"rm {path}", is_new=False)
    try:
        with files.translate_errors("write", path, "Nothing was changed."):
            path.parent.mkdir(parents=True, exist_ok=True)
            if before:
                files.replace(kept, before.encode("utf-8", "surrogateescape"), durable=True)
            files.replace(path, content.encode(), durable=True)
    except HostError as error:
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise NotPermitted(f"`guard recommend --write` needs root. {error}") from error
        raise
    return Written(path, tuple(left_out), f"mv {kept} {path}" if before else f"rm {path}", is_new=True)
