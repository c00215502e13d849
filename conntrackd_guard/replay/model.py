"""What a replay reads and what it returns: evidence about one host in, one row out.

All text from a source (names, notes) is untrusted; renderers escape it. Times are wall time in seconds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import MessageKind, Record


class Grade(StrEnum):
    """How much the evidence can show."""

    EXACT = "exact"
    """Recorded observations, decided again: `decide` is pure."""
    SIMULATED = "simulated"
    """A time series of entries, limit and memory drives the real loop on a simulated host."""
    ASKED_ONLY = "asked_only"
    """Kernel messages only: when the guard would have been asked, and how far it could have gone."""


class Sample(NamedTuple):
    """One moment of a time series, of the initial namespace; None where the series has no value there."""

    wall_seconds: float
    entries: int | None
    limit: int | None
    """The limit in force then."""
    available_bytes: int | None
    """Memory available."""
    drops: int | None
    """As the kernel counts: cumulative, from 0 again after a boot."""


@dataclass(frozen=True, slots=True)
class Message:
    """A kernel message, or `count` equal ones of one moment."""

    wall_seconds: float
    kind: MessageKind
    namespace: int | None
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What does not change while a host runs; None where the source doesn't show it."""

    total_bytes: int | None = None
    cpus: int | None = None
    kernel: str | None = None
    """The release, as in `uname -r`."""
    buckets: int | None = None
    entry_slab_bytes: int | None = None
    hugetlb_bytes: int = 0
    chain_limit: bool | None = None
    """Whether this kernel drops packets for long hash chains."""
    boots: int | None = None
    limit: int | None = None
    """The limit to assume where no sample has one (`--limit`)."""
    available_bytes: int | None = None
    """The memory available to assume where no sample has it (`--memory-available`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The time to replay, in wall seconds; None: as far as the source goes."""

    since: float | None = None
    until: float | None = None

    def has(self, seconds: float) -> bool:
        """Return whether that moment is within, both ends included."""
        return (self.since is None or self.since <= seconds) and (self.until is None or seconds <= self.until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One decision of a history, with all that it was decided by."""

    row: int
    guard_version: str
    repeats: int
    record: Record | None
    """None if it can't be read."""
    policy: Policy | None
    """The policy of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInput:
    """The evidence about one host. The iterables are read once, oldest first."""

    name: str
    grade: Grade
    facts: HostFacts
    samples: Iterable[Sample] = ()
    messages: Iterable[Message] = ()
    decisions: Iterable[Recorded] = ()
    """Of `exact` evidence."""
    notes: tuple[str, ...] = ()
    """What the source found that a reader should know (gaps, damaged files, a second machine id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A host, a file or a part of one that could not be replayed, and why, as a clear sentence."""

    name: str
    why: str


class Unit(Protocol):
    """A part of a source that one worker reads: a history file, a Prometheus host, a group of journal files. Picklable.

    A worker opens what it needs in `read`; nothing is open while a unit is sent to one.
    """

    @property
    def key(self) -> str:
        """Identify it in its source, also in a later run (`--resume`)."""

    def read(self, span: Span) -> Iterator[HostInput | Skipped]:
        """Yield the hosts in it. Raises GuardError with one clear sentence if nothing can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A raise that the policy would have made."""

    at: float
    before: int
    target: int
    cause: str
    """The trigger's value (`core.model.TriggerKind`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A recorded decision that the policy would have made otherwise."""

    row: int
    """Its number in the history."""
    at: float
    recorded: str
    """`raise to N` or `hold REASON`."""
    replayed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """What deciding a history's rows again found. rows = same + different + overrides + other_versions + unreadable."""

    rows: int = 0
    same: int = 0
    different: int = 0
    overrides: int = 0
    """Operators' actions: no policy decides them."""
    other_versions: dict[str, int]
    """Rows of other guard versions, by version: they count as recorded."""
    unreadable: int = 0
    differences: tuple[Difference, ...] = ()
    """The first ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResult:
    """One row of the answer: what the policy would have done on one host."""

    name: str
    grade: Grade
    since: float | None = None
    """Wall time of the oldest evidence, None without any."""
    until: float | None = None
    messages: int = 0
    """Kernel messages, "table full" and others: what the log has, so a floor where the kernel rate-limits."""
    episodes: int | None = None
    """Times of need of a table; None where the evidence doesn't show when one ended."""
    raises: int = 0
    first_limit: int | None = None
    """The limit at the start."""
    highest_limit: int | None = None
    """The highest that the policy would have set, or that was in force."""
    peak_cost_bytes: int | None = None
    """Kernel memory of a table as full as the highest limit allows, and of its hash buckets; None if unknown."""
    dropped: int | None = None
    """Packets that the kernel counted as dropped in that time; None where the source has no counter."""
    saved: int | None = None
    """Of those, packets that the replayed limit had room for; None where that can't be known."""
    saved_at_least: bool = False
    """The table was full, so its growth beyond is unknown: `saved` is a floor."""
    allowed_limit: int | None = None
    """The highest limit that the policy allows on this host with one full table (`asked_only`), None if unknown."""
    causes: dict[str, int]
    """Raises and holds by trigger."""
    holds: dict[str, int]
    """Holds by reason; equal ones in a row are one, as in a history."""
    actions: tuple[str, ...] = ()
    """What an operator would have had to do."""
    steps: tuple[Step, ...] = ()
    """The first raises."""
    exact: Exact | None = None
    points: tuple[tuple[int, ...], ...] = ()
    """For a chart, a bounded number: (wall time, entries, limit recorded, limit replayed)."""
    notes: tuple[str, ...] = ()
