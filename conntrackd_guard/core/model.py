"""The values that pass through the guard, from a kernel message to a record.

All are frozen, with no behaviour beyond what their own fields imply. Units stand in the names: `_bytes`, `_us`,
`_seconds` (CLOCK_BOOTTIME unless noted). Limits, counts and targets are in entries of the connection-tracking table.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from conntrackd_guard.core.arithmetic import Arithmetic
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.hold_reasons import HoldReason

INT_MAX = 2**31 - 1
"""The highest limit that the kernel accepts (a C int: proc_dointvec_minmax, 0..INT_MAX)."""


class MessageKind(StrEnum):
    """The subject of a kernel message."""

    TABLE_FULL = "table_full"
    EXPECTATION_FULL = "expectation_full"
    NEIGHBOUR_FULL = "neighbour_full"
    SUPPRESSED = "suppressed"


class TriggerKind(StrEnum):
    """The cause of a decision; `label` is a short name for people."""

    label: str

    def __new__(cls, value: str, label: str) -> Self:
        """Return the member with that value."""
        kind = str.__new__(cls, value)
        kind._value_, kind.label = value, label
        return kind

    KERNEL_MESSAGE = "kernel_message", "kernel: table full"
    FILLING_UP = "filling_up", "filling up"
    CHAINS = "chains", "hash chains"
    OTHER_WRITER = "other_writer", "other program"
    MEMORY = "memory", "memory check"
    START = "start", "start"
    MINIMUM = "min_limit", "below min_limit"
    OVERRIDE = "override", "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistedLimit:
    """The limit that the drop-in sets at the next boot, and the host it was calculated for."""

    limit: int
    buckets: int | None = None
    """Hash buckets that the guard raised for it; None if it raised none."""
    decision: str = ""
    """Key of the record that wrote it."""
    boot_id: str = ""
    machine_id: str = ""
    memory_total_bytes: int = 0
    budget_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFacts:
    """What sets limit and buckets while connection tracking loads and the sysctl files are applied at boot."""

    kernel_release: str = ""
    """As in `uname -r`; "" if unreadable."""
    hashsize: int | None = None
    """Buckets by a `hashsize=` of the module or the kernel command line, rounded up as the kernel does."""
    final_line: str = ""
    """`file:line` of the sysctl line that systemd-sysctl applies last, if it is another's than the drop-in's."""
    final_limit: int | None = None
    """The limit that it sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """The cause of a decision. One decision may answer several messages of a burst."""

    kind: TriggerKind
    message_kind: MessageKind | None = None
    namespace: int | None = None
    message: str = ""
    live: bool = True
    was: int | None = None
    """The limit before another program changed it."""
    was_buckets: int | None = None
    """The hash buckets before another program changed them; None if it did not."""
    restarted: bool = False
    """Whether a kube-proxy lowered it that had just started, on evidence of time and value: a restart, and no conflict."""
    below_minimum: bool = False
    """Whether another program went below `min_limit`."""
    reloaded: bool = False
    """Whether connection tracking was unloaded and loaded since: the kernel set the limit, and no program."""
    persisted: PersistedLimit | None = None
    """At start: the limit that should be in force."""
    load: LoadFacts | None = None
    """At start: what may have set the limit found instead."""
    message_count: int = 0
    """Kernel messages that this decision answers."""
    message_seconds: float | None = None
    """When the newest of those messages reached the guard."""
    judged: bool = False
    """A table that could be read has explained the message before: if it is gone since, no unknown table is full."""
    stamp_us: int | None = None
    since_seconds: float | None = None
    """When packets began to be lost to long chains."""
    message_wall_seconds: float | None = None
    """Wall time of the newest of messages from before the start, if the journal has it."""
    namespaces: tuple[tuple[int, int], ...] = ()
    """Of messages from before the start: (namespace, messages) of the namespaces with the most."""
    more_namespaces: int = 0
    """Further ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One network namespace's connection-tracking table at one moment."""

    namespace: int
    """Inode of the namespace; if that is unreadable, of its /proc/PID/net/stat (see `placed`)."""
    label: str
    """For people: `initial`, a name under /run/netns, or a process. Untrusted text, but printable."""
    initial: bool = False
    placed: bool = True
    """Whether `namespace` is the number that kernel messages use."""
    count: int
    """Entries; in dry-run mode an estimate of need: entries, and drops since the last rehearsed raise."""
    held: int | None = None
    """Entries, if `count` is an estimate."""
    drop: int | None = None
    """The kernel's drop counter (cumulative), None if unreadable."""
    early_drop: int | None = None
    insert_failed: int | None = None
    """Entries that could not be inserted (cumulative), without those in `chain_too_long`."""
    clash_resolved: int | None = None
    """Insert races that lost no packet (cumulative)."""
    chain_too_long: int | None = None
    """Packets dropped for a long hash chain (cumulative); None if this kernel has no chain limit, or unreadable."""
    lost_to_chains: int | None = None
    """The rise of `chain_too_long` since `Trigger.since_seconds`; None without losses, or if nobody looked for them."""
    dropped: int | None = None
    """Drops while it stood near the limit in force, since that limit last changed or a quiet period; None if unreadable.

    The counter itself also counts lost races and failed allocations, and it lasts: it shows nothing of a full table.
    """
    demand_per_second: float | None = None
    """Growth that lasted: of the count, and near the limit of drop + early_drop too. None before enough readings."""
    demand_seconds: float | None = None
    """The time that it was measured over."""
    burst_per_second: float | None = None
    """Growth since the last reading, if it is steeper: it may be over already."""
    burst_seconds: float | None = None
    user_owned: bool = False
    """The namespace belongs to a user namespace, which any user can create; or nothing shows that it does not."""
    owner_unknown: bool = False
    """Nothing shows who owns it."""
    flooded: bool | None = None
    """Whether a flood fills it, according to a sample of the last 30 s; None without one (see `on_flood`)."""
    source: str = ""

    @property
    def alive(self) -> int:
        """Entries that exist and already use memory."""
        return self.count if self.held is None else self.held

    @property
    def growth_per_second(self) -> float:
        """The steepest growth seen, whether it lasted or not."""
        return max(self.demand_per_second or 0.0, self.burst_per_second or 0.0)


