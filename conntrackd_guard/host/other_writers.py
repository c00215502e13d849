"""Who else may write the limit on this host, by what they leave: processes, profiles, scripts.

Only evidence counts: nothing here says that one of them did write. Files in the sysctl folders are not among them
(`host.sysctl_files`): they are applied in a known order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from conntrackd_guard.core.sysctl_precedence import FOLDERS, Assignment, SysctlFile, Tool, writes
from conntrackd_guard.host import conf_dirs

_KUBE_PROXIES = ("kube-proxy", "k3s-server", "k3s-agent", "kubelite")
"""The last three run a kube-proxy inside."""
_PER_CORE, _MIN = 32768, 131072
"""What kube-proxy takes where its configuration says nothing: so many a core, at least so many in all."""
_TUNED_FOLDERS = ("etc/tuned/profiles", "etc/tuned", "usr/lib/tuned/profiles", "usr/lib/tuned")
_PROFILE = re.compile(r"-?([A-Za-z0-9_.-]+)")
_MOST_PROFILES = 20
_SCRIPTS = (
    "etc/rc.local", "etc/crontab", "etc/cron.d/*", "etc/network/interfaces", "etc/network/interfaces.d/*",
    "etc/network/if-pre-up.d/*", "etc/network/if-up.d/*", "etc/modprobe.d/*.conf", "etc/udev/rules.d/*.rules",
    "etc/systemd/system/*.service",
)  # fmt: skip
_MOST_SCRIPTS = 500
_OWN = "conntrackd-guard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Someone who may write the limit, by what was found of them."""

    evidence: str
    next_step: str
    number: int | None = None
    """What it sets, where that is known and nothing puts it right again."""
    sets: int | None = None
    """What it sets, as far as can be told, whatever is applied after it."""
    pid: int | None = None
    """Its process, where it runs."""


def other_writers(root: Path, cores: int) -> list[Writer]:
    """Return those whose traces are found. Never raises."""
    running = _running(root / "proc", {*_KUBE_PROXIES, "tuned"})
    proxies = [name for name in _KUBE_PROXIES if name in running]
    found = [writer for name in proxies for writer in _kube_proxy(root, name, running[name], cores)]
    return [*found, *_tuned(root, running.get("tuned")), *_ufw(root), *_scripts(root)]


def sees_processes(root: Path) -> bool:
    """Return whether other users' processes are in sight (`hidepid` hides them)."""
    return (root / "proc/1/comm").exists()


def _running(proc: Path, names: set[str]) -> dict[str, int]:
    """Return the process id of each of the names that runs, as root or as this user."""
    found: dict[str, int] = {}
    for entry in proc.glob("[0-9]*"):
        try:
            name = (entry / "comm").read_text("utf-8", "replace").strip()
            if name in names and entry.stat().st_uid in {0, os.geteuid()}:
                found[name] = int(entry.name)
        except OSError:
            continue  # it ended meanwhile
    return found


def _kube_proxy(root: Path, name: str, pid: int, cores: int) -> Iterator[Writer]:
    """Yield a kube-proxy with what it sets; nothing where its flags have it leave the limit alone."""
    flags = _flags(root / "proc" / str(pid) / "cmdline")
    per_core, least = flags.get("conntrack-max-per-core", _PER_CORE), flags.get("conntrack-min", _MIN)
    said = "by its flags" if "conntrack-max-per-core" in flags else "unless its configuration says otherwise"
    if per_core:
        limit = max(per_core * cores, least)
        yield Writer(
            evidence=f"{name} runs (process {pid}) and sets {limit:,} at each start, {said}",
            next_step="Set conntrack.maxPerCore: 0 in kube-proxy's configuration: it then leaves the limit alone.",
            sets=limit,
            pid=pid,
        )


def _flags(cmdline: Path) -> dict[str, int]:
    """Return the flags of a command line that are numbers, written as `--name=N` or `--name N`."""
    words = (conf_dirs.text(cmdline) or "").split("\0")
    pairs = [word.partition("=") for word in words]
    flags = {name.lstrip("-"): value for name, equals, value in pairs if equals}
    flags |= {name.lstrip("-"): value for name, value in pairwise(words) if name.startswith("--")}
    return {name: int(value[:18]) for name, value in flags.items() if value.isascii() and value.isdigit()}


def _tuned(root: Path, pid: int | None) -> Iterator[Writer]:
    """Yield the lines of tuned's active profile, and of what it includes, that set the limit."""
    waiting = (conf_dirs.text(root / "etc/tuned/active_profile") or "").split()
    seen: set[str] = set()
    main = dict(_pairs(root / "etc/tuned/tuned-main.conf"))
    gives_way = main.get("reapply_sysctl", "1").lower() in {"1", "true", "yes", "y", "on"}
    while waiting and len(seen) < _MOST_PROFILES:
        match = _PROFILE.fullmatch(waiting.pop(0))
        if match is None or match[1] in seen:
            continue
        seen.add(match[1])
        files = (root / folder / match[1] / "tuned.conf" for folder in _TUNED_FOLDERS)
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            continue
        waiting += re.split(r"[\s,;]+", dict(_pairs(path)).get("include", ""))
        for line in _sets(path):
            how = "sysctl files are applied after it" if gives_way else "over the sysctl files (reapply_sysctl = 0)"
            state = f"process {pid}" if pid else "not running now"
            yield Writer(
                evidence=f"tuned's profile {match[1]} ({state}) sets {line.value} in {line.path}:{line.line}; {how}",
                next_step=""
                if gives_way
                else "Set reapply_sysctl = 1 in /etc/tuned/tuned-main.conf, or remove the line.",
                number=None if gives_way else line.number,
                sets=line.number,
                pid=pid,
            )


def _ufw(root: Path) -> Iterator[Writer]:
    """Yield ufw, where it is enabled and its own sysctl file sets the limit: it is applied after all others."""
    if dict(_pairs(root / "etc/ufw/ufw.conf")).get("ENABLED", "").lower() != "yes":
        return
    path = dict(_pairs(root / "etc/default/ufw")).get("IPT_SYSCTL", "").strip("\"'")
    for line in _sets(root / path.lstrip("/"))[-1:] if path else ():
        yield Writer(
            evidence=f"ufw is enabled and sets {line.value} at each start, in {line.path}:{line.line}",
            next_step="Take that line out.",
            number=line.number,
        )


def _scripts(root: Path) -> Iterator[Writer]:
    """Yield the lines of start scripts, rules and tables that name the limit."""
    paths = (path for pattern in _SCRIPTS for path in sorted(root.glob(pattern)))
    for path in islice(paths, _MOST_SCRIPTS):
        for number, line in conf_dirs.lines(path):
            if "nf_conntrack_max" in line and _OWN not in path.name:
                yield Writer(evidence=f"{path}:{number} names it: {line[:80]}", next_step=f"See what {path} does.")
                break


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield `name = value` of a file's lines."""
    for _, line in conf_dirs.lines(path):
        name, equals, value = line.partition("=")
        if equals:
            yield name.strip(), value.strip()


def _sets(path: Path) -> tuple[Assignment, ...]:
    """Return the lines of one file that set the limit."""
    content = conf_dirs.text(path)
    return writes([SysctlFile(folder=FOLDERS[0], name="x.conf", path=str(path), content=content)], Tool.PROCPS)
