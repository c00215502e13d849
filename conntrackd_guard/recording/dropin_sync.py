"""The limit that the next boot begins with: what the drop-in is to say after each record, owed until it says so."""

from __future__ import annotations

from collections.abc import Callable

from conntrackd_guard import __version__
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.model import OutcomeKind, Override, OverrideKind, Raise, Record, TriggerKind
from conntrackd_guard.history.rows import rfc3339
from conntrackd_guard.host.sysctl_dropin import DropIn, Persisted


def is_reverted(record: Record) -> bool:
    """Return whether an override took the limit back."""
    decision = record.decision
    reverts = isinstance(decision, Override) and decision.kind is OverrideKind.REVERT
    return reverts and record.outcome.kind is OutcomeKind.APPLIED


class DropInSync:
    """Makes the drop-in follow raises, and never stand below what another writer set."""

    def __init__(self, drop_in: DropIn, say: Callable[..., None]) -> None:
        self._drop_in, self._say = drop_in, say
        self._owed: Record | None = None
        self._override_owed = True
        """A revert, perhaps one of before this run, may wait to be followed."""

    @property
    def is_due(self) -> bool:
        """Whether `settle` has anything to do."""
        return self._override_owed or self._owed is not None

    @property
    def owes(self) -> str | None:
        """The key of the record that the drop-in does not follow yet."""
        return None if self._owed is None else self._owed.key

    def follow(self, record: Record) -> bool:
        """Take in what the drop-in is to say after `record`; return whether that is anything new."""
        outcome = record.outcome
        set_here = outcome.kind in {OutcomeKind.APPLIED, OutcomeKind.REHEARSED} and outcome.limit_after is not None
        if isinstance(record.decision, Raise) and set_here:
            self._owed = record
        elif is_reverted(record):
            self._owed, self._override_owed = None, True
        elif record.trigger.kind is TriggerKind.OTHER_WRITER and self._outruns_owed(record.observation.limit):
            self._owed = record
        else:
            return False
        return True

    def settle(self) -> None:
        """Bring the drop-in to what it is to say. Raises HostError; then it is still owed."""
        if self._override_owed:
            self._drop_in.follow_override()
            self._override_owed = False
        owed = self._owed
        if owed is None:
            return
        if isinstance(owed.decision, Raise) and owed.outcome.limit_after is not None:
            persisted = to_persist(owed, owed.outcome.limit_after, owed.decision.arithmetic.budget_bytes)
            self._drop_in.put(persisted, owed.observation.boottime_seconds)
        else:
            self._let_go(owed.observation.limit)
        self._owed = None

    def written_by(self) -> str | None:
        """Return the key of the record that wrote the drop-in, None without one. Raises HostError."""
        kept = self._drop_in.kept()
        return None if kept is None else kept.decision

    def _let_go(self, limit: int | None) -> None:
        """Remove a drop-in that would lower this limit at the next boot, and say so."""
        persisted = None if limit is None else self._drop_in.release(limit)
        if persisted is None:
            return
        now = f"{limit:,}" if limit else "0, unlimited"
        text = f"The limit is {now}; the {persisted:,} persisted for the next boot would lower it and is removed."
        self._say("guard.info", "warning", text)

    def _outruns_owed(self, limit: int | None) -> bool:
        """Return whether a limit makes a raise that is still to be persisted void: it is above it."""
        owed = self._owed
        after = owed.outcome.limit_after if owed is not None and isinstance(owed.decision, Raise) else None
        return limit is not None and (after is None or _is_above(limit, after))


def _is_above(limit: int, other: int) -> bool:
    return limit == 0 or limit > other


def to_persist(record: Record, limit: int, budget_bytes: int) -> Persisted:
    """Return what the drop-in is to say of the record that set `limit`."""
    return Persisted(
        limit=limit,
        at=rfc3339(record.observation.wall_seconds),
        version=__version__,
        decision=record.key,
        why=sentence(record),
        boot_id=record.observation.boot_id,
        memory_total_bytes=record.observation.memory_total_bytes,
        budget_bytes=budget_bytes,
    )
