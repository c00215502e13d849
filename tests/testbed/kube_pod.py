"""A pod whose containers a real OCI runtime runs, from its manifest and the image, as a kubelet and containerd would.

Paths are masked and read-only, devices denied and capabilities set as containerd does it. Of the host's folders only those of
the kernel are this machine's: history, lock and settings are folders of the test, so no guard of this machine sees them.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from testbed.private_world import Guard

RUNTIMES = ("crun", "runc")
HOST = "/host"
LIMIT_FOLDER = "/proc/sys/net/netfilter"
GUARD, OWNERS, EVENTS = "guard", "owners", "events"
_SECCOMP = Path("/usr/share/containers/seccomp.json")
"""RuntimeDefault of podman and CRI-O, in the package golang-github-containers-common. containerd's differs in:"""
_FOR_ADMINISTRATORS = {
    "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount",
    "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname",
    "setns", "syslog", "umount", "umount2", "unshare",
}  # fmt: skip
_CLONE = (
    {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
        {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}  # no new namespaces
    ]},
    {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
)  # fmt: skip
_OF_THE_KERNEL = ("/proc", "/etc/machine-id")
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_PROPAGATION = {"None": "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}
_SET_UP = """
mkdir -p "$1/upper" "$1/work" "$1/rootfs"
mount -n -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/rootfs"
umount /sys/fs/cgroup/unified 2>/dev/null || true
mount -n -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc 2>/dev/null || true
shift 2
exec "$@"
"""
"""crun refuses a hybrid hierarchy of cgroups. Hosts have binfmt_misc mounted, which a read-only volume leaves writable."""
_UNTIL_PARENT_ENDS = ("setpriv", "--pdeathsig", "KILL")
"""A container must not outlive the test: it could raise the limit after the restore."""

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Image:
    """An unpacked image and its configuration."""

    rootfs: Path
    config: Document

    @classmethod
    def unpacked(cls, bundle: Path) -> Self:
        """Return the image that umoci unpacked there."""
        process = json.loads((bundle / "config.json").read_text())["process"]
        return cls(rootfs=bundle / "rootfs", config=process)


@dataclass(kw_only=True)
class Pod:
    """A pod of a manifest; tests change `spec` and `settings`."""

    folder: Path
    runtime: str
    image: Image
    spec: Document
    settings: dict[str, str]
    """Of the ConfigMap."""
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[str] = field(default_factory=list)

    @classmethod
    def of_manifest(cls, documents: list[Document], *, folder: Path, runtime: str, image: Image) -> Self:
        """Return the pod of the manifest's DaemonSet."""
        kinds = {document["kind"]: document for document in documents if document}
        spec = copy.deepcopy(kinds["DaemonSet"]["spec"]["template"]["spec"])
        return cls(folder=folder, runtime=runtime, image=image, spec=spec, settings=dict(kinds["ConfigMap"]["data"]))

    def altered(self, **changes: Any) -> Pod:
        """Return another pod on the same host."""
        fresh = {"name": uuid.uuid4().hex, "spec": copy.deepcopy(self.spec), "settings": dict(self.settings)}
        return replace(self, **{**fresh, **changes})

    def container(self, name: str = GUARD) -> Document:
        """Return a container's specification."""
        found: Document = next(one for one in self.spec["containers"] if one["name"] == name)
        return found

    def mount(self, path: str, name: str = GUARD) -> Document:
        """Return the volumeMount of a host's path."""
        found: Document = next(
            one for one in self.container(name)["volumeMounts"] if one["mountPath"] == f"{HOST}{path}"
        )
        return found

    def without(self, *paths: str) -> Pod:
        """Return another pod whose guard lacks these paths of the host and all below them."""
        pod = self.altered()
        mounts = pod.container()["volumeMounts"]
        gone = tuple(f"{HOST}{path}/" for path in paths)
        mounts[:] = [one for one in mounts if not f"{one['mountPath']}/".startswith(gone)]
        return pod

    def start(self, name: str = GUARD) -> Guard:
        """Start a container's own program; the process is the runtime's, which ends with the container."""
        log = self.folder / f"{self._id(name)[:12]}-{name}.log"
        with log.open("wb") as out:
            program = self._program(name) + (["--log-format", "json"] if name == GUARD else [])
            command = self._runtime(name, program, self._id(name))
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        return Guard(process, log)

    def run(
        self, *command: str, name: str = GUARD, volumes: tuple[tuple[str, Path], ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a container like this to its end."""
        run = self._runtime(name, list(command), uuid.uuid4().hex * 2, volumes)
        return subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)

    def guard(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the guard in a container like this to its end."""
        return self.run(*self.image.config["args"][:1], *arguments)

    def decisions(self) -> list[Document]:
        """Return the history, oldest first."""
        answer = self.guard("history", "--json")
        assert answer.returncode == 0, answer.stderr
        found: list[Document] = json.loads(answer.stdout)["decisions"]
        return sorted(found, key=lambda row: int(row["id"]))

    def pid(self) -> int:
        """Return the guard's process id on the host; 0 while there is none."""
        try:
            return int((self.on_host("/run/conntrackd-guard") / "lock").read_text())
        except (OSError, ValueError):
            return 0

    def on_host(self, path: str) -> Path:
        """Return what stands for a path of the host."""
        return Path(path) if path.startswith(_OF_THE_KERNEL) else self.folder / "host" / path.lstrip("/")

    def configure(self) -> None:
        """Write the ConfigMap's volume as a kubelet does: a new folder, and one link that is replaced."""
        folder = self.folder / "settings"
        data = folder / f"..{uuid.uuid4().hex}"
        data.mkdir(parents=True)
        folder.chmod(0o777)
        for key, text in self.settings.items():
            (data / key).write_text(text)
            if not (folder / key).is_symlink():
                (folder / key).symlink_to(f"..data/{key}")
        (folder / "..new").symlink_to(data.name)
        (folder / "..new").rename(folder / "..data")
        for link in folder.iterdir():
            if not link.name.startswith("..") and link.name not in self.settings:
                link.unlink()

    def end(self) -> None:
        """Kill what still runs."""
        for one in self.started:
            subprocess.run([*self._command(), "kill", one, "KILL"], capture_output=True, check=False)
            subprocess.run([*self._command(), "delete", "--force", one], capture_output=True, check=False)

    def _id(self, name: str) -> str:
        """As long as a container's id in Kubernetes."""
        return uuid.uuid5(uuid.NAMESPACE_OID, self.name + name).hex + self.name

    def container_id(self, name: str = GUARD) -> str:
        """Return the id of a started container."""
        return self._id(name)

    def _command(self) -> list[str]:
        return [self.runtime, "--root", str(self.folder / "state")]

    def _program(self, name: str) -> list[str]:
        container, image = self.container(name), self.image.config["args"]
        return [
            *container.get("command", image[:1]),
            *container.get("args", [] if "command" in container else image[1:]),
        ]

    def _runtime(
        self, name: str, command: list[str], one: str, volumes: tuple[tuple[str, Path], ...] = ()
    ) -> list[str]:
        self.started.append(one)
        bundle = self.folder / f"bundle-{one[:12]}"
        bundle.mkdir(exist_ok=True)
        if self.container(name).get("securityContext", {}).get("runAsUser") == 0:
            command = [*_UNTIL_PARENT_ENDS, *command]
        specification = self._specification(name, command)
        specification["mounts"] += [_bind(path, source, ["rbind", "rprivate", "ro"]) for path, source in volumes]
        (bundle / "config.json").write_text(json.dumps(specification))
        return [
            *_UNTIL_PARENT_ENDS, "unshare", "--mount", "--propagation", "private", "sh", "-ec", _SET_UP, "sh",
            str(bundle), str(self.image.rootfs), *self._command(), "run", "--bundle", str(bundle), one,
        ]  # fmt: skip

    def _specification(self, name: str, command: list[str]) -> Document:
        container = self.container(name)
        context = {**self.spec.get("securityContext", {}), **container.get("securityContext", {})}
        capabilities = _capabilities(context)
        user_namespace = self.spec.get("hostUsers") is False
        namespaces = ["pid", "ipc", "uts", "mount"]
        namespaces += [] if self.spec.get("hostNetwork") else ["network"]
        linux: Document = {
            "namespaces": [{"type": kind} for kind in [*namespaces, *(["user"] if user_namespace else [])]],
            "resources": {"devices": [{"allow": bool(context.get("privileged")), "access": "rwm"}]},
        }
        if not context.get("privileged"):
            linux |= {"maskedPaths": _MASKED, "readonlyPaths": _READ_ONLY}
            if context.get("seccompProfile", {}).get("type") == "RuntimeDefault":
                linux["seccomp"] = _seccomp(capabilities)
        if user_namespace:
            mapped = [{"containerID": 0, "hostID": 0, "size": 65536}]
            linux |= {"uidMappings": mapped, "gidMappings": mapped}
        # All of the host's, of which the guard opens one.
        devices = [_bind("/dev/kmsg", "/dev/kmsg", ["rbind", "rprivate", "rw"])] if context.get("privileged") else []
        environment = {**dict(one.split("=", 1) for one in self.image.config["env"])}
        environment |= {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}
        user = self.image.config["user"]
        return {
            "ociVersion": "1.0.2",
            "hostname": "node",
            "root": {"path": "rootfs", "readonly": bool(context.get("readOnlyRootFilesystem"))},
            "process": {
                "user": {"uid": context.get("runAsUser", user["uid"]), "gid": context.get("runAsGroup", user["gid"])},
                "cwd": container.get("workingDir", self.image.config["cwd"]),
                "args": command,
                "env": [f"{key}={value}" for key, value in environment.items()],
                "noNewPrivileges": context.get("allowPrivilegeEscalation") is False,
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            },
            "mounts": [*_own_mounts(user_namespace=user_namespace), *devices, *self._mounts(container)],
            "linux": linux,
        }

    def _mounts(self, container: Document) -> list[Document]:
        """Return the volumes, in the order of their paths, as containerd mounts them."""
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        mounts = []
        for mount in sorted(container.get("volumeMounts", []), key=lambda one: str(one["mountPath"])):
            recursive = mount.get("recursiveReadOnly") in {"Enabled", "IfPossible"}
            access = ("rro" if recursive else "ro") if mount.get("readOnly") else "rw"
            options = ["rbind", _PROPAGATION[mount.get("mountPropagation", "None")], access]
            mounts.append(_bind(mount["mountPath"], self._source(volumes[mount["name"]]), options))
        return mounts

    def _source(self, volume: Document) -> Path:
        if "hostPath" in volume:
            path = self.on_host(volume["hostPath"]["path"])
            path.mkdir(parents=True, exist_ok=True) if not path.exists() else None
            return path
        if "configMap" not in volume:  # an emptyDir, or a token that no test has
            path = self.folder / "empty" / self.name / str(volume["name"])
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)
            return path
        if not (self.folder / "settings").exists():
            self.configure()
        return self.folder / "settings"


def _bind(destination: str, source: Path | str, options: list[str]) -> Document:
    """Return a volume: kubelets ask for recursive mounts, of which the top one alone may be read-only."""
    return {"destination": destination, "type": "bind", "source": str(source), "options": options}


def _own(destination: str, kind: str, *options: str) -> Document:
    return {"destination": destination, "type": kind, "source": kind, "options": ["nosuid", *options]}


def _own_mounts(*, user_namespace: bool) -> list[Document]:
    """Return what containerd mounts in every container. With a user namespace the host's sysfs can't be mounted again."""
    return [
        _own("/proc", "proc", "noexec", "nodev"),
        _own("/dev", "tmpfs", "strictatime", "mode=755", "size=65536k"),
        _own("/dev/pts", "devpts", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _own("/dev/shm", "tmpfs", "noexec", "nodev", "mode=1777", "size=65536k"),  # noqa: S108
        _bind("/sys", "/sys", ["rbind", "rprivate", "ro"])
        if user_namespace
        else _own("/sys", "sysfs", "noexec", "nodev", "ro"),
    ]


def _capabilities(context: Document) -> list[str]:
    """Return what a container has beyond `drop: [ALL]`. Raises AssertionError if the pod keeps a runtime's own set."""
    if context.get("privileged"):
        kept = int(Path("/proc/self/status").read_text().partition("CapBnd:\t")[2][:16], 16)
        names = subprocess.run(["capsh", f"--decode={kept:x}"], capture_output=True, text=True, check=True).stdout
        return [name.upper() for name in names.strip().partition("=")[2].split(",")]
    wanted = context.get("capabilities", {})
    assert wanted.get("drop") == ["ALL"]
    return [f"CAP_{name}" for name in wanted.get("add", [])]


def _seccomp(capabilities: list[str]) -> Document:
    """Return containerd's default profile for these capabilities."""
    profile = json.loads(_SECCOMP.read_text())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
    calls = []
    for rule in profile["syscalls"]:
        needs, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        applies = set(needs.get("caps", [])) <= set(capabilities) and machine in needs.get("arches", [machine])
        if applies and not set(excludes.get("caps", [])) & set(capabilities):
            kept = {key: rule[key] for key in ("action", "errnoRet") if rule.get(key) is not None}
            names = [
                name for name in rule["names"] if name not in _FOR_ADMINISTRATORS or "CAP_SYS_ADMIN" in capabilities
            ]
            calls += [{**kept, "names": names, "args": rule.get("args") or []}] if names else []
    return {"defaultAction": profile["defaultAction"], "defaultErrnoRet": 1, "syscalls": [*calls, *_CLONE]}


def missing(runtime: str) -> bool:
    """Return whether a runtime is not installed."""
    return shutil.which(runtime) is None