class NamespaceOwner(StrEnum):
    """The owner of a namespace whose table can't be read."""

    ROOT = "root"
    """The initial user namespace."""
    USER = "user"
    """Another user namespace, which any user can create."""
    UNKNOWN = "unknown"
    """Nothing shows it."""
    NONE = "none"
    """No process and no mount leads to the namespace: something keeps it by a descriptor alone, or it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpossibleCount:
    """A table whose count can't be true: the counter went below 0, or what shows it is broken."""

    namespace: int
    """As in `Table`."""
    label: str
    source: str
    count: int
    """As the kernel compares it with the limit: unsigned."""
    most: int
    """The highest count that can be true, by the slab's objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """An operator has paused raising."""

    by: str
    reason: str
    until_seconds: float | None = None
    """None: until resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All facts about the host that a decision needs, read at one moment."""

    boottime_seconds: float
    wall_seconds: float
    boot_id: str
    limit: int | None
    """The limit to calculate with; in dry-run mode the rehearsed one. None: this kernel tracks no connections."""
    kernel_limit: int | None
    """The limit in force."""
    tables: tuple[Table, ...] = ()
    """The tables that hold entries or dropped some: all that matter by themselves (see `core.records`)."""
    small_tables: int = 0
    """Further tables, each below the threshold and 30 % of the limit. In a hold for a user's table all other users' tables."""
    small_entries: int = 0
    small_user_owned_entries: int = 0
    """Of these, the entries of user namespaces."""
    hidden_entries: int = 0
    """Entries of tables that can't be read, and of namespaces that nothing leads to; 0 below a tenth of the limit."""
    idle_tables: int = 0
    """Tracking namespaces without entries."""
    unread: tuple[str, ...] = ()
    """Facts that could not be read, each with the safe default used instead."""
    complete: bool = True
    """Whether every tracking namespace was readable."""
    impossible: tuple[ImpossibleCount, ...] = ()
    """Tables that are in none of the other fields, because their count can't be true."""
    unread_tables: int = 0
    """Tables of known namespaces that can't be read: each is charged as a full one."""
    unread_owner: NamespaceOwner | None = None
    """Owner of the namespace that a message is about, if its table can't be read; None if processes are hidden too."""
    has_statistics: bool = True
    """Whether this kernel has statistics files: without them it shows no other namespace's table, and drops over netlink."""
    buckets: int | None = None
    chain_limit: bool | None = None
    """Whether this kernel drops packets for long hash chains; None if unknown, which counts as yes."""
    bucket_arrays: int = 2
    """NAT has one of its own. Nothing shows whether it is built in, so it always counts."""
    entry_slab_bytes: int | None = None
    memory_total_bytes: int = 0
    memory_hugetlb_bytes: int = 0
    memory_available_bytes: int = 0
    memory_zfs_bytes: int = 0
    """Of that, ZFS' cache above its minimum, which the kernel doesn't count as available."""
    memory_is_low: bool = False
    """Total and available are those of low memory, where a 32-bit kernel keeps entries."""
    memory_unknown: str = ""
    """Why the figures of memory above are not enough for a calculation (file and fault), "" if they are."""
    pause: Pause | None = None
    estimate: bool = False
    """The counts are estimates of need (dry-run mode)."""
    sources: dict[str, str] = field(default_factory=dict)


