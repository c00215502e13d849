"""The values that flow through the guard, from a kernel line to a record.

Everything here is frozen and holds no behaviour beyond what its own fields imply. Units stand in
the names: `_bytes`, `_seconds` (CLOCK_BOOTTIME unless a name says otherwise), `_us`. A limit, a
count and a target are entries of the connection-tracking table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum

INT_MAX = 2**31 - 1
"""The largest limit the kernel takes (it is a C int: proc_dointvec_minmax, 0..INT_MAX)."""


class Mode(StrEnum):
    """Whether decisions reach the kernel."""

    ACT = "act"
    DRY_RUN = "dry-run"


class Addresses(StrEnum):
    """What a stored sample says of addresses."""

    FULL = "full"
    PREFIX = "prefix"
    OFF = "off"


class MessageKind(StrEnum):
    """What a kernel line is about."""

    TABLE_FULL = "table_full"
    EXPECTATION_FULL = "expectation_full"
    NEIGHBOUR_FULL = "neighbour_full"
    SUPPRESSED = "suppressed"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelMessage:
    """A kernel message that concerns the guard, as `core.kernel_messages.recognise` reads it."""

    kind: MessageKind
    namespace: int | None
    """Inode of the network namespace that the line names, None where it names none."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvent:
    """A recognised kernel line as a source heard it. Whether it is live is for `core.liveness` to say."""

    message: KernelMessage
    stamp_us: int | None
    """The kernel's own stamp (printk's local clock): comparable with kernel stamps of the same boot only."""
    boot_id: str
    source: str
    """`ring buffer` or `journal`."""
    cursor: str | None = None
    """Where the journal stands after this entry; None from the ring buffer."""
    held_at_start: bool = False
    """The source held it already when the guard began to read."""


class TriggerKind(StrEnum):
    """What made the guard look."""

    KERNEL_MESSAGE = "kernel_message"
    FILLING_UP = "filling_up"
    OTHER_WRITER = "other_writer"
    MEMORY = "memory"
    START = "start"
    OVERRIDE = "override"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistedLimit:
    """What the drop-in keeps for the next boot, and what it says of the host it was written on."""

    limit: int
    decision: str = ""
    """The key of the record that wrote it."""
    boot_id: str = ""
    machine_id: str = ""
    memory_total_bytes: int = 0
    budget_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """Why a decision is asked for. One decision may answer several lines of the same burst."""

    kind: TriggerKind
    message_kind: MessageKind | None = None
    namespace: int | None = None
    message: str = ""
    live: bool = True
    was: int | None = None
    """The limit before another writer changed it."""
    kept: PersistedLimit | None = None
    """At start: what should be in force."""
    message_count: int = 0
    """Kernel lines that this decision answers."""
    message_seconds: float | None = None
    """When the newest of those lines reached the guard (CLOCK_BOOTTIME)."""
    stamp_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One network namespace's connection-tracking table at one moment."""

    namespace: int
    """Inode of the namespace; where that can't be read, of its /proc/PID/net/stat (see `placed`)."""
    label: str
    """For people: `initial`, a name under /run/netns, or a process. Untrusted text, already made printable."""
    initial: bool = False
    placed: bool = True
    """Whether `namespace` is the number that kernel lines use."""
    count: int
    """Entries held; in dry run an estimate of need: entries, and drops since the last rehearsed raise."""
    held: int | None = None
    """Entries held, where `count` is an estimate."""
    drop: int | None = None
    """The kernel's drop counter (cumulative), None where it can't be read."""
    early_drop: int | None = None
    dropped: int | None = None
    """Drops since the last raise or quiet spell; None while there is nothing to compare with."""
    demand_per_second: float | None = None
    """Growth of count + drop + early_drop, None before two looks."""
    user_owned: bool = False
    """The namespace belongs to a user namespace that any user may have made."""
    flooded: bool | None = None
    """Whether a flood fills it, by a sample of the last 30 s; None without one. Asked for with `on_flood` only."""
    source: str = ""

    @property
    def alive(self) -> int:
        """Entries that exist, and take memory already."""
        return self.count if self.held is None else self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Raising is stopped by order."""

    by: str
    reason: str
    until_seconds: float | None = None
    """CLOCK_BOOTTIME, None until resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything a decision needs to know of the host, read at one moment."""

    boottime_seconds: float
    wall_seconds: float
    boot_id: str
    limit: int | None
    """The limit the sum is made with; in dry run the rehearsed one. None: no conntrack in this kernel."""
    kernel_limit: int | None
    """The limit in force."""
    tables: tuple[Table, ...] = ()
    """The tables that hold entries or dropped some: all that matter by themselves (see `core.records`)."""
    small_tables: int = 0
    """Further tables, each under half the limit and without a drop."""
    small_entries: int = 0
    """What those hold together."""
    idle_tables: int = 0
    """Tracking namespaces that were read and hold nothing."""
    unread: tuple[str, ...] = ()
    """What could not be read, each with the safe default taken instead."""
    complete: bool = True
    """Whether every tracking namespace could be read."""
    buckets: int | None = None
    bucket_arrays: int = 2
    entry_slab_bytes: int | None = None
    memory_total_bytes: int = 0
    memory_hugetlb_bytes: int = 0
    memory_available_bytes: int = 0
    pause: Pause | None = None
    estimate: bool = False
    """The counts are estimates of need (dry run: count + drops since the last rehearsed raise)."""
    sources: dict[str, str] = field(default_factory=dict)
    """Which figure came from where."""


class Buckets(StrEnum):
    """What to do about hash chains that grow with the limit."""

    KEEP = "keep"
    MATCH = "match"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """An amount of memory: a fixed number of bytes, or a fraction of a total."""

    bytes: int | None = None
    fraction: float | None = None


class FloodAction(StrEnum):
    """What a flood gets."""

    RAISE = "raise"
    HOLD = "hold"
    RAISE_TO = "raise_to"


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodResponse:
    """What `on_flood` allows for a table that a flood fills."""

    action: FloodAction = FloodAction.RAISE
    limit: int | None = None
    """With `raise_to`: the highest limit."""

    @property
    def restricts(self) -> bool:
        """Whether a flood is treated unlike any other demand, so that it has to be recognised."""
        return self.action is not FloodAction.RAISE

    def allows(self, target: int) -> bool:
        """Return whether the limit may be raised to `target` for a flood."""
        return self.action is FloodAction.RAISE or (self.limit is not None and target <= self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings that affect decisions, with their defaults."""

    kernel_message: bool = True
    raise_early: bool = True
    threshold: float = 0.80
    growth_factor: float = 1.5
    budget: Share = Share(fraction=0.10)
    min_available: Share | None = None
    """None: the larger of 5 % of memory and min(512 MiB, 25 % of memory)."""
    max_limit: int | None = None
    on_flood: FloodResponse = FloodResponse()
    cooldown_seconds: float = 2.0
    conflict_limit: int = 3
    buckets: Buckets = Buckets.KEEP
    trust_user_namespaces: bool = False


