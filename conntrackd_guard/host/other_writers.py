"""Other programs that may write the limit, found by their traces (processes, profiles, scripts), and who changed it.

A trace is no proof that the program wrote the limit. Files in the sysctl folders are not traces: they are applied in a
known order (`host.conf_dirs`).
"""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from conntrackd_guard.core.limits import is_lower
from conntrackd_guard.core.sysctl_precedence import (
    BUCKET_KEYS,
    FOLDERS,
    LIMIT_KEYS,
    Assignment,
    SysctlFile,
    Tool,
    writes,
)
from conntrackd_guard.core.text import printable
from conntrackd_guard.host import conf_dirs, kube_proxy, programs
from conntrackd_guard.host.kube_proxy import KUBE_PROXIES
from conntrackd_guard.host.processes import started_ticks
from conntrackd_guard.host.programs import Program
from conntrackd_guard.host.writer import Writer

UNKNOWN = "unknown"
STARTED_SECONDS = 30.0
"""A program that sets the limit does so as it starts; on a busy node that takes seconds."""
_PVE, _PVE_NFTABLES = "pve-firewall", "proxmox-firewal"
"""Names of processes; the kernel cuts the second, proxmox-firewall, to 15 characters."""
_PVE_DEFAULTS = (262144, 65536)
"""The least that pve-firewall sets: today's, and that of old versions (update_nf_conntrack_max in PVE/Firewall.pm)."""
_CALICO, _CALICO_SETS = ("calico-node", "calicoctl"), 1_000_000
"""`calicoctl node run` sets a constant, then starts the container calico-node (calicoctl/commands/node/run.go)."""
_PROGRAMS = {
    **KUBE_PROXIES, _PVE: _PVE, _PVE_NFTABLES: "proxmox-firewall", "tuned": "tuned",
    **dict(zip(_CALICO, _CALICO, strict=True)),
}  # fmt: skip
"""What is looked for, and what its unit or its executable is called."""
_TUNED_FOLDERS = ("etc/tuned/profiles", "etc/tuned", "usr/lib/tuned/profiles", "usr/lib/tuned")
_PROFILE = re.compile(r"-?([A-Za-z0-9_.-]{1,100})")
_OPENSHIFT = 1_048_576
"""Limit and buckets that tuned's profile `openshift` sets, whatever the memory (profiles/openshift/tuned.conf)."""
_HASHSIZE = "nf_conntrack_hashsize"
"""tuned's own name of the buckets, in the section [net]."""
_MAX_PROFILES = 20
_SCRIPTS = (
    "etc/rc.local", "etc/crontab", "etc/cron.d/*", "etc/network/interfaces", "etc/network/interfaces.d/*",
    "etc/network/if-pre-up.d/*", "etc/network/if-up.d/*", "etc/modprobe.d/*.conf", "etc/udev/rules.d/*.rules",
    "etc/systemd/system/*.service",
)  # fmt: skip
_MAX_SCRIPTS = 500
_OWN = "conntrackd-guard"
_MAX_CAUSES = 3


class Cause(NamedTuple):
    """Who may have changed the limit."""

    text: str
    """Each with its evidence, or UNKNOWN."""
    is_restart: bool = False
    """Whether a kube-proxy that has just started is one of them, and the limit was lowered: no fight."""


def other_writers(root: Path, cores: int) -> list[Writer]:
    """Return the programs whose traces are found. Never raises."""
    found = programs.find(root / "proc", _PROGRAMS)
    proxies = (kube_proxy.limit_set(root, program, cores) for program in found if program.name in KUBE_PROXIES)
    return [
        *chain.from_iterable(proxies), *_proxmox(root, {program.name: program.pid for program in found}),
        *_calico(found), *_tuned(root, [program for program in found if program.name == "tuned"]), *_ufw(root),
        *_scripts(root),
    ]  # fmt: skip


def attribute_change(  # noqa: PLR0913 - each is evidence
    root: Path,
    limit: int,
    seen_seconds: float,
    *,
    was: int | None = None,
    buckets: int | None = None,
    window_seconds: float = STARTED_SECONDS,
) -> Cause:
    """Return who may have set `limit`, seen at `seen_seconds` (CLOCK_BOOTTIME). Never raises.

    With `buckets`, who may have set that number of buckets instead. Evidence is needed of time and value: a program that
    sets this value and started within `window_seconds` before, or sets it periodically; or a line of a sysctl file, ufw's
    too, with this value. `was`: the limit before, which some programs leave alone if it is higher.
    """
    found, lowered, is_restart = [], was is not None and is_lower(limit, was), False
    for writer in other_writers(root, os.cpu_count() or 1):
        sets_it = limit in writer.sets if buckets is None else buckets in writer.buckets
        ago = None if writer.pid is None else _started_ago(root, writer.pid, seen_seconds)
        starts = writer.is_process and writer.period_seconds is None
        if not sets_it or (lowered and not writer.lowers and buckets is None):
            continue
        if writer.is_process and (ago is None or ago < -1.0 or (starts and ago > window_seconds)):
            continue
        is_restart = is_restart or (lowered and writer.is_kube_proxy and (ago or 0.0) <= STARTED_SECONDS)
        found.append(f"{writer.evidence}; started {max(0.0, ago or 0.0):.0f} s before" if starts else writer.evidence)
    value, keys = (limit, LIMIT_KEYS) if buckets is None else (buckets, BUCKET_KEYS)
    lines = (line for line in conf_dirs.assignments(root, keys) if line.number == value and _OWN not in line.path)
    found += [f"{line.path}:{line.line} has this value" for line in lines]
    return Cause(printable("; ".join(found[:_MAX_CAUSES])) or UNKNOWN, is_restart)


