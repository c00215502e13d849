"""One table at one moment: its owner, a sample of its entries, and the diagnosis. Pure."""

from dataclasses import dataclass

from conntrackd_guard.core.model import Table
from conntrackd_guard.core.traffic.diagnosis import DESCRIPTIONS, EFFECTS, Finding
from conntrackd_guard.core.traffic.sample import Sample

_ID_SHOWN = 12
"""Digits of a container's id that `docker ps` and `crictl ps` print."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The owner of a namespace; unknown fields are empty or None. All text is printable."""

    pid: int | None = None
    started_ticks: int | None = None
    """When that process started, in clock ticks after the boot: its number is reused once it has ended."""
    process: str = ""
    unit: str = ""
    """The outermost systemd unit: a user's session, not a unit within it."""
    runtime: str = ""
    """`docker`, `containerd`, `cri-o` or `podman`."""
    container: str = ""
    """The full id of the outermost container."""
    pod: str = ""
    """A Kubernetes pod's UID."""

    @property
    def text(self) -> str:
        """The owner for people: `pod 1b4e28ba-…, container 0123456789ab (containerd), process nginx (4242)`."""
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
    """A sample with the table's owner and the diagnosis."""

    wall_seconds: float
    limit: int
    """In force at that time, as the kernel reads it; see `core.limits.is_unlimited`."""
    table: Table
    owner: Owner
    sample: Sample
    findings: tuple[Finding, ...]
    """Most serious first; at least one."""
    source: str
    """The way in which the entries were read."""
    took_seconds: float
    """Time to read and count the entries."""

    def summary(self, name: str) -> str:
        """Return the diagnosis for the log; `name` is the table's, safe to print."""
        first = self.findings[0]
        text = f"The table of {name} {DESCRIPTIONS[first.cause]}: {'; '.join(first.figures)}. {EFFECTS[first.cause]}"
        return text.rstrip()
