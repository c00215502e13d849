"""How connection tracking gets into this kernel, and whether the limit kept in a file is applied once it is there.

systemd-sysctl runs early: where the module loads after it, the limit's key does not exist yet, and the line that
sets it is passed over without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conntrackd_guard.host import conf_dirs

_RULES = (
    "/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d",
    "/lib/udev/rules.d",
)  # fmt: skip
_LISTS = (
    "/etc/modules-load.d", "/run/modules-load.d", "/usr/local/lib/modules-load.d", "/usr/lib/modules-load.d",
    "/lib/modules-load.d",
)  # fmt: skip
_MODULE = "nf_conntrack"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleLoading:
    """What makes a kept limit hold after a boot; each is None or empty where there is no such thing."""

    built_in: bool | None
    """None while the kernel has no connection tracking at all."""
    rule: str
    """The udev rule file that applies sysctl files when the module loads."""
    listed: str
    """`file:line` that has the module loaded before systemd-sysctl runs."""


def module_loading(root: Path) -> ModuleLoading:
    """Return what is found on this host. Never raises."""
    module = root / "sys/module" / _MODULE
    return ModuleLoading(
        built_in=not (module / "initstate").exists() if module.exists() else None,  # a loaded module has a state
        rule=next((str(path) for path in conf_dirs.effective_files(root, _RULES, ".rules") if _applies(path)), ""),
        listed=next(_listed(root), ""),
    )


def _applies(path: Path) -> bool:
    """Return whether a rule runs a sysctl program when the module loads."""
    whole = (conf_dirs.read_text(path) or "").replace("\\\n", " ")
    rows = (row.strip() for row in whole.split("\n"))
    return any(all(part in row for part in ('"module"', _MODULE, "RUN", "sysctl")) for row in rows if row[:1] != "#")


def _listed(root: Path) -> Iterator[str]:
    """Yield the lines of modules-load.d that name the module; `-` and `_` are the same there."""
    for path in conf_dirs.effective_files(root, _LISTS, ".conf"):
        for number, line in conf_dirs.read_lines(path):
            if line.replace("-", "_") == _MODULE:
                yield f"{path}:{number}"
