"""Where the guard and `guard doctor` run: on the host, in another network namespace, or in a container."""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass

from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files
from conntrackd_guard.host.container import INITIAL_ONLY
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.processes import maps_all_users

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, linux/proc_ns.h
_KIND_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What this process can see of where it runs."""

    initial: bool | None
    """Whether this is the initial network namespace; None if nothing shows it (connection tracking is not loaded)."""
    writable: bool = False
    """Whether the limit's file has a mode to write it: before 5.12.2 in every namespace, and it is one limit for all."""
    tracks: bool = False
    """Whether connections are tracked here."""
    container: str = ""
    """What shows that this is a container, "" if nothing does. Printable."""
    in_pod: bool = False
    """Whether the host's files are mounted below a prefix: then a pod's fields are the cure."""


def find_place(paths: Paths) -> Place:
    """Return where this process runs. Never raises."""
    core, mode = paths.root / INITIAL_ONLY, 0
    tracks = (paths.proc / "self/net/stat/nf_conntrack").exists() or (paths.sysctl / "nf_conntrack_count").exists()
    initial: bool | None = False if tracks else None  # a user namespace's network namespaces don't show the limit
    with suppress(OSError):
        mode = stat.S_IMODE(paths.limit.stat().st_mode)
        initial, tracks = bool(mode & stat.S_IWUSR), True
    if core.parent.exists() and not core.exists():
        initial = False
    return Place(
        initial=initial,
        writable=bool(mode & stat.S_IWUSR),
        tracks=tracks,
        container=_container(paths),
        in_pod=paths.has_prefix,
    )


def _container(paths: Paths) -> str:
    kind = "its host is below --root" if paths.has_prefix else ""
    for name, kind_of in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        kind = kind_of if (paths.own / name).exists() else kind
    with suppress(OSError):
        content = files.read(paths.own / "run/systemd/container")
        kind = printable(content[:_KIND_BYTES].decode("utf-8", "replace").strip()) or kind
    with suppress(OSError):
        if not maps_all_users(paths.proc / "self"):
            return kind or "a user namespace"
    with suppress(OSError):
        if os.stat(paths.proc / "self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
            return kind or "a PID namespace"
        if os.path.samestat(os.stat(paths.proc / "1/root/."), os.stat(paths.own)):
            return ""  # the host's own files: an image has left those behind
    return kind
