"""The limit that a kube-proxy sets at each start, by its version and its settings: its own process, or K3s and MicroK8s.

It is max(maxPerCore × CPUs of the host, min), from 1.36 on 1,048,576 at most; maxPerCore 0 leaves the limit alone. Versions
before 1.22 and those from 1.29 to 1.37 lower a higher limit (kubernetes: cmd/kube-proxy/app/conntrack.go).
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from conntrackd_guard.host import conf_dirs
from conntrackd_guard.host.programs import Program
from conntrackd_guard.host.writer import Writer

_K3S = ("k3s-server", "k3s-agent")
KUBE_PROXIES = {"kube-proxy": "kube-proxy", "kubelite": "kubelite", **dict.fromkeys(_K3S, "k3s")}
"""Names of processes, and of their units and executables. All but the first contain a kube-proxy: MicroK8s and K3s."""
_PER_CORE, _MIN = 32768, 131072
"""kube-proxy's defaults: entries per core, and the minimum in all."""
_CAP, _CAPPED = 1048576, (1, 36)
"""Its highest limit, whatever its settings, from this version on (kubernetes#142035)."""
_LOWERING = ((1, 29), (1, 38))
"""From the first version on it lowers a higher limit at each start, and no longer from the second on."""
_NEVER_LOWERED = (1, 22)
"""Between this version and the first of those it did not."""
_MAX_PER_CORE = re.compile(r"(?:conntrack-max-per-core|maxPerCore)[\"']?[\s=:]+[\"']?(\d{1,18})\b")
_MIN_LIMIT = re.compile(r"(?:conntrack-min|^\s*[\"']?min)[\"']?[\s=:]+[\"']?(\d{1,18})\b", re.MULTILINE)
_CONFIG = re.compile(r"^--config[\s=]+(/.+)$", re.MULTILINE)
_NO_PROXY = re.compile(r"disable-(?:kube-proxy|agent)(?![\"']?\s*[=:]\s*[\"']?false)")
_CONTAINERS = (
    "run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json",
    "run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json",
    "run/containers/storage/overlay-containers/{}/userdata/config.json",
)
"""A container's specification, which names its image: containerd, that of RKE2, and CRI-O."""
_VOLUMES = "var/lib/kubelet/pods/{}/volumes/kubernetes.io~configmap/*/{}"
"""A file of a pod's ConfigMap, as kubelet writes it."""
_IMAGE = re.compile(r'"io\.kubernetes\.cri(?:\.image-name|-o\.ImageName)"\s*:\s*"[^"]*:v(\d{1,3})\.(\d{1,3})\.')
_SNAP = re.compile(r"^version:\s*[\"']?v?(\d{1,3})\.(\d{1,3})", re.MULTILINE)
_MOST_FILES = 500


def default_limit(cores: int) -> int:
    """Return the limit that a kube-proxy sets on `cores` CPUs if its settings name none."""
    return max(_PER_CORE * cores, _MIN)


def limit_set(root: Path, program: Program, cores: int) -> Iterator[Writer]:
    """Yield a kube-proxy and the limit it sets on `cores` CPUs; nothing if its settings disable that."""
    settings, source = _settings(root, program)
    if program.name in _K3S and _NO_PROXY.search(settings):
        return
    per_cores, minimums = _MAX_PER_CORE.findall(settings), _MIN_LIMIT.findall(settings)
    per_core, minimum = int((per_cores or [_PER_CORE])[-1]), int((minimums or [_MIN])[-1])
    if not per_core:
        return
    limit, version, name = max(per_core * cores, minimum), _version(root, program), program.name
    capped = min(limit, _CAP)
    if version is None:
        sets = tuple(dict.fromkeys((limit, capped)))
        note = f" ({capped:,} from version {_CAPPED[0]}.{_CAPPED[1]} on)" if capped < limit else ""
        leaves, lowers = (
            False,
            "versions 1.29 to 1.37 lower a higher limit to that, 1.22 to 1.28 and 1.38 leave it alone",
        )
    else:
        sets, note = (capped if version >= _CAPPED else limit,), ""
        name = f"{name} {version[0]}.{version[1]}"
        leaves = _NEVER_LOWERED <= version < _LOWERING[0] or version >= _LOWERING[1]
        as_released = "as released " if _CAPPED <= version < _LOWERING[1] else ""
        lowers = "it leaves a higher limit alone" if leaves else f"{as_released}it lowers a higher limit to that"
    yield Writer(
        evidence=f"{name} is running (pid {program.pid}) and sets {sets[0]:,}{note} at each start, {source}; {lowers}",
        next_step="Set conntrack.maxPerCore: 0 in kube-proxy's configuration, so that it leaves the limit alone.",
        sets=sets,
        buckets=tuple(limit // 4 for limit in sets),
        lowers=not leaves,
        pid=program.pid,
        is_kube_proxy=True,
    )


def _settings(root: Path, program: Program) -> tuple[str, str]:
    """Return the text that has a kube-proxy's settings, the decisive one last, and where that is from."""
    folder = root / "proc" / str(program.pid)
    command = (conf_dirs.read_text(folder / "cmdline") or "").replace("\0", "\n")
    if program.name in _K3S:
        paths = [
            root / "etc/rancher/k3s/config.yaml",
            *conf_dirs.matching(root, "etc/rancher/k3s/config.yaml.d/*.yaml"),
        ]
        settings = "\n".join([*islice(map(_content, paths), _MOST_FILES), command])
    elif program.name == "kubelite":
        settings = _content(root / "var/snap/microk8s/current/args/kube-proxy")
    elif config := _CONFIG.search(command):  # then the other flags don't count
        path = config[1].strip()
        settings = _content(folder / "root" / path.lstrip("/"))  # needs CAP_SYS_PTRACE
        if not settings and program.pod:
            name = path.rpartition("/")[2].translate({ord(special): f"[{special}]" for special in "*?["})
            settings = "\n".join(
                map(_content, islice(conf_dirs.matching(root, _VOLUMES.format(program.pod, name)), _MOST_FILES))
            )
        return settings, "by its configuration" if settings else "unless its configuration overrides that"
    else:
        settings = command
    is_set = _MAX_PER_CORE.search(settings)
    return settings, "by its flags" if is_set else "unless its configuration overrides that"


def _content(path: Path) -> str:
    """Return a file's lines without comments; "" if it can't be read."""
    return "\n".join(line for _, line in conf_dirs.read_lines(path))


def _version(root: Path, program: Program) -> tuple[int, int] | None:
    """Return a kube-proxy's version by its container's image or its snap; None if neither shows it."""
    if program.name == "kubelite":
        found = _SNAP.search(conf_dirs.read_text(root / "snap/microk8s/current/meta/snap.yaml") or "")
        return (int(found[1]), int(found[2])) if found else None
    for path in _CONTAINERS if program.container else ():
        found = _IMAGE.search(conf_dirs.read_text(root / path.format(program.container)) or "")
        if found:
            return int(found[1]), int(found[2])
    return None
