"""Other programs that may write the limit, found by their traces (processes, profiles, scripts), and who changed it.

A trace is no proof that the program wrote the limit. Files in the sysctl folders are not traces: they are applied in a
known order (`host.conf_dirs`).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

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
from conntrackd_guard.host import conf_dirs
from conntrackd_guard.host.processes import started_ticks

UNKNOWN = "unknown"
STARTED_SECONDS = 60.0
"""A program that sets the limit does so as it starts; on a busy node that takes tens of seconds."""
_K3S = ("k3s-server", "k3s-agent")
_KUBE_PROXIES = ("kube-proxy", "kubelite", *_K3S)
"""All but the first contain a kube-proxy: MicroK8s, and K3s as server and agent."""
_PER_CORE, _MIN = 32768, 131072
"""kube-proxy's defaults: entries per core, and the minimum in all."""
_CAP, _CAPPED = 1048576, (1, 36)
"""Its highest limit, whatever its settings, from this version on (kubernetes#142035)."""
_LOWERING = ((1, 29), (1, 38))
"""From the first version on it lowers a higher limit at each start, and no longer from the second on."""
_NEVER_LOWERED = (1, 22)
"""Between this version and the first of those it did not."""
_MAX_PER_CORE = re.compile(r"(?:conntrack-max-per-core|maxPerCore)[\"']?[\s=:]+[\"']?(\d{1,18})\b")
_MIN_LIMIT = re.compile(r"(?:conntrack-min|^min)[\"']?[\s=:]+[\"']?(\d{1,18})\b", re.MULTILINE)
_CONFIG = re.compile(r"^--config[\s=]+(/.+)$", re.MULTILINE)
_NO_PROXY = re.compile(r"disable-kube-proxy(?![\"']?\s*[=:]\s*[\"']?false)")
_CONTAINER = re.compile(r"[0-9a-f]{64}")
_CONTAINERS = (
    "run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json",
    "run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json",
    "run/containers/storage/overlay-containers/{}/userdata/config.json",
)
"""A container's specification, which names its image: containerd, that of RKE2, and CRI-O."""
_IMAGE = re.compile(r'"io\.kubernetes\.cri(?:\.image-name|-o\.ImageName)"\s*:\s*"[^"]*:v(\d{1,3})\.(\d{1,3})\.')
_SNAP = re.compile(r"^version:\s*[\"']?v?(\d{1,3})\.(\d{1,3})", re.MULTILINE)
_PVE, _PVE_NFTABLES = "pve-firewall", "proxmox-firewal"
"""Names of processes; the kernel cuts the second, proxmox-firewall, to 15 characters."""
_PVE_DEFAULTS = (262144, 65536)
"""The least that pve-firewall sets: today's, and that of old versions (update_nf_conntrack_max in PVE/Firewall.pm)."""
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
    sets: tuple[int, ...] = ()
    """The value it sets; several where its version decides, none if unknown."""
    buckets: tuple[int, ...] = ()
    """The number of hash buckets that it sets with each of them."""
    is_final: bool = False
    """Whether it sets that after the sysctl files, and again and again."""
    lowers: bool = True
    """Whether it sets that over a higher limit too."""
    pid: int | None = None
    """None while it doesn't run."""
    period_seconds: float | None = None
    """How often it sets that while it runs; None: at its start."""
    is_process: bool = True
    """Whether it runs on; a command that sets its value whenever it is called leaves no time as evidence."""


def other_writers(root: Path, cores: int) -> list[Writer]:
    """Return the programs whose traces are found. Never raises."""
    running = _running(root / "proc", {*_KUBE_PROXIES, "tuned", _PVE, _PVE_NFTABLES})
    proxies = (_kube_proxy(root, name, running[name], cores) for name in _KUBE_PROXIES if name in running)
    return [
        *chain.from_iterable(proxies), *_proxmox(root, running), *_tuned(root, running.get("tuned")), *_ufw(root),
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
) -> str:
    """Return who may have set `limit`, seen at `seen_seconds` (CLOCK_BOOTTIME), or UNKNOWN. Never raises.

    With `buckets`, who may have set that number of buckets instead. Evidence is needed of time and value: a program that
    sets this value and started within `window_seconds` before, or sets it periodically; or a line of a sysctl file, ufw's
    too, with this value. `was`: the limit before, which some programs leave alone if it is higher.
    """
    found, lowered = [], was is not None and is_lower(limit, was)
    for writer in other_writers(root, os.cpu_count() or 1):
        sets_it = limit in writer.sets if buckets is None else buckets in writer.buckets
        ago = None if writer.pid is None else _started_ago(root, writer.pid, seen_seconds)
        starts = writer.is_process and writer.period_seconds is None
        if not sets_it or (lowered and not writer.lowers and buckets is None):
            continue
        if writer.is_process and (ago is None or ago < -1.0 or (starts and ago > window_seconds)):
            continue
        found.append(f"{writer.evidence}; started {max(0.0, ago or 0.0):.0f} s before" if starts else writer.evidence)
    value, keys = (limit, LIMIT_KEYS) if buckets is None else (buckets, BUCKET_KEYS)
    lines = (line for line in conf_dirs.assignments(root, keys) if line.number == value and _OWN not in line.path)
    found += [f"{line.path}:{line.line} has this value" for line in lines]
    return printable("; ".join(found[:_MAX_CAUSES])) or UNKNOWN


