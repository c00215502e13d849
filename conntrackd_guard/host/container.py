"""What a guard in a container lacks of its host, and the fields of the pod's specification that give it.

`--root` names where the host's files are mounted. Nothing here is needed on the host itself.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.processes import maps_all_users

INITIAL_ONLY = "proc/sys/net/core/netdev_max_backlog"
"""The kernel shows this sysctl in the initial network namespace alone, whatever the mode of its other files."""
LIMIT_FOLDER = "/proc/sys/net/netfilter"
RUN_FOLDER = "/run/conntrackd-guard"
RING_BUFFER_STEP = (
    "A pod has it with privileged: true only. Without, kernel messages come from the journal, up to 0.5 s later."
)
_MASKS = ("/proc/sys/fs", "/proc/fs")
"""Folders with mounts of their own in /proc: binfmt_misc, nfsd. A read-only volume leaves those writable."""
_POINT = re.compile(r"^\S+ \S+ \S+ \S+ (\S+) (\S+) ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder or file of the host that the container needs."""

    path: str
    without: str
    """What goes wrong if it is missing."""
    writable: bool = False
    is_needed: bool = False
    """Whether nothing can be raised without it."""
    propagation: str = ""
    """Other than None, which Kubernetes has by default."""

    def field(self, paths: Paths) -> str:
        """Return what the pod's specification needs for it."""
        access = "readOnly: false" if self.writable else "readOnly: true"
        more = f", mountPropagation: {self.propagation}" if self.propagation else ""
        return f"a hostPath volume of {self.path} with mountPath: {paths.root}{self.path}, {access}{more}"


MOUNTS = (
    Mount(path="/proc", is_needed=True, without="nothing of the host can be read"),
    Mount(path=LIMIT_FOLDER, writable=True, is_needed=True, without="the limit can't be written"),
    Mount(path=RUN_FOLDER, writable=True, is_needed=True, without="two guards on this host don't see each other"),
    Mount(path="/var/lib/conntrackd-guard", writable=True, without="the history ends with this container"),
    Mount(path="/etc/machine-id", without="journals of other hosts in the same folder are read too"),
    Mount(
        path="/run/netns",
        propagation="HostToContainer",
        without="network namespaces have no names, and those without a process are not seen",
    ),
)
JOURNALS = tuple(
    Mount(path=path, without="kernel messages are not read") for path in ("/var/log/journal", "/run/log/journal")
)
DROP_IN = Mount(
    path="/etc/sysctl.d", writable=True, without="no limit is saved for the next boot (or set persist: false)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Something of the host that this container lacks."""

    text: str
    field: str
    """The field of the pod's specification that gives it."""
    is_needed: bool = False

    @property
    def next_step(self) -> str:
        """What to change."""
        return f"The pod needs {self.field}."


def gaps(paths: Paths, *, persist: bool) -> list[Gap]:
    """Return what is missing, what is needed first; nothing without a prefix. Never raises."""
    found = [*_identity(paths), *_mounts(paths, persist=persist)] if paths.has_prefix else []
    return sorted(found, key=lambda gap: not gap.is_needed)


def sees_folders(paths: Paths) -> bool:
    """Return whether the host's configuration folders can be seen, not just the few that a pod mounts."""
    return not paths.has_prefix or (paths.root / "usr/lib").is_dir()


def mount_step(paths: Paths, path: str, otherwise: str) -> str:
    """Return which volume is missing for a path that can't be used in a container; elsewhere `otherwise`."""
    known = {mount.path: mount for mount in (*MOUNTS, DROP_IN)}
    return f"The pod needs {known[path].field(paths)}." if paths.has_prefix else otherwise


def _identity(paths: Paths) -> Iterator[Gap]:
    """Yield the namespaces and the user that the kernel takes no write from."""
    core = paths.root / INITIAL_ONLY
    if core.parent.is_dir() and not core.exists():
        text = "this is another network namespace than the host's: the limit can't be written"
        yield Gap(text=text, field="hostNetwork: true", is_needed=True)
    if os.geteuid() != 0:
        text = f"this is user {os.geteuid()}: only root may write the limit"
        yield Gap(text=text, field="securityContext.runAsUser: 0", is_needed=True)
    with suppress(OSError):
        if not maps_all_users(paths.own / "proc/self"):
            text = "this is a user namespace: the kernel takes no limit from it"
            yield Gap(text=text, field="hostUsers: true (the default)", is_needed=True)
    if not os.path.lexists(paths.proc / "self"):
        text = f"{paths.proc} shows the processes of another PID namespace, not the host's"
        yield Gap(text=text, field=MOUNTS[0].field(paths), is_needed=True)


def _mounts(paths: Paths, *, persist: bool) -> Iterator[Gap]:
    points = _mount_points(paths)
    for mount in (*MOUNTS, *((DROP_IN,) if persist else ())):
        path = Path(f"{paths.root}{mount.path}")
        if not _is_mounted(path, paths.root, points):
            text = f"{mount.path} of the host is not mounted: {mount.without}"
        elif mount.writable and _is_read_only(path):
            text = f"{path} is mounted read-only: {mount.without}"
        else:
            continue
        yield Gap(text=text, field=mount.field(paths), is_needed=mount.is_needed)
    if writable := [point for point, is_ro in points.items() if not is_ro and _is_seen_within(point, paths)]:
        text = (
            f"{', '.join(writable)} can be written here: more of the host than the guard needs, up to becoming its root"
        )
        masks = " and ".join(f"{paths.root}{mask}" for mask in _MASKS)
        field = (
            f"recursiveReadOnly: Enabled for {paths.proc} (Kubernetes 1.33), or empty volumes with mountPath: {masks}"
        )
        yield Gap(text=text, field=field)
    if not any(_is_mounted(Path(f"{paths.root}{mount.path}"), paths.root, points) for mount in JOURNALS):
        text = "no journal of the host is mounted: messages from before the start are missed"
        fields = " and ".join(mount.field(paths) for mount in JOURNALS)
        yield Gap(text=text, field=f"{fields}, where the host has them")


def _is_seen_within(point: str, paths: Paths) -> bool:
    """Return whether a mount point is inside the host's /proc, other than that of the limit, and no mount hides it."""
    return point.startswith(f"{paths.proc}/") and point != str(paths.sysctl) and os.path.lexists(point)


def _mount_points(paths: Paths) -> dict[str, bool]:
    """Return each mount point, and whether it is read-only."""
    try:
        rows = files.read(paths.own / "proc/self/mountinfo").decode("utf-8", "replace")
    except OSError:
        return {}
    return {point: "ro" in options.split(",") for point, options in _POINT.findall(rows)}


def _is_mounted(path: Path, root: Path, points: dict[str, bool]) -> bool:
    """Return whether a path is on a mount at `root` or below it; images may have empty folders there."""
    within = (str(place) for place in (path, *path.parents) if place.is_relative_to(root))
    return path.exists() and any(place in points for place in within)


def _is_read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return True
