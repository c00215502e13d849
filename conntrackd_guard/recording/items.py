"""What travels in the recorder's queue. Frozen: how far the work on an item got is the worker's knowledge alone."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Record, State
from conntrackd_guard.history.database import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A record to persist, store and log."""

    record: Record
    policy: Policy
    position: Position | None = None
    times: int = 1
    """Decisions that it counts for, up to its position."""
    joined: int = 0
    """Equal holds that joined it while it waited: a later position covers them."""
    last_wall_seconds: float
    """When the last of them was made."""
    namespaces: tuple[tuple[int, str], ...] = ()
    """Numbers and names of the first few users' namespaces that it counts for."""
    is_stored: bool = False
    """Its row was written, and its message logged, by an earlier run."""
    sentence: str = ""
    """Composed once, by the worker."""


@dataclass(frozen=True, slots=True)
class LogMessage:
    """A log message that is no decision."""

    event: str
    level: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """Work for the recorder's thread that somebody waits for. Its one argument is the worker."""

    work: Any
    future: Future[Any]
    retry: bool
    """Keep trying until the host allows it; all behind it waits."""


Entry = Item | LogMessage | Position | Call
"""A position is how far the kernel's messages were read when all before it in the queue was handed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What earlier runs left."""

    state: State | None
    """Folded over this boot's records; None where not all of them can be read."""
    ahead: int = 0
    """How many of these are dated ahead of this boot's clock."""
    stored: frozenset[str] = frozenset()
    """The keys of those among them that an open intent or a queued override is about."""
    position: Position | None
    """How far they read the kernel's messages, None in a new history."""
    persisted: str | None
    """The key of the record that wrote the drop-in."""
