"""One table at one moment: whose it is, what it is full of, and what that means. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from conntrackd_guard.core.model import Table
from conntrackd_guard.core.traffic.diagnosis import Finding
from conntrackd_guard.core.traffic.sample import Sample

_ID_SHOWN = 12
"""Digits of a container's id, as `docker ps` and `crictl ps` print it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose a namespace is; empty or None what is not known. All text is printable."""

    pid: int | None = None
    process: str = ""
    unit: str = ""
    """The outermost systemd unit: a user's session, not what runs in it."""
    runtime: str = ""
    """`docker`, `containerd`, `cri-o` or `podman`."""
    container: str = ""
    """The whole id of the outermost container."""
    pod: str = ""
    """A Kubernetes pod's UID."""

    @property
    def text(self) -> str:
        """For people: `pod 1b4e28ba-…, container 0123456789ab (containerd), process nginx (4242)`."""
        parts = []
        if self.pod:
            parts.append(f"pod {self.pod}")
        if self.container:
            runtime = f" ({self.runtime})" if self.runtime else ""
            parts.append(f"container {self.container[:_ID_SHOWN]}{runtime}")
        if self.unit:
            parts.append(self.unit)
        if self.pid is not None:
            parts.append(f"process {self.process} ({self.pid})" if self.process else f"process {self.pid}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableAnalysis:
    """A sample with whose table it is from, and the diagnosis."""

    wall_seconds: float
    limit: int
    """In force when it was taken."""
    table: Table
    owner: Owner
    sample: Sample
    findings: tuple[Finding, ...]
    """The gravest first; at least one."""
    source: str
    """How the entries were read."""
    took_seconds: float
    """To read the entries and add them up."""
