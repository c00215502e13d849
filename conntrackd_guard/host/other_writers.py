"""Other programs that may write the limit, found by their traces (processes, profiles, scripts), and who changed it.

A trace is no proof that the program wrote the limit. Files in the sysctl folders are not traces: they are applied in a
known order (`host.conf_dirs`).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path

from conntrackd_guard.core.sysctl_precedence import FOLDERS, Assignment, SysctlFile, Tool, writes
from conntrackd_guard.core.text import printable
from conntrackd_guard.host import conf_dirs, files

UNKNOWN = "unknown"
STARTED_SECONDS = 60.0
"""A program that sets the limit does so as it starts; on a busy node that takes tens of seconds."""
_KUBE_PROXIES = ("kube-proxy", "k3s-server", "k3s-agent", "kubelite")
"""The last three contain a kube-proxy."""
_PER_CORE, _MIN = 32768, 131072
"""kube-proxy's defaults: entries per core, and the minimum in all."""
_TUNED_FOLDERS = ("etc/tuned/profiles", "etc/tuned", "usr/lib/tuned/profiles", "usr/lib/tuned")
_PROFILE = re.compile(r"-?([A-Za-z0-9_.-]{1,100})")
_MAX_PROFILES = 20
_SCRIPTS = (
    "etc/rc.local", "etc/crontab", "etc/cron.d/*", "etc/network/interfaces", "etc/network/interfaces.d/*",
    "etc/network/if-pre-up.d/*", "etc/network/if-up.d/*", "etc/modprobe.d/*.conf", "etc/udev/rules.d/*.rules",
    "etc/systemd/system/*.service",
)  # fmt: skip
_MAX_SCRIPTS = 500
_OWN = "conntrackd-guard"
_MAX_CAUSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A program that may write the limit."""

    evidence: str
    next_step: str
    number: int | None = None
    """The value it sets; None if unknown, or if the sysctl files are applied after it."""
    sets: int | None = None
    """The value it sets, even if the sysctl files are applied after it; None if unknown."""
    pid: int | None = None
    """None while it doesn't run."""


def other_writers(root: Path, cores: int) -> list[Writer]:
    """Return the programs whose traces are found. Never raises."""
    running = _running(root / "proc", {*_KUBE_PROXIES, "tuned"})
    proxies = (_kube_proxy(root, name, running[name], cores) for name in _KUBE_PROXIES if name in running)
    return [*chain.from_iterable(proxies), *_tuned(root, running.get("tuned")), *_ufw(root), *_scripts(root)]


def attribute_change(root: Path, limit: int, seen_seconds: float) -> str:
    """Return who may have set `limit` shortly before `seen_seconds` (CLOCK_BOOTTIME), or UNKNOWN. Never raises.

    Evidence is needed of time and value: a program that started just before and sets this value, or a line of a
    sysctl file with this value.
    """
    found = []
    for writer in other_writers(root, os.cpu_count() or 1):
        ago = None if writer.pid is None else _started_ago(root, writer.pid, seen_seconds)
        if writer.sets == limit and ago is not None and -1.0 <= ago <= STARTED_SECONDS:
            found.append(f"{writer.evidence}; started {max(0.0, ago):.0f} s before")
    lines = (line for line in conf_dirs.assignments(root) if line.number == limit and _OWN not in line.path)
    found += [f"{line.path}:{line.line} has this value" for line in lines]
    return printable("; ".join(found[:_MAX_CAUSES])) or UNKNOWN


def _started_ago(root: Path, pid: int, seen_seconds: float) -> float | None:
    """Return how long before `seen_seconds` a process started; None if it has ended."""
    try:
        fields = files.read(root / "proc" / str(pid) / "stat").rpartition(b")")[2].split()
        return seen_seconds - int(fields[19][:18]) / os.sysconf(
            "SC_CLK_TCK"
        )  # field 22: start time in ticks since boot
    except (OSError, ValueError, IndexError):
        return None


def sees_processes(root: Path) -> bool:
    """Return whether other users' processes are visible (`hidepid` hides them)."""
    return (root / "proc/1/comm").exists()


def _running(proc: Path, names: set[str]) -> dict[str, int]:
    """Return the pids of running processes with these names that belong to root or this user."""
    found: dict[str, int] = {}
    for entry in proc.glob("[0-9]*"):
        try:
            name = (entry / "comm").read_text("utf-8", "replace").strip()
            if name in names and entry.stat().st_uid in {0, os.geteuid()}:
                found[name] = int(entry.name)
        except OSError:
            continue  # it has ended
    return found


