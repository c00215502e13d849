"""Whose a network namespace is: the process in it, and the unit, container or pod that the process belongs to.

DecisionDetail by /proc/PID/comm and /proc/PID/cgroup alone: neither waits for the process (cmdline and environ may). Names come
from people who may not be friends: a path is read from the outside in, and not beyond the first container, which may
name what is within it as it likes. A container that a user has made stands in that user's unit, and both are told.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace

from conntrackd_guard.core.text import printable
from conntrackd_guard.core.traffic.analysis import Owner
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import process_of
from conntrackd_guard.host.paths import Paths

_COMM_BYTES = 64
"""TASK_COMM_LEN is 16, of which any may be a byte without a character."""
_CGROUP_BYTES = 16 * 1024
"""A path has 4,096 bytes at most, and version 1 a dozen of them; longer ones are cut, and tell less."""
_POD = re.compile(r"(?:.*-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?")
"""kubelet: `pod<uid>`, or `kubepods-burstable-pod<uid with _>.slice`; a static pod's uid is a hash of 32 digits."""
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
"""By the prefix of a container's scope; where there is none, by the folder above (containerd: its namespace)."""


class OwnerReader:
    """Tells whose the places are that `host.namespaces` found."""

    def __init__(self, paths: Paths) -> None:
        self._proc = str(paths.proc)

    def owner(self, place: NetNamespace) -> Owner:
        """Return whose it is, as the first of its processes tells that still lives in it. Never raises, never waits."""
        if place.initial:
            return Owner()
        for pid in place.pids:
            try:
                return self._of_process(pid, place)
            except OSError:
                continue
        return Owner()

    def _of_process(self, pid: int, place: NetNamespace) -> Owner:
        with process_of(place, self._proc, pid) as folder:
            name = printable(_read("comm", folder, _COMM_BYTES).decode("utf-8", "replace").removesuffix("\n"))
            try:
                owner = by_cgroup(_read("cgroup", folder, _CGROUP_BYTES))
            except OSError:  # a kernel without cgroups
                owner = Owner()
        return replace(owner, pid=pid, process=name)


def by_cgroup(content: bytes) -> Owner:
    """Return what /proc/PID/cgroup tells, of either version: a container if any hierarchy has one, else a unit."""
    paths: dict[str, str] = {}
    for row in content.decode("utf-8", "replace").split("\n"):
        number, _, rest = row.partition(":")
        controllers, _, path = rest.partition(":")
        if number.isdecimal() and path.startswith("/"):
            paths.setdefault(controllers, path.removesuffix(" (deleted)"))
    systemd = [paths.pop("name=systemd", ""), paths.pop("", "")]  # the hierarchies in which units are, 1 and 2
    owners = [_by_path(path) for path in (*systemd, *paths.values())]
    named = [owner for owner in owners if owner.container or owner.pod]
    return (named or [owner for owner in owners if owner.unit] or [Owner()])[0]


def _by_path(path: str) -> Owner:
    unit = pod = above = ""
    for part in path.replace(":", "/").split("/"):  # containerd: `kubepods-…-pod<uid>.slice:cri-containerd:<id>`
        container, found_pod = _CONTAINER.fullmatch(part), _POD.fullmatch(part)
        if container is not None:
            runtime = _RUNTIMES.get(container[1] or above, "")
            return Owner(unit=unit, pod=pod, runtime=runtime, container=container[2])
        if found_pod is not None and not pod:
            pod = found_pod[1].replace("_", "-")
        if not unit and part.endswith((".service", ".scope")):
            unit = printable(part)
        above = part
    return Owner(unit=unit, pod=pod)


def _read(name: str, folder: int, most: int) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)