class Corroboration(StrEnum):
    """What the tables say of a trigger."""

    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    UNKNOWN = "unknown"


class Bound(StrEnum):
    """What ended the step."""

    TARGET = "target"
    MAX_LIMIT = "max_limit"
    FLOOD = "flood"
    BUDGET = "budget"
    MIN_AVAILABLE = "min_available"
    CHAINS = "chains"
    INT_MAX = "int_max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """The whole sum of one decision: enough to redo it by hand."""

    current: int
    wanted: int
    """What the need asks for, before any bound."""
    target: int
    """What the bounds leave of it (for a hold: the most they would allow)."""
    bound: Bound
    in_use: int
    """Entries held by all namespaces."""
    largest_count: int
    demand_per_second: float
    bytes_per_entry: int
    bytes_source: str
    buckets: int | None
    buckets_target: int | None
    """New number of buckets where they are to grow with the limit, else None."""
    bucket_bytes: int
    """All bucket arrays after the step."""
    new_bucket_bytes: int
    """Arrays that the step itself must allocate."""
    full_tables: int
    """Tables charged at the target (an unknown one counts as one)."""
    other_entries: int
    """Entries charged for all the other tables."""
    charged_entries: int
    """full_tables × target + other_entries."""
    held_entries: int
    """Of those charged, entries alive already: missing from available memory, not counted twice."""
    cost_bytes: int
    """bytes_per_entry × charged_entries + bucket_bytes: what the budget is held against."""
    new_bytes: int
    """bytes_per_entry × (charged − held) + new_bucket_bytes: what the reserve is held against."""
    budget_bytes: int
    min_available_bytes: int
    memory_total_bytes: int
    memory_hugetlb_bytes: int
    memory_available_bytes: int
    max_limit: int | None
    chain: float | None
    """Average hash chain if all charged entries came: 2 × charged ÷ buckets."""
    on_flood: FloodResponse | None = None
    """Set while a flood fills every table in need."""
    estimate: bool = False


class HoldReason(Enum):
    """Why nothing is raised. The value is the name used in history, log and metrics."""

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        self.sentence = sentence

    HISTORICAL = (
        "historical",
        "The line was logged before this run began; it is recorded, and the tables are asked instead.",
    )
    TRIGGER_OFF = ("trigger_off", "This trigger is switched off in the settings.")
    EXPECTATION_TABLE = (
        "expectation_table",
        "The expectation table is full; raising nf_conntrack_max would not help it.",
    )
    NEIGHBOUR_TABLE = ("neighbour_table", "The neighbour table is full; raising nf_conntrack_max would not help it.")
    SUPPRESSED = ("suppressed", "The kernel kept lines back; the counters are asked instead.")
    CONTRADICTED = ("contradicted", "Every table could be read, and none is full or has dropped.")
    UNCONFIRMED = (
        "unconfirmed",
        "No table can confirm the line, and one plain step was made for such a line within the last while.",
    )
    SUPERSEDED = ("superseded", "A raise made just before already covers this.")
    RESOLVED = ("resolved", "The need has passed.")
    STABLE = ("stable", "Use is above the threshold but not growing towards the limit.")
    DRY_RUN_SUFFICIENT = ("dry_run_sufficient", "The limit reached by the rehearsed raises would hold this.")
    UNTRUSTED_NAMESPACE = (
        "untrusted_namespace",
        "The table belongs to a user namespace, which any user can make; it is not raised for.",
    )
    PAUSED = ("paused", "Raising is paused by order.")
    CONFLICT = ("conflict", "Another writer keeps lowering the limit; the guard has stopped raising.")
    UNLIMITED = ("unlimited", "The limit is 0, which means unlimited.")
    NO_CONNTRACK = ("no_conntrack", "This kernel tracks no connections yet.")
    WRITE_REFUSED = ("write_refused", "The kernel refused the last write; it is tried again later.")
    CHANGED_UNDER_US = ("changed_under_us", "The limit changed while the guard was deciding.")
    COOLDOWN = ("cooldown", "The last raise is being given time to take effect.")
    RATE_LIMITED = ("rate_limited", "The raises allowed within the window are spent.")
    OVER_BUDGET = ("over_budget", "The step would cost more kernel memory than the budget.")
    RESERVE = ("reserve", "The step would leave less memory available than the reserve.")
    AT_CEILING = ("at_ceiling", "The limit has reached the ceiling.")
    FLOOD = ("flood", "A flood fills the table, and `on_flood` allows no more for it.")
    UNSAMPLED = (
        "unsampled",
        "Nothing tells whether a flood fills the table, as `on_flood` wants, and a raise was made a moment before.",
    )
    CHAINS = ("chains", "The hash chains would grow so long that packets drop without a line.")
    INT_MAX = ("int_max", "The limit is the largest number the kernel takes.")
    ALREADY_IN_FORCE = ("already_in_force", "The limit that was kept for this boot is in force.")
    SET_ELSEWHERE = (
        "set_elsewhere",
        "The limit is below the one kept for this boot, and no kernel default: somebody set it, so it is left alone.",
    )
    OVER_BUDGET_AT_START = (
        "over_budget_at_start",
        "The limit that was kept is in force, and this host can no longer bear a table that fills it.",
    )
    LIMIT_RAISED = ("limit_raised", "Another writer raised the limit.")
    LIMIT_LOWERED = ("limit_lowered", "Another writer lowered the limit.")
    RESERVE_BROKEN = ("reserve_broken", "The budget or the reserve is broken already.")


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
    """Leave the limit as it is: an ordinary result, not a failure."""

    reason: HoldReason
    retry_seconds: float | None = None
    """When to decide again without a new trigger (CLOCK_BOOTTIME); None where time can't cure it."""
    arithmetic: Arithmetic | None = None
    corroboration: Corroboration | None = None
    advice: tuple[str, ...] = ()


