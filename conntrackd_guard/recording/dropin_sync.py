"""Make the drop-in follow the limit. A write that fails stays due until it works, or until a newer decision voids it."""

import time

from conntrackd_guard.core import tuning
from conntrackd_guard.core.errors import Unfinished
from conntrackd_guard.core.limits import format_limit, is_lower
from conntrackd_guard.core.model import OutcomeKind, Override, OverrideKind, Raise, Record, TriggerKind
from conntrackd_guard.core.state import rest_after
from conntrackd_guard.core.sysctl_precedence import Tool
from conntrackd_guard.core.text import printable
from conntrackd_guard.host.dropin_request import Persisted
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.sysctl_dropin import Overriding, SysctlDropIn
from conntrackd_guard.recording.items import Item


class DropInSync:
    """Persists raises, and removes a persisted limit that is lower than what another program set to stay."""

    def __init__(self, drop_in: SysctlDropIn, log: Log) -> None:
        self._drop_in, self._log = drop_in, log
        self._due: Item | None = None
        """A raise to persist."""
        self._passed: tuple[float, int, float] | None = None
        """When another program's higher limit has stood long enough (time.monotonic), it, and when it was seen (CLOCK_BOOTTIME)."""
        self._override_due = True
        """A revert, perhaps of before this run, may have left what it could not write."""
        self._reported: list[Overriding] = []
        """The lines that override the drop-in, as last logged."""

    @property
    def is_due(self) -> bool:
        """Whether `flush` has anything to do."""
        return self._override_due or self._due is not None or self._has_stood()

    @property
    def due_key(self) -> str | None:
        """The key of the record that the drop-in does not follow yet."""
        return None if self._due is None else self._due.record.key

    def follow(self, item: Item) -> bool:
        """Note what the drop-in has to say after a record; return whether that changes anything now."""
        record, decision = item.record, item.record.decision
        limit, reverts = (
            record.observation.limit,
            isinstance(decision, Override) and decision.kind is OverrideKind.REVERT,
        )
        if _limit_set_by(record) is not None:
            self._due, self._passed = item, None
        elif reverts and record.outcome.kind is OutcomeKind.APPLIED:
            self._due, self._passed, self._override_due = None, None, True  # the command has left what to write
        elif limit is not None and limit != record.trigger.was and _is_of_others(record):
            seen = record.observation.boottime_seconds
            passed = (time.monotonic() + tuning.STANDING_SECONDS, limit, seen)
            self._passed = passed if self._is_passed_by(limit) else None
            return self._has_stood()
        else:
            return False
        return True

    def flush(self) -> bool:
        """Bring the drop-in up to date; return whether it is. Raises HostError; then it stays due."""
        try:
            self._bring_up_to_date()
        except Unfinished:
            return False
        return True

    def _bring_up_to_date(self) -> None:
        if self._override_due:
            self._drop_in.follow_override()
            self._override_due = False
            self._report_order()
        if self._passed is not None and self._has_stood():
            _, limit, seen = self._passed
            if (removed := self._drop_in.release(limit, seen)) is not None:
                text = (
                    f"Removed the {removed:,} saved for the next boot: the limit is now {format_limit(limit)}, and it would have "
                    "lowered it."
                )
                self._log.emit("guard.info", "warning", text)
            self._due = self._passed = None
        if self._due is not None and (raised_to := _limit_set_by(self._due.record)) is not None:
            record = self._due.record
            persisted = Persisted.from_record(record, raised_to)
            self._drop_in.put(persisted, record.observation.boottime_seconds, record.observation.buckets)
            self._due = None
            self._report_order()

    def _report_order(self) -> None:
        """Log which sysctl lines override the drop-in, if that is news."""
        found = self._drop_in.overridden_by()
        known = {(other.line, *other.tools) for other in self._reported}
        self._reported = found
        for what, saved, line, tools in found:
            if (line, *tools) in known:
                continue
            when = "at the next boot" if Tool.SYSTEMD in tools else f"when somebody calls `{Tool.PROCPS}`"
            sets = f"sets {line.value}" if line.value else "leaves it unset"
            text = (
                f"The saved {what} ({saved:,}) is overridden {when}: {line.path}:{line.line} is applied after it and "
                f"{sets}. Remove that line."
            )
            higher = line.number is not None and is_lower(saved, line.number)
            self._log.emit("guard.info", "info" if higher else "warning", printable(text))

    def _has_stood(self) -> bool:
        """Return whether another program's higher limit stood long enough to void what is persisted."""
        return self._passed is not None and time.monotonic() >= self._passed[0]

    def _is_passed_by(self, limit: int) -> bool:
        """Return whether another program's limit voids a raise that is due; what the file holds is compared later."""
        due = None if self._due is None else _limit_set_by(self._due.record)
        return due is None or is_lower(due, limit)


def _is_of_others(record: Record) -> bool:
    """Return whether another program set the limit found: just now, or before this start and since the file was written.

    A boot that ends with a higher limit doesn't count: the file lowered nothing.
    """
    kept, boot_id = record.trigger.persisted, record.observation.boot_id
    return record.trigger.kind is TriggerKind.OTHER_WRITER or (kept is not None and kept.boot_id == boot_id)


def _limit_set_by(record: Record) -> int | None:
    """Return the limit that a raise left in force to stay, or would have in a dry run; None for any other record."""
    done = (
        record.outcome.kind in {OutcomeKind.APPLIED, OutcomeKind.REHEARSED}
        and rest_after(record, record.state.rest_limit) is None
    )
    return record.outcome.limit_after if done and isinstance(record.decision, Raise) else None