def _kube_proxy(root: Path, name: str, pid: int, cores: int) -> Iterator[Writer]:
    """Yield a kube-proxy and the limit it sets; nothing if its flags disable that."""
    flags = _flags(root / "proc" / str(pid) / "cmdline")
    per_core, minimum = flags.get("conntrack-max-per-core", _PER_CORE), flags.get("conntrack-min", _MIN)
    source = "by its flags" if "conntrack-max-per-core" in flags else "unless its configuration overrides that"
    if per_core:
        limit = max(per_core * cores, minimum)
        yield Writer(
            evidence=f"{name} is running (pid {pid}) and sets {limit:,} at each start, {source}",
            next_step="Set conntrack.maxPerCore: 0 in kube-proxy's configuration, so that it leaves the limit alone.",
            sets=limit,
            pid=pid,
        )


def _flags(cmdline: Path) -> dict[str, int]:
    """Return the numeric flags of a command line, `--name=N` or `--name N`."""
    words = (conf_dirs.read_text(cmdline) or "").split("\0")
    pairs = [word.partition("=") for word in words]
    flags = {name.lstrip("-"): value for name, equals, value in pairs if equals}
    flags |= {name.lstrip("-"): value for name, value in pairwise(words) if name.startswith("--")}
    return {name: int(value[:18]) for name, value in flags.items() if value.isascii() and value.isdigit()}


def _tuned(root: Path, pid: int | None) -> Iterator[Writer]:
    """Yield the lines that set the limit in tuned's active profile and in the profiles it includes."""
    waiting = (conf_dirs.read_text(root / "etc/tuned/active_profile") or "").split()
    seen: set[str] = set()
    main = _pairs(root / "etc/tuned/tuned-main.conf")
    reapplied = main.get("reapply_sysctl", "1").lower() in {"1", "true", "yes", "y", "on"}
    state = f"pid {pid}" if pid else "not running"
    how = "then applies the sysctl files" if reapplied else "overrides the sysctl files (reapply_sysctl = 0)"
    step = "" if reapplied else "Set reapply_sysctl = 1 in /etc/tuned/tuned-main.conf, or remove the line."
    while waiting and len(seen) < _MAX_PROFILES:
        match = _PROFILE.fullmatch(waiting.pop(0))
        if match is None or match[1] in seen:
            continue
        seen.add(match[1])
        paths = (root / folder / match[1] / "tuned.conf" for folder in _TUNED_FOLDERS)
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            continue
        waiting += re.split(r"[\s,;]+", _pairs(path).get("include", ""))
        for line in _assignments(path):
            yield Writer(
                evidence=f"tuned ({state}, profile {match[1]}) sets {line.value} ({line.path}:{line.line}); it {how}",
                next_step=step,
                number=None if reapplied else line.number,
                sets=line.number,
                pid=pid,
            )


def _ufw(root: Path) -> Iterator[Writer]:
    """Yield ufw if it is enabled and its own sysctl file sets the limit; it is applied after all others."""
    if _pairs(root / "etc/ufw/ufw.conf").get("ENABLED", "").lower() != "yes":
        return
    path = _pairs(root / "etc/default/ufw").get("IPT_SYSCTL", "").strip("\"'")
    for line in _assignments(root / path.lstrip("/"))[-1:] if path else ():
        yield Writer(
            evidence=f"ufw is enabled and sets {line.value} at each start ({line.path}:{line.line})",
            next_step="Remove that line.",
            number=line.number,
        )


def _scripts(root: Path) -> Iterator[Writer]:
    """Yield the first line of each start script, rule or crontab that names the limit."""
    paths = (path for pattern in _SCRIPTS for path in sorted(root.glob(pattern)))
    for path in islice(paths, _MAX_SCRIPTS):
        for number, line in conf_dirs.read_lines(path):
            if "nf_conntrack_max" in line and _OWN not in path.name:
                yield Writer(evidence=f"{path}:{number} mentions the limit: {line[:80]}", next_step=f"Check {path}.")
                break


def _pairs(path: Path) -> dict[str, str]:
    """Return each `name = value` of a file, the last one of a name."""
    parts = (line.partition("=") for _, line in conf_dirs.read_lines(path))
    return {name.strip(): value.strip() for name, equals, value in parts if equals}


def _assignments(path: Path) -> tuple[Assignment, ...]:
    """Return the lines of one file that set the limit."""
    content = conf_dirs.read_text(path)
    return writes([SysctlFile(folder=FOLDERS[0], name="x.conf", path=str(path), content=content)], Tool.PROCPS)