class OverrideKind(StrEnum):
    """What an operator may order."""

    REVERT = "revert"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An operator's order: it outranks policy."""

    kind: OverrideKind
    target: int | None = None
    """The limit a revert goes back to."""
    until_seconds: float | None = None
    """End of the pause (CLOCK_BOOTTIME), None until resumed."""
    reason: str = ""
    uid: int | None = None
    login_uid: int | None = None


Decision = Raise | Hold | Override


class OutcomeKind(StrEnum):
    """What came of a decision."""

    NONE = "none"
    APPLIED = "applied"
    REJECTED = "rejected"
    REHEARSED = "rehearsed"
    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a decision: `applied` means written and read back."""

    kind: OutcomeKind
    limit_after: int | None = None
    errno: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A write that the kernel refused, and when to try again."""

    errno: int
    limit: int
    count: int
    until_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the guard remembers: `advance` folded over this boot's records, nothing else."""

    last_raise_seconds: float | None = None
    raise_seconds: tuple[float, ...] = ()
    set_limit: int | None = None
    """The limit that the guard's last write left in force; None once another writer or an order changed it."""
    conflict_seconds: tuple[float, ...] = ()
    refusal: Refusal | None = None
    unknown_seconds: float | None = None
    """The last raise that no table could confirm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One decision with everything that led to it and came of it."""

    key: str
    """Unique; a record delivered twice is kept once."""
    mode: Mode
    trigger: Trigger
    observation: Observation
    state: State
    """As it was when deciding."""
    decision: Decision
    outcome: Outcome
