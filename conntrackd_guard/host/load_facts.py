"""What sets limit and buckets while connection tracking loads: options of the module, and the sysctl files."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from conntrackd_guard.core.limits import lowest_accepted
from conntrackd_guard.core.model import INT_MAX, LoadFacts
from conntrackd_guard.core.sysctl_precedence import Assignment, Tool, final_assignment
from conntrackd_guard.host import conf_dirs, files
from conntrackd_guard.host.paths import Paths

_FOLDERS = [f"{root}/modprobe.d" for root in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")]
_MODULE, _OPTION = "nf_conntrack", "hashsize"


def load_facts(paths: Paths) -> LoadFacts:
    """Return what the files say now. Never raises."""
    release = files.read_id(paths.kernel_release) or ""
    line = final_assignment(conf_dirs.sysctl_files(paths.root), Tool.SYSTEMD, lowest_accepted(release, None))
    line = None if line is None or line.path == str(paths.drop_in) else line
    numbers = (Assignment(path="", line=0, value=text).number or 0 for _, text in hashsize_options(paths.root))
    sizes = [size for size in numbers if 0 < size <= INT_MAX]
    step = os.sysconf("SC_PAGE_SIZE") // struct.calcsize("P")  # nf_ct_alloc_hashtable() fills its last page
    return LoadFacts(
        kernel_release=release,
        hashsize=-(-sizes[-1] // step) * step if sizes else None,
        final_line="" if line is None else f"{line.path}:{line.line}",
        final_limit=None if line is None else line.number,
    )


def hashsize_options(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, value) for each `hashsize`: the last one counts, and modprobe appends the kernel command line's."""
    for path in conf_dirs.effective_files(root, _FOLDERS, ".conf"):
        for row in (conf_dirs.read_text(path) or "").replace("\\\n", " ").split("\n"):
            match row.split():
                case ["options" | "install", module, *words] if module.replace("-", "_") == _MODULE:
                    values = (word.partition("=")[2] for word in words if word.startswith(f"{_OPTION}="))
                    yield from ((str(path), value) for value in values)
    command_line = root / "proc/cmdline"
    for word in (conf_dirs.read_text(command_line) or "").split():
        name, _, value = word.partition("=")
        if name.replace("-", "_") == f"{_MODULE}.{_OPTION}":
            yield str(command_line), value