def _started_ago(root: Path, pid: int, seen_seconds: float) -> float | None:
    """Return how long before `seen_seconds` a process started; None if it has ended."""
    ticks = started_ticks(root / "proc" / str(pid))
    return None if ticks is None else seen_seconds - ticks / os.sysconf("SC_CLK_TCK")


def _proxmox(root: Path, running: dict[str, int]) -> Iterator[Writer]:
    """Yield the firewall daemon of Proxmox VE that is in charge, and the limit it sets; nothing if it is disabled."""
    cluster = _firewall_options(root / "etc/pve/firewall/cluster.fw")
    host = _firewall_options(root / "etc/pve/local/host.fw")
    if cluster is not None and cluster.get("enable") != "1":
        return
    host = host or {}
    option = host.get("nf_conntrack_max", "")
    wanted = int(option[:18]) if option.isascii() and option.isdecimal() else None
    nftables = host.get("nftables") == "1"
    pid = running.get(_PVE_NFTABLES if nftables else _PVE)
    if pid is None or (nftables and wanted is None):
        return
    rounded = -(-(wanted or 0) // 8192) * 8192
    sets = (wanted or 0,) if nftables else tuple(dict.fromkeys(max(least, rounded) for least in _PVE_DEFAULTS))
    other = f" ({sets[1]:,} in old versions)" if len(sets) > 1 else ""
    condition = " if the firewall of the datacenter is enabled" if cluster is None else ""
    name, buckets = ("proxmox-firewall", "") if nftables else (_PVE, f", and {sets[0] // 4:,} buckets with it")
    period = 5.0 if nftables else 10.0
    yield Writer(
        evidence=f"{name} is running (pid {pid}) and sets {sets[0]:,}{other} every {period:.0f} s{buckets}{condition}",
        next_step="Set `nf_conntrack_max: N` under [OPTIONS] in /etc/pve/local/host.fw to the limit that you want.",
        sets=sets,
        buckets=() if nftables else tuple(limit // 4 for limit in sets),
        is_final=cluster is not None,
        pid=pid,
        period_seconds=period,
    )


def _firewall_options(path: Path) -> dict[str, str] | None:
    """Return the `name: value` pairs under [OPTIONS] of a Proxmox firewall file; None if it can't be read."""
    section, found = "", dict[str, str]()
    lines = list(conf_dirs.read_lines(path))
    for _, line in lines:
        name, colon, value = line.partition(":")
        if line.startswith("["):
            section = line.upper()
        elif section.startswith("[OPTIONS]") and colon:
            found[name.strip()] = value.strip()[:18]
    return found if lines else None


def _calico(found: Sequence[Program]) -> Iterator[Writer]:
    """Yield `calicoctl node run`: while it runs, or with the container that it has started. A pod sets nothing."""
    for program in found:
        if program.name in _CALICO and not program.pod:
            yield Writer(
                evidence=f"{program.name} is running (pid {program.pid}): `calicoctl node run` sets {_CALICO_SETS:,} each time",
                next_step="Start calico-node with the command that `calicoctl node run --dryrun` prints: that sets nothing.",
                sets=(_CALICO_SETS,),
                pid=program.pid,
            )


def _tuned(root: Path, running: Sequence[Program]) -> Iterator[Writer]:
    """Yield the lines that set the limit in the active profile of tuned, and in the profiles that it includes.

    A container has its own files, which need CAP_SYS_PTRACE.
    """
    inside = [program for program in running if program.container]
    if not inside:
        yield from _profiles(root, running[0].pid if running else None)
    for program in inside:
        below = root / "proc" / str(program.pid) / "root"
        if conf_dirs.read_text(below / "etc/tuned/active_profile"):
            yield from _profiles(below, program.pid)
            continue
        yield Writer(
            evidence=(
                f"tuned is running in a container (pid {program.pid}), and its profile can't be read: `openshift` sets "
                f"{_OPENSHIFT:,} and as many buckets at each start, others may leave them alone"
            ),
            next_step="Set the limit in a profile of your own (on OpenShift: a Tuned object) to the one that you want.",
            sets=(_OPENSHIFT,),
            buckets=(_OPENSHIFT,),
            pid=program.pid,
        )


def _profiles(root: Path, pid: int | None) -> Iterator[Writer]:
    """Yield the lines below `root` that set the limit."""
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
        path = next((path for path in paths if os.path.isfile(path)), None)
        if path is None:
            continue
        pairs = _pairs(path)
        waiting += re.split(r"[\s,;]+", pairs.get("include", ""))
        buckets = pairs.get(_HASHSIZE, "")[:18]
        for line in _assignments(path):
            yield Writer(
                evidence=f"tuned ({state}, profile {match[1]}) sets {line.value} ({line.path}:{line.line}); it {how}",
                next_step=step,
                sets=() if line.number is None else (line.number,),
                buckets=(int(buckets),) if buckets.isascii() and buckets.isdecimal() else (),
                is_final=not reapplied,
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
            sets=() if line.number is None else (line.number,),
            is_final=True,
            is_process=False,
        )


def _scripts(root: Path) -> Iterator[Writer]:
    """Yield the first line of each start script, rule or crontab that names the limit."""
    paths = (path for pattern in _SCRIPTS for path in conf_dirs.matching(root, pattern))
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
