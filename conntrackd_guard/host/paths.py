"""Every path that the guard uses, below one root that tests can replace."""

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
        """The proc file system."""
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
        """Id of this boot."""
        return self.root / "proc/sys/kernel/random/boot_id"

    @property
    def kmsg(self) -> Path:
        """The kernel's ring buffer."""
        return self.root / "dev/kmsg"

    @property
    def named_namespaces(self) -> Path:
        """Named network namespaces (`ip netns`)."""
        return self.root / "run/netns"

    @property
    def settings_file(self) -> Path:
        """Settings."""
        return self.root / "etc/conntrackd-guard/guard.yaml"

    @property
    def settings_folder(self) -> Path:
        """More settings, merged in name order."""
        return self.root / "etc/conntrackd-guard/guard.d"

    @property
    def fleet_pause(self) -> Path:
        """While this file exists, nothing is raised."""
        return self.root / "etc/conntrackd-guard/pause"

    @property
    def drop_in(self) -> Path:
        """Persisted limit. `99-zz-` sorts after Debian's `99-sysctl.conf`."""
        return self.root / "etc/sysctl.d/99-zz-conntrackd-guard.conf"

    @property
    def drop_in_lock(self) -> Path:
        """Lock of the drop-in's writer; has the time of the decision that the drop-in follows."""
        return self.root / "run/conntrackd-guard/drop-in.lock"

    @property
    def drop_in_override(self) -> Path:
        """Content of the drop-in wanted by the last revert of this boot."""
        return self.root / "run/conntrackd-guard/drop-in.override"

    @property
    def machine_id(self) -> Path:
        """Id of this installation."""
        return self.root / "etc/machine-id"

    @property
    def state_folder(self) -> Path:
        """Durable state."""
        folder = self.root / "var/lib/conntrackd-guard"
        return folder / "dry-run" if self.mode is Mode.DRY_RUN else folder

    @property
    def history(self) -> Path:
        """History database."""
        return self.state_folder / "history.db"

    @property
    def run_folder(self) -> Path:
        """State of this boot, in memory: a stalled disk does not affect it."""
        folder = self.root / "run/conntrackd-guard"
        return folder / "dry-run" if self.mode is Mode.DRY_RUN else folder

    @property
    def lock(self) -> Path:
        """Lock of the running guard."""
        return self.run_folder / "lock"

    @property
    def intents(self) -> Path:
        """One small file for each write that is not yet in the history."""
        return self.run_folder / "intents"

    @property
    def overrides(self) -> Path:
        """Operator overrides that the running guard has yet to take into its state."""
        return self.run_folder / "overrides"

    @property
    def notices(self) -> Path:
        """Queue of the `notify` command; a dry run leaves it empty."""
        return self.root / "run/conntrackd-guard/notices"

    @property
    def pause(self) -> Path:
        """The pause of `guard pause` or `guard revert`; it also stops raises of a dry run."""
        return self.root / "run/conntrackd-guard/pause"

    @property
    def status_file(self) -> Path:
        """Status of the running guard."""
        return self.run_folder / "status.json"
