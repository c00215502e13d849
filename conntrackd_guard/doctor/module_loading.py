"""Whether the conntrack module is loaded when sysctl files are applied at boot.

systemd-sysctl runs early. If the module loads after it, the limit's key does not exist yet, and systemd-sysctl skips
the line that sets it without a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conntrackd_guard.host import conf_dirs

_ROOTS = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
_RULES = [f"{root}/udev/rules.d" for root in _ROOTS]
_LISTS = [f"{root}/modules-load.d" for root in _ROOTS]
_MODULE = "nf_conntrack"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleLoading:
    """What applies a saved limit after a boot."""

    built_in: bool | None
    """None if connection tracking is not loaded."""
    rule: str
    """The udev rule file that applies sysctl files when the module loads, or ""."""
    listed: str
    """`file:line` that loads the module before systemd-sysctl runs, or ""."""


def module_loading(root: Path) -> ModuleLoading:
    """Return what this host has. Never raises."""
    module = root / "sys/module" / _MODULE
    return ModuleLoading(
        built_in=not (module / "initstate").exists() if module.exists() else None,  # only loaded modules have it
        rule=next((str(path) for path in conf_dirs.effective_files(root, _RULES, ".rules") if _applies(path)), ""),
        listed=next(_listed(root), ""),
    )


def _applies(path: Path) -> bool:
    """Return whether a rule runs a sysctl program when the module loads."""
    whole = (conf_dirs.read_text(path) or "").replace("\\\n", " ")
    rows = (row.strip() for row in whole.split("\n"))
    return any(all(part in row for part in ('"module"', _MODULE, "RUN", "sysctl")) for row in rows if row[:1] != "#")


def _listed(root: Path) -> Iterator[str]:
    """Yield the lines of modules-load.d that name the module; `-` and `_` are equivalent there."""
    for path in conf_dirs.effective_files(root, _LISTS, ".conf"):
        for number, line in conf_dirs.read_lines(path):
            if line.replace("-", "_") == _MODULE:
                yield f"{path}:{number}"
