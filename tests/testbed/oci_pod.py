"""A guard in a container of a real runtime, with the rights and mounts of the acting container of a pod.

Its file tree is this machine's, read-only, with the repository in it. Paths are masked and read-only, and devices denied,
as containerd does it. History, lock and settings are folders of the test, so no guard of this machine sees them.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.private_world import PYTHON, REPOSITORY, Guard

RUNTIMES = ("crun", "runc")
HOST = "/host"
LIMIT_FOLDER = "/proc/sys/net/netfilter"
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_SET_UP = """
mkdir -p "$1/upper" "$1/work" "$1/rootfs"
mount -n -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/rootfs"
mkdir -p "$1/rootfs/repository" "$1/rootfs/host" "$1/rootfs/etc/conntrackd-guard"
umount /sys/fs/cgroup/unified 2>/dev/null || true
mount -n -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc 2>/dev/null || true
shift
exec "$@"
"""
"""crun refuses a hybrid hierarchy of cgroups. Hosts have binfmt_misc mounted, which a read-only volume leaves writable."""


@dataclass(kw_only=True)
class Pod:
    """A pod's acting container; its fields differ from those of the chart where a test changes them."""

    folder: Path
    runtime: str
    uid: int = 0
    capabilities: tuple[str, ...] = ()
    host_network: bool = True
    host_users: bool = True
    read_only: frozenset[str] = frozenset()
    """Paths of the host that are mounted read-only although they should not be."""
    without: frozenset[str] = frozenset()
    """Paths of the host that are not mounted."""
    name: str = field(default_factory=lambda: uuid.uuid4().hex * 2)
    """As long as a container's id in Kubernetes."""

    def __post_init__(self) -> None:
        """Make the folders that stand for the host's."""
        for name in ("run", "lib", "etc", "journal", "netns", "empty"):
            (self.folder / name).mkdir(exist_ok=True)

    def configure(self, settings: dict[str, object]) -> None:
        """Write the settings; JSON is YAML."""
        (self.folder / "etc/guard.yaml").write_text(json.dumps(settings) + "\n")

    def start(self, *arguments: str) -> Guard:
        """Start `guard run` and return it; its process is the runtime's, which ends with the container."""
        log = self.folder / f"{self.name[:12]}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._command("run", "--log-format", "json", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        return Guard(process, log)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in a container like this to its end."""
        return subprocess.run(self._runtime(command), capture_output=True, text=True, timeout=60, check=False)

    def guard(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the guard in a container like this to its end."""
        return self.run(PYTHON, "-m", "conntrackd_guard", *arguments)

    def decisions(self) -> list[dict[str, Any]]:
        """Return the history, oldest first."""
        answer = self.guard("history", "--json")
        assert answer.returncode == 0, answer.stderr
        found: list[dict[str, Any]] = json.loads(answer.stdout)["decisions"]
        return sorted(found, key=lambda row: int(row["id"]))

    def pid(self) -> int:
        """Return the guard's process id on the host; 0 while there is none."""
        try:
            return int((self.folder / "run/lock").read_text())
        except (OSError, ValueError):
            return 0

    def _command(self, *arguments: str) -> list[str]:
        return self._runtime((PYTHON, "-m", "conntrackd_guard", *arguments))

    def _runtime(self, command: tuple[str, ...]) -> list[str]:
        name = self.name if "run" in command else uuid.uuid4().hex * 2
        bundle = self.folder / f"bundle-{name[:12]}"
        bundle.mkdir(exist_ok=True)
        # A container must not outlive the test: it could raise the limit after the restore.
        specification = self._specification(["setpriv", "--pdeathsig", "KILL", *command])
        (bundle / "config.json").write_text(json.dumps(specification))
        run = [self.runtime, "--root", str(self.folder / "state"), "run", "--bundle", str(bundle), name]
        return [
            "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private",
            "sh", "-ec", _SET_UP, "sh", str(bundle), *run,
        ]  # fmt: skip

    def _specification(self, command: list[str]) -> dict[str, Any]:
        namespaces = ["pid", "ipc", "uts", "mount", *([] if self.host_network else ["network"])]
        linux: dict[str, Any] = {
            "namespaces": [{"type": name} for name in (*namespaces, *([] if self.host_users else ["user"]))],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        }
        if not self.host_users:
            mapped = [{"containerID": 0, "hostID": 0, "size": 65536}]
            linux |= {"uidMappings": mapped, "gidMappings": mapped}
        return {
            "ociVersion": "1.0.2",
            "hostname": "pod",
            "root": {"path": "rootfs", "readonly": True},
            "process": {
                "user": {"uid": self.uid, "gid": 4},
                "cwd": "/",
                "args": command,
                "env": [
                    "PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"GUARD_ROOT={HOST}", "PYTHONPATH=/repository",
                    "PYTHONDONTWRITEBYTECODE=1", "LANG=C.UTF-8",
                ],
                "noNewPrivileges": True,
                "capabilities": dict.fromkeys(_SETS, self.capabilities),
            },
            "mounts": [*(_OWN if self.host_users else _OWN_OF_USER), *self._mounts()],
            "linux": linux,
        }  # fmt: skip

    def _mounts(self) -> list[dict[str, Any]]:
        of_host: dict[str, tuple[Path | str, str]] = {
            "/proc": ("/proc", "ro"),
            LIMIT_FOLDER: (LIMIT_FOLDER, "rw"),
            "/run/conntrackd-guard": (self.folder / "run", "rw"),
            "/var/lib/conntrackd-guard": (self.folder / "lib", "rw"),
            "/var/log/journal": (self.folder / "journal", "ro"),
            "/run/netns": (self.folder / "netns", "ro"),
            "/etc/machine-id": ("/etc/machine-id", "ro"),
        }
        mounts = [
            _bind(f"{HOST}{path}", source, "ro" if path in self.read_only else access)
            for path, (source, access) in of_host.items()
            if path not in self.without
        ]
        if "/proc" not in self.without:
            mounts += [_bind(f"{HOST}/proc{path}", self.folder / "empty", "ro") for path in ("/sys/fs", "/fs")]
        return [
            *mounts,
            _bind("/etc/conntrackd-guard", self.folder / "etc", "ro"),
            _bind("/repository", REPOSITORY, "ro"),
        ]


def _bind(destination: str, source: Path | str, access: str) -> dict[str, Any]:
    """Return a hostPath volume: kubelets ask for recursive mounts, of which the top one alone may be read-only."""
    options = ["rbind", "rprivate", access]
    return {"destination": destination, "type": "bind", "source": str(source), "options": options}


def _own(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": ["nosuid", *options]}


_OWN = (
    _own("/proc", "proc", "noexec", "nodev"),
    _own("/dev", "tmpfs", "strictatime", "mode=755", "size=65536k"),
    _own("/dev/pts", "devpts", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    _own("/dev/shm", "tmpfs", "noexec", "nodev", "mode=1777", "size=65536k"),  # noqa: S108
    _own("/sys", "sysfs", "noexec", "nodev", "ro"),
    _own("/run", "tmpfs", "nodev", "mode=755"),
    _own("/tmp", "tmpfs", "nodev", "mode=1777"),  # noqa: S108 - the container's own
)
_OWN_OF_USER = (*(mount for mount in _OWN if mount["destination"] != "/sys"), _bind("/sys", "/sys", "ro"))
"""Such a container may not mount the sysfs of the host's network namespace."""
