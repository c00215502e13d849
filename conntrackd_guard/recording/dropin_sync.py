"""Make the drop-in follow the limit. A write that fails stays due until it works, or until a newer decision voids it."""

from conntrackd_guard.core.limits import format_limit, is_lower
from conntrackd_guard.core.model import OutcomeKind, Override, OverrideKind, Raise, Record, TriggerKind
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.sysctl_dropin import Persisted, SysctlDropIn
from conntrackd_guard.recording.items import Item


class DropInSync:
    """Persists raises, and removes a persisted limit that is lower than what another program set."""

    def __init__(self, drop_in: SysctlDropIn, log: Log) -> None:
        self._drop_in, self._log = drop_in, log
        self._due: Item | None = None
        self._override_due = True
        """A revert, perhaps of before this run, may have left what it could not write."""

    @property
    def is_due(self) -> bool:
        """Whether `flush` has anything to do."""
        return self._override_due or self._due is not None

    @property
    def due_key(self) -> str | None:
        """The key of the record that the drop-in does not follow yet."""
        return None if self._due is None else self._due.record.key

    def follow(self, item: Item) -> bool:
        """Note what the drop-in has to say after a record; return whether that changes anything."""
        record, decision = item.record, item.record.decision
        reverts = isinstance(decision, Override) and decision.kind is OverrideKind.REVERT
        if _limit_set_by(record) is not None:
            self._due = item
        elif reverts and record.outcome.kind is OutcomeKind.APPLIED:
            self._due, self._override_due = None, True  # the command has left what the drop-in has to say
        elif record.trigger.kind is TriggerKind.OTHER_WRITER and self._is_passed_by(record.observation.limit):
            self._due = item
        else:
            return False
        return True

    def flush(self) -> None:
        """Bring the drop-in up to date. Raises HostError; then it stays due."""
        if self._override_due:
            self._drop_in.follow_override()
            self._override_due = False
        if self._due is None:
            return
        record, raised_to, limit = self._due.record, _limit_set_by(self._due.record), self._due.record.observation.limit
        if raised_to is not None:
            persisted = Persisted.from_record(record, raised_to, self._due.sentence)
            self._drop_in.put(persisted, record.observation.boottime_seconds)
        elif limit is not None and (removed := self._drop_in.release(limit)) is not None:
            now = format_limit(limit)
            text = f"Removed the {removed:,} saved for the next boot: the limit is now {now}, and it would have lowered it."
            self._log.emit("guard.info", "warning", text)
        self._due = None

    def _is_passed_by(self, limit: int | None) -> bool:
        """Return whether another program's limit voids what is due: it is above the raise to persist."""
        due = None if self._due is None else _limit_set_by(self._due.record)
        return limit is not None and (due is None or is_lower(due, limit))


def _limit_set_by(record: Record) -> int | None:
    """Return the limit that a raise left in force, or would have in a dry run; None for any other record."""
    done = record.outcome.kind in {OutcomeKind.APPLIED, OutcomeKind.REHEARSED}
    return record.outcome.limit_after if done and isinstance(record.decision, Raise) else None
