"""The files that systemd-sysctl and `sysctl --system` read; what they come to is for `core.sysctl_order` to say."""

from __future__ import annotations

import os
from pathlib import Path

from conntrackd_guard.core.sysctl_precedence import (
    FOLDERS,
    LAST_FOLDER,
    LAST_NAME,
    Assignment,
    SysctlFile,
    Tool,
    writes,
)
from conntrackd_guard.host import conf_dirs


def sysctl_files(root: Path) -> list[SysctlFile]:
    """Return every file that either of them may read. Never raises."""
    files = [_file(folder, path) for folder, path in conf_dirs.listed(root, FOLDERS, ".conf")]
    last = root / LAST_FOLDER.lstrip("/") / LAST_NAME
    return [*files, _file(LAST_FOLDER, last)] if os.path.lexists(last) else files


def assignments(root: Path) -> list[Assignment]:
    """Return every line that sets the limit, in the order in which `sysctl --system` applies them. Never raises."""
    return list(writes(sysctl_files(root), Tool.PROCPS))


def _file(folder: str, path: Path) -> SysctlFile:
    try:
        link = os.readlink(path)
    except OSError:  # it is no link
        link = ""
    return SysctlFile(folder=folder, name=path.name, path=str(path), content=conf_dirs.text(path), link=link)
