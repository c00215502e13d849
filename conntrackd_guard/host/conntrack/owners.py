"""Find the owner of a network namespace: a process in it, and that process's unit, container or pod.

Only /proc/PID/comm and /proc/PID/cgroup are read: cmdline and environ may block. Names may come from an attacker: a
cgroup path is read from the outside in, up to the first container, which controls the names within it. A container
started by a user is in that user's unit; both are returned.
"""

import contextlib
import re
from dataclasses import replace

from conntrackd_guard.core.text import printable
from conntrackd_guard.core.traffic.analysis import Owner
from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import process_of
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.processes import POD, started_ticks

_CONTAINER = re.compile(r"(?:(docker|cri-containerd|crio|libpod|nerdctl)-)?([0-9a-f]{64})(?:\.scope)?")
_RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "default": "containerd",
    "k8s.io": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
}
"""By the prefix of a container's scope, or without one by the parent folder (containerd: its namespace)."""


def find_owner(netns: NetNamespace, paths: Paths) -> Owner:
    """Return the owner, from the oldest known process that is still in the namespace. Never raises or blocks."""
    for pid in () if netns.initial else oldest_first(netns, paths).pids:
        try:
            with process_of(netns, str(paths.proc), pid) as folder:
                name = printable(files.read(f"{folder}/comm").decode("utf-8", "replace").removesuffix("\n"))
                owner = Owner()
                with contextlib.suppress(OSError):  # without cgroups
                    owner = by_cgroup(files.read(f"{folder}/cgroup"))
                return replace(owner, pid=pid, process=name, started_ticks=started_ticks(folder))
        except OSError:
            continue
    return Owner()


def oldest_first(netns: NetNamespace, paths: Paths) -> NetNamespace:
    """Return the namespace with its known processes in order of age, entered by the oldest if by a process."""
    started = {pid: started_ticks(f"{paths.proc}/{pid}") for pid in netns.pids}
    pids = tuple(sorted(netns.pids, key=lambda pid: (started[pid] is None, started[pid] or 0)))  # those that ended last
    by_process = netns.enter.startswith(f"{paths.proc}/") and pids
    return replace(netns, pids=pids, enter=f"{paths.proc}/{pids[0]}/ns/net" if by_process else netns.enter)


def has_ended(owner: Owner, paths: Paths) -> bool:
    """Return whether the owner's process has ended: its number may be another's by now."""
    return (
        None not in (owner.pid, owner.started_ticks)
        and started_ticks(f"{paths.proc}/{owner.pid}") != owner.started_ticks
    )


def by_cgroup(content: bytes) -> Owner:
    """Parse /proc/PID/cgroup of either version: a container if any hierarchy has one, or else a unit."""
    paths: dict[str, str] = {}
    for row in content.decode("utf-8", "replace").split("\n"):
        number, _, rest = row.partition(":")
        controllers, _, path = rest.partition(":")
        if number.isdecimal() and path.startswith("/"):
            paths.setdefault(controllers, path.removesuffix(" (deleted)"))
    systemd = [paths.pop("name=systemd", ""), paths.pop("", "")]  # systemd's hierarchies in versions 1 and 2
    owners = [_by_path(path) for path in (*systemd, *paths.values())]
    named = [owner for owner in owners if owner.container or owner.pod]
    return (named or [owner for owner in owners if owner.unit] or [Owner()])[0]


def _by_path(path: str) -> Owner:
    unit = pod = above = ""
    for part in path.replace(":", "/").split("/"):  # containerd: `kubepods-…-pod<uid>.slice:cri-containerd:<id>`
        container, found_pod = _CONTAINER.fullmatch(part), POD.fullmatch(part)
        if container is not None:
            runtime = _RUNTIMES.get(container[1] or above, "")
            return Owner(unit=unit, pod=pod, runtime=runtime, container=container[2])
        if found_pod is not None and not pod:
            pod = found_pod[1].replace("_", "-")
        if not unit and part.endswith((".service", ".scope")):
            unit = printable(part)
        above = part
    return Owner(unit=unit, pod=pod)
