"""The order of effects: intent, re-read, write, read back. `recovery` reconciles the intents that a kill leaves."""

from dataclasses import dataclass, replace

from conntrackd_guard.core import chains
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.limits import format_limit, is_lower
from conntrackd_guard.core.model import Hold, Outcome, OutcomeKind, Raise, Record
from conntrackd_guard.core.policy import RECHECK_SECONDS
from conntrackd_guard.host.conntrack.limit import Kernel
from conntrackd_guard.host.runtime_dir import RuntimeDir

LOWERED_RETRIES = 3
"""Retries at once after the limit was lowered while deciding; then the next tick retries."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """Another writer lowered the limit between observing and writing: decide again."""


@dataclass(frozen=True, slots=True)
class BucketsRefused:
    """The kernel refused the buckets that this raise counts on: decide again without them."""

    why: str


class Applier:
    """Applies raises to a kernel, real or rehearsing. No write lowers the limit, as the kernel reads it."""

    def __init__(self, kernel: Kernel, runtime_dir: RuntimeDir) -> None:
        self._kernel = kernel
        self._runtime_dir = runtime_dir

    def apply(self, planned: Record, decision: Raise) -> Record | Lowered | BucketsRefused:
        """Return the record with the outcome of `decision`; a refusal by the host is an outcome, not an error."""
        notes, seen = [], planned.observation.limit or 0
        try:
            self._runtime_dir.intents.put(planned.key, planned)
        except HostError as error:
            notes.append(f"no intent was written: {error}")  # the host's need outranks the intent
        try:
            before = self._kernel.limit()
            if before != seen:
                self._runtime_dir.intents.drop(planned.key)
                return self._changed(planned, decision, before, seen)
            if not 0 < seen < decision.target:  # 0 is unlimited: the law holds whatever was decided
                detail = f"writing {decision.target:,} would lower the limit of {format_limit(seen)}"
                return _rejected(planned, None, seen, detail, notes)
            if decision.buckets_target is not None:  # first: no limit stands without the buckets it was judged with
                try:
                    buckets = self._kernel.set_buckets(decision.buckets_target)
                except HostError as error:
                    self._runtime_dir.intents.drop(planned.key)
                    return BucketsRefused(str(error))
                stall_ms = chains.stall_ms(decision.arithmetic.in_use)
                was = decision.arithmetic.buckets
                notes.append(f"buckets {was} → {buckets}, traffic stalled for about {stall_ms:.0f} ms")
            after = self._kernel.set_limit(decision.target)
            if after != decision.target:
                return _rejected(
                    planned, None, after, f"the kernel took {decision.target:,} as {format_limit(after)}", notes
                )
        except HostError as error:
            return _rejected(planned, error.errno, None, str(error), notes)
        kind = OutcomeKind.REHEARSED if self._kernel.rehearsing else OutcomeKind.APPLIED
        return replace(planned, outcome=Outcome(kind=kind, limit_after=after, detail="; ".join(notes)))

    @staticmethod
    def _changed(planned: Record, decision: Raise, before: int | None, seen: int) -> Record | Lowered:
        if before is not None and is_lower(before, seen):
            return Lowered()
        hold = Hold(
            reason=HoldReason.CHANGED_UNDER_US if before is not None else HoldReason.NO_CONNTRACK,
            retry_seconds=planned.observation.boottime_seconds + RECHECK_SECONDS,
            corroboration=decision.corroboration,
        )
        now = "gone" if before is None else format_limit(before)
        detail = f"the limit was {format_limit(seen)} when observed and {now} just before the write"
        return replace(
            planned, decision=hold, outcome=Outcome(kind=OutcomeKind.NONE, limit_after=before, detail=detail)
        )


def _rejected(planned: Record, errno: int | None, after: int | None, detail: str, notes: list[str]) -> Record:
    outcome = Outcome(kind=OutcomeKind.REJECTED, limit_after=after, errno=errno, detail="; ".join([detail, *notes]))
    return replace(planned, outcome=outcome)
