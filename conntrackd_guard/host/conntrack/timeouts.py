"""How long a namespace keeps established TCP flows without a packet."""

from __future__ import annotations

from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import inside
from conntrackd_guard.host.paths import Paths


def established_seconds(place: NetNamespace, paths: Paths, *, enter: bool) -> int | None:
    """Return that timeout, None where it can't be read. `enter` allows to enter its namespace: no other way leads to it."""

    def read() -> int:
        return files.read_number(paths.sysctl / "nf_conntrack_tcp_timeout_established")

    try:
        if place.initial:
            return read()
        return inside(place, read) if enter else None
    except (OSError, ValueError):
        return None