def _started_ago(root: Path, pid: int, seen_seconds: float) -> float | None:
    """Return how long before `seen_seconds` a process started; None if it has ended."""
    ticks = started_ticks(root / "proc" / str(pid))
    return None if ticks is None else seen_seconds - ticks / os.sysconf("SC_CLK_TCK")


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
    """Yield a kube-proxy and the limit it sets; nothing if its settings disable that."""
    settings, source = _proxy_settings(root, name, pid)
    if name in _K3S and _NO_PROXY.search(settings):
        return
    per_cores, minimums = _MAX_PER_CORE.findall(settings), _MIN_LIMIT.findall(settings)
    per_core, minimum = int((per_cores or [_PER_CORE])[-1]), int((minimums or [_MIN])[-1])
    if not per_core:
        return
    limit, version = max(per_core * cores, minimum), _proxy_version(root, name, pid)
    capped = min(limit, _CAP)
    if version is None:
        sets = tuple(dict.fromkeys((limit, capped)))
        note = f" ({capped:,} from version {_CAPPED[0]}.{_CAPPED[1]} on)" if capped < limit else ""
        lowers = "; versions 1.29 to 1.37 lower a higher limit to that"
    else:
        sets, note = (capped if version >= _CAPPED else limit,), ""
        name = f"{name} {version[0]}.{version[1]}"
        leaves = _NEVER_LOWERED <= version < _LOWERING[0] or version >= _LOWERING[1]
        lowers = "; it leaves a higher limit alone" if leaves else "; it lowers a higher limit to that"
    yield Writer(
        evidence=f"{name} is running (pid {pid}) and sets {sets[0]:,}{note} at each start, {source}{lowers}",
        next_step="Set conntrack.maxPerCore: 0 in kube-proxy's configuration, so that it leaves the limit alone.",
        sets=sets,
        buckets=tuple(limit // 4 for limit in sets),
        lowers=not lowers.endswith("alone"),
        pid=pid,
    )


def _proxy_settings(root: Path, name: str, pid: int) -> tuple[str, str]:
    """Return the text that has a kube-proxy's settings, the decisive one last, and where that is from."""
    folder = root / "proc" / str(pid)
    command = (conf_dirs.read_text(folder / "cmdline") or "").replace("\0", "\n")
    if name in _K3S:
        paths = [root / "etc/rancher/k3s/config.yaml", *sorted((root / "etc/rancher/k3s/config.yaml.d").glob("*.yaml"))]
        settings = "\n".join([*islice(map(_content, paths), _MAX_SCRIPTS), command])
    elif name == "kubelite":
        settings = _content(root / "var/snap/microk8s/current/args/kube-proxy")
    elif config := _CONFIG.search(command):  # then the other flags don't count
        settings = _content(folder / "root" / config[1].strip().lstrip("/"))
        return settings, "by its configuration" if settings else "unless its configuration overrides that"
    else:
        settings = command
    is_set = _MAX_PER_CORE.search(settings)
    return settings, "by its flags" if is_set else "unless its configuration overrides that"


def _content(path: Path) -> str:
    """Return a file's lines without comments; "" if it can't be read."""
    return "\n".join(line for _, line in conf_dirs.read_lines(path))


def _proxy_version(root: Path, name: str, pid: int) -> tuple[int, int] | None:
    """Return a kube-proxy's version by its container's image or its snap; None if neither shows it."""
    if name == "kubelite":
        found = _SNAP.search(conf_dirs.read_text(root / "snap/microk8s/current/meta/snap.yaml") or "")
        return (int(found[1]), int(found[2])) if found else None
    for identity in _CONTAINER.findall(conf_dirs.read_text(root / f"proc/{pid}/cgroup") or "")[-1:]:
        for path in _CONTAINERS:
            found = _IMAGE.search(conf_dirs.read_text(root / path.format(identity)) or "")
            if found:
                return int(found[1]), int(found[2])
    return None


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
                sets=() if line.number is None else (line.number,),
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
