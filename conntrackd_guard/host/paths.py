"""Every path the guard touches, under one root so that a test can point it at a tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conntrackd_guard.core.configuration import Mode


@dataclass(frozen=True, slots=True)
class Paths:
    """Paths on a host; `mode` gives a dry run its own lock, state folder and history."""

    root: Path = Path("/")
    mode: Mode = Mode.ACT

    @property
    def proc(self) -> Path:
        """The process file system."""
        return self.root / "proc"

    @property
    def sysctl(self) -> Path:
        """The conntrack sysctls of the calling thread's network namespace."""
        return self.root / "proc/sys/net/netfilter"

    @property
    def limit(self) -> Path:
        """`nf_conntrack_max`: one global value, writable in the initial namespace only."""
        return self.sysctl / "nf_conntrack_max"

    @property
    def buckets(self) -> Path:
        """`nf_conntrack_buckets`."""
        return self.sysctl / "nf_conntrack_buckets"

    @property
    def slab(self) -> Path:
        """The slab cache of entries (root only)."""
        return self.root / "sys/kernel/slab/nf_conntrack"

    @property
    def boot_id(self) -> Path:
        """This boot's identity."""
        return self.root / "proc/sys/kernel/random/boot_id"

    @property
    def kmsg(self) -> Path:
        """The kernel's ring buffer."""
        return self.root / "dev/kmsg"

    @property
    def named_namespaces(self) -> Path:
        """Namespaces that `ip netns` named."""
        return self.root / "run/netns"

    @property
    def settings_file(self) -> Path:
        """The operator's settings."""
        return self.root / "etc/conntrackd-guard/guard.yaml"

    @property
    def settings_folder(self) -> Path:
        """Further settings, merged in name order."""
        return self.root / "etc/conntrackd-guard/guard.d"

    @property
    def fleet_pause(self) -> Path:
        """While this file exists, nothing is raised."""
        return self.root / "etc/conntrackd-guard/pause"

    @property
    def drop_in(self) -> Path:
        """The value that survives a reboot. `99-zz-` sorts after Debian's `99-sysctl.conf`."""
        return self.root / "etc/sysctl.d/99-zz-conntrackd-guard.conf"

    @property
    def drop_in_lock(self) -> Path:
        """Held by whoever writes the drop-in; carries the time of the decision that it follows."""
        return self.root / "run/conntrackd-guard/drop-in.lock"

    @property
    def drop_in_override(self) -> Path:
        """What the last revert of this boot wants the drop-in to say."""
        return self.root / "run/conntrackd-guard/drop-in.override"

    @property
    def machine_id(self) -> Path:
        """This installation's identity."""
        return self.root / "etc/machine-id"

    @property
    def state_folder(self) -> Path:
        """Durable state."""
        folder = self.root / "var/lib/conntrackd-guard"
        return folder / "dry-run" if self.mode is Mode.DRY_RUN else folder

    @property
    def history(self) -> Path:
        """What happened and why."""
        return self.state_folder / "history.db"

    @property
    def run_folder(self) -> Path:
        """State of this boot (in memory: no disk can stall it)."""
        folder = self.root / "run/conntrackd-guard"
        return folder / "dry-run" if self.mode is Mode.DRY_RUN else folder

    @property
    def lock(self) -> Path:
        """Held by the one running guard."""
        return self.run_folder / "lock"

    @property
    def intents(self) -> Path:
        """One small file for every write that is not yet in history."""
        return self.run_folder / "intents"

    @property
    def orders(self) -> Path:
        """Overrides for the running guard to take into its state."""
        return self.run_folder / "orders"

    @property
    def notices(self) -> Path:
        """Decisions that wait for the `notify` command; a dry run leaves none."""
        return self.root / "run/conntrackd-guard/notices"

    @property
    def pause(self) -> Path:
        """A pause ordered by `guard pause` or `guard revert`; it also stops rehearsed raises."""
        return self.root / "run/conntrackd-guard/pause"

    @property
    def status_file(self) -> Path:
        """What the running guard says of itself."""
        return self.run_folder / "status.json"
