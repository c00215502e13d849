"""Whether the conntrack module is loaded when sysctl files are applied at boot.

systemd-sysctl runs early. If the module loads after it, the limit's key does not exist yet, and systemd-sysctl skips
the line that sets it without a message.
"""

from pathlib import Path

from conntrackd_guard.host import conf_dirs

_ROOTS = ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
_RULES = [f"{root}/udev/rules.d" for root in _ROOTS]
_LISTS = [f"{root}/modules-load.d" for root in _ROOTS]
_MODULE = "nf_conntrack"


def built_in(sys: Path) -> bool | None:
    """Return whether the module is part of the kernel; None if connection tracking is not loaded."""
    module = sys / "module" / _MODULE
    return not (module / "initstate").exists() if module.exists() else None  # only loaded modules have it


def udev_rule(root: Path) -> str:
    """Return the udev rule file that applies sysctl files when the module loads, or ""."""
    return next((str(path) for path in conf_dirs.effective_files(root, _RULES, ".rules") if _applies(path)), "")


def _applies(path: Path) -> bool:
    """Return whether a rule runs a sysctl program when the module loads."""
    whole = (conf_dirs.read_text(path) or "").replace("\\\n", " ")
    rows = (row.strip() for row in whole.split("\n"))
    return any(all(part in row for part in ('"module"', _MODULE, "RUN", "sysctl")) for row in rows if row[:1] != "#")


def listed(root: Path) -> str:
    """Return `file:line` of modules-load.d that loads the module before systemd-sysctl runs, or ""."""
    for path in conf_dirs.effective_files(root, _LISTS, ".conf"):
        for number, line in conf_dirs.read_lines(path):
            if line.replace("-", "_") == _MODULE:  # both are equivalent there
                return f"{path}:{number}"
    return ""
