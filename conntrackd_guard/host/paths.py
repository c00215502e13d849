"""Every path that the guard uses: the host's below one root, and the settings below the guard's own."""

from pathlib import Path

from conntrackd_guard.core.configuration import Mode


class Paths:
    """Paths on a host; `mode` gives a dry run its own lock, state folder and history.

    In a container `root` is where the host's files are mounted (`--root`), and `own` is the container's root: it has the
    settings, the pause for the fleet and devices.
    """

    def __init__(self, root: Path = Path("/"), mode: Mode = Mode.ACT, own: Path | None = None) -> None:  # noqa: PLR0915 - a list
        own = root if own is None else own
        self.root, self.mode, self.own = root, mode, own
        folder = "dry-run" if mode is Mode.DRY_RUN else ""
        run = root / "run/conntrackd-guard"

        self.proc = root / "proc"
        self.boot_id = root / "proc/sys/kernel/random/boot_id"
        self.kernel_release = root / "proc/sys/kernel/osrelease"
        self.sysctl = root / "proc/sys/net/netfilter"
        """The conntrack sysctls of the calling thread's network namespace."""
        self.limit = self.sysctl / "nf_conntrack_max"
        """One global value, writable in the initial namespace only."""
        self.buckets = self.sysctl / "nf_conntrack_buckets"
        self.sys = root / "sys" if (root / "sys/module").is_dir() else own / "sys"
        """A container's own sysfs shows the same kernel; mounting the host's would add its debugfs and cgroups."""
        self.hashsize = self.sys / "module/nf_conntrack/parameters/hashsize"
        """The same number as the module's parameter (root only)."""
        self.slab = self.sys / "kernel/slab/nf_conntrack"
        """The slab cache of entries (root only)."""
        self.kmsg = own / "dev/kmsg"
        self.named_namespaces = root / "run/netns"
        """Named network namespaces (`ip netns`)."""
        self.machine_id = root / "etc/machine-id"

        self.settings_file = own / "etc/conntrackd-guard/guard.yaml"
        self.settings_folder = own / "etc/conntrackd-guard/guard.d"
        """More settings, merged in name order."""
        self.fleet_pause = own / "etc/conntrackd-guard/pause"
        """While this file exists, nothing is raised."""
        self.drop_in = root / "etc/sysctl.d/99-zz-conntrackd-guard.conf"
        """Persisted limit. `99-zz-` sorts after Debian's `99-sysctl.conf`."""
        self.recommended_sysctl = root / "etc/sysctl.d/90-conntrackd-guard-recommend.conf"
        """What `guard recommend --write` puts there for the next boot, and below for the module."""
        self.recommended_module = root / "etc/modprobe.d/conntrackd-guard-recommend.conf"
        self.state_folder = root / "var/lib/conntrackd-guard" / folder
        self.history = self.state_folder / "history.db"

        self.run_folder = run / folder
        """State of this boot, in memory: a stalled disk does not affect it."""
        self.lock = self.run_folder / "lock"
        """Lock of the running guard."""
        self.intents = self.run_folder / "intents"
        """One small file for each write that is not yet in the history."""
        self.overrides = self.run_folder / "overrides"
        """Operator overrides that the running guard has yet to take into its state."""
        self.status_file = self.run_folder / "status.json"
        self.owner_socket = (self.run_folder if root == own else own / "run/conntrackd-guard") / "namespaces.sock"
        """Where the helper that reads the owners of namespaces connects: in a pod, a volume of the pod."""
        self.notices = run / "notices"
        """Queue of the `notify` command; a dry run leaves it empty."""
        self.outbox = own / "run/conntrackd-guard-events"
        """What `guard events` in another container reads, if the folder exists."""
        self.service_account = own / "var/run/secrets/kubernetes.io/serviceaccount"
        """A pod's token for the API server of its cluster."""
        self.pause = run / "pause"
        """The pause of `guard pause` or `guard revert`; it also stops raises of a dry run."""
        self.drop_in_lock = run / "drop-in.lock"
        """Lock of the drop-in's writer; has the time of the decision that the drop-in follows."""
        self.drop_in_override = run / "drop-in.override"
        """Drop-in wanted by the last revert of this boot."""
        self.drop_in_request = run / "drop-in.request"
        """Drop-in wanted by a daemon that may not write it, until `guard persist` takes it."""

    @property
    def has_prefix(self) -> bool:
        """Whether the host's files are mounted below a prefix."""
        return self.root != self.own

    @property
    def journal(self) -> Path | None:
        """The root of the journal's files; None: this system's journal."""
        return None if self.root == Path("/") else self.root

    def for_mode(self, mode: Mode) -> "Paths":
        """Return the same host's paths in another mode."""
        return Paths(self.root, mode, self.own)