class Corroboration(StrEnum):
    """Whether the tables confirm a trigger."""

    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Raise:
    """Raise the limit to `target`."""

    target: int
    arithmetic: Arithmetic
    corroboration: Corroboration
    buckets_target: int | None = None
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Leave the limit unchanged: an ordinary result, not a failure."""

    reason: HoldReason
    retry_seconds: float | None = None
    """When to decide again without a new trigger; None if waiting doesn't help."""
    arithmetic: Arithmetic | None = None
    corroboration: Corroboration | None = None
    advice: tuple[str, ...] = ()


class OverrideKind(StrEnum):
    """The action of an operator."""

    REVERT = "revert"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An operator's action, which takes precedence over policy."""

    kind: OverrideKind
    target: int | None = None
    """The limit that a revert restores."""
    buckets_target: int | None = None
    """The hash buckets that it restores, None if they stay."""
    until_seconds: float | None = None
    """End of the pause; None: until resumed."""
    reason: str = ""
    uid: int | None = None
    user: str = ""
    """Name of that user, empty if unknown."""
    login_uid: int | None = None
    login: str = ""
    """Name of who logged in, empty if unknown."""


Decision = Raise | Hold | Override


class OutcomeKind(StrEnum):
    """The result of a decision."""

    NONE = "none"
    APPLIED = "applied"
    REJECTED = "rejected"
    REHEARSED = "rehearsed"
    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a decision: `applied` means written and read back."""

    kind: OutcomeKind
    limit_after: int | None = None
    errno: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A write that the kernel refused, and when to retry."""

    errno: int
    limit: int
    count: int
    until_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The guard's memory: `advance` folded over this boot's records, nothing else."""

    last_raise_seconds: float | None = None
    raise_seconds: tuple[float, ...] = ()
    set_limit: int | None = None
    """The limit that the guard last wrote; None after another program or an operator changed it."""
    replaced_limit: int | None = None
    """The limit that the guard had written, after another program changed it: it may be back within seconds."""
    replaced_seconds: float = 0.0
    """When that was."""
    others_limit: int | None = None
    """The limit that another program set, while it stands."""
    rest_limit: int | None = None
    """The persisted limit while only a part of it is restored: the rest is due when there is memory."""
    conflict_seconds: tuple[float, ...] = ()
    refusal: Refusal | None = None
    unknown_seconds: float | None = None
    """The last raise for an unconfirmed message."""
    reverted: bool = False
    """An operator has reverted the limit, and neither resumed raising nor was there a raise since, but to put it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One decision with its cause and its result."""

    key: str
    """Unique; a record delivered twice is stored once."""
    mode: Mode
    trigger: Trigger
    observation: Observation
    state: State
    """The state before the decision."""
    decision: Decision
    outcome: Outcome
