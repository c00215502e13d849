"""The limit that this host is to have without a need: the persisted one where a boot lost it, and `min_limit`."""

import math
from collections.abc import Callable
from dataclasses import replace

from conntrackd_guard.core import policy as core_policy
from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Hold,
    OutcomeKind,
    Override,
    OverrideKind,
    PersistedLimit,
    Raise,
    Record,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.state import conflicts
from conntrackd_guard.daemon.dependencies import WAITING_SECONDS, Dependencies

REST_SECONDS = JUDGED_SECONDS = 60.0
"""Interval for restoring the rest of a limit, and for judging one again that this host can't bear: memory changes slowly."""

_RESTORED_LATER = frozenset({HoldReason.PAUSED, HoldReason.WRITE_REFUSED, HoldReason.MEMORY_UNKNOWN})
_RAISED_LATER = _RESTORED_LATER | {HoldReason.COOLDOWN, HoldReason.CHANGED_UNDER_US, HoldReason.NO_CONNTRACK}
_NOT_YET, _AFTER_CONFLICT = 0.0, math.inf
"""Times of what is due at once, and of what waits until a conflict is over, however that ends."""

Decide = Callable[..., Raise | Hold]


class Restorer:
    """Says when to restore and when to raise to `min_limit`; `decide` observes, decides, applies and records.

    Methods raise GuardError if the host can't be read.
    """

    def __init__(self, parts: Dependencies, decide: Decide, ours: int | None, policy: Policy) -> None:
        self._p, self._decide = parts, decide
        self.kept = parts.kept
        """The limit to put back where a boot or a loading of the module lost it."""
        if ours is not None and (self.kept is None or self.kept.limit < ours):
            buckets = None if self.kept is None else self.kept.buckets
            self.kept = PersistedLimit(limit=ours, buckets=buckets, boot_id=parts.observer.boot_id)
        self._restore_at: float | None = None
        """When to compare it with the limit in force; None once that is decided."""
        self._minimum_at: float | None = _NOT_YET
        """When to raise to `min_limit`: at start, after another program went below it, and on `guard resume`; None once decided."""
        self._minimum = policy.min_limit
        """The `min_limit` that this is about: a reload may change it."""
        self._affordable: int | None = None
        """The limit that this host could bear at start, if the limit found then was higher."""
        self._affordable_at = 0.0
        """When to judge that again."""

    def begin(self) -> None:
        """Have the limit restored at `start`, unless another writer's change that is found before leads to that."""
        self._restore_at = _NOT_YET

    def start(self, policy: Policy) -> None:
        """Restore the limit if that is still due, then raise to `min_limit`."""
        if self._restore_at == _NOT_YET:
            self.restore()
        self._raise_to_minimum(policy)

    def turn(self, policy: Policy, state: State, limit: int | None) -> bool:
        """Do what is due; return whether the `limit` in force is more than this host can bear."""
        now = self._p.clock.boottime()
        if not 0 < policy.conflict_limit <= conflicts(state, now):
            self._restore_at = _NOT_YET if self._restore_at == _AFTER_CONFLICT else self._restore_at
            self._minimum_at = _NOT_YET if self._minimum_at == _AFTER_CONFLICT else self._minimum_at
        if self._restore_at is not None and now >= self._restore_at and self._p.runtime_dir.pause(now) is None:
            self.restore()
        self._raise_to_minimum(policy)
        if self._affordable is None or (limit or 0) <= self._affordable:
            return False
        if now >= self._affordable_at:
            self._judge_again(policy, state, limit or 0)
        return self._affordable is not None

    def note_raise(self, record: Record, decision: Raise, rest_limit: int | None) -> None:
        """Keep the limit that was raised to, unless the rest of a higher one is due."""
        if record.outcome.kind is OutcomeKind.APPLIED and record.outcome.limit_after is not None and rest_limit is None:
            buckets = decision.buckets_target or (None if self.kept is None else self.kept.buckets)
            boot_id = record.observation.boot_id
            limit = record.outcome.limit_after
            self.kept = PersistedLimit(limit=limit, buckets=buckets, decision=record.key, boot_id=boot_id)

    def note_override(self, record: Record, limit: int | None, buckets: int | None) -> None:
        """Keep the limit that an operator set; `guard resume` makes due what waits."""
        if isinstance(record.decision, Override) and record.decision.kind is OverrideKind.REVERT:
            self._minimum_at = None
        elif isinstance(record.decision, Override) and record.decision.kind is OverrideKind.RESUME:
            self._minimum_at = _NOT_YET
            self._restore_at = None if self._restore_at is None else _NOT_YET
        if limit is not None and record.outcome.kind is OutcomeKind.APPLIED and self.kept is not None:
            self.kept = replace(self.kept, limit=limit, buckets=buckets or self.kept.buckets)

    def note_lower_limit(self) -> None:
        """Raise to `min_limit` at the next turn: another program went below it, or there is a limit again."""
        self._minimum_at = _NOT_YET

    def restore(self) -> None:
        """Compare the limit that was kept with the one in force, and write it if a boot has lost it."""
        if self.kept is None:
            self._restore_at = None
            return
        now = self._p.clock.boottime()
        self._restore_at = now + WAITING_SECONDS  # after an error
        decision = self._decide(self._trigger(self.kept))
        self._restore_at = self._affordable = None
        if isinstance(decision, Hold) and decision.reason in _RESTORED_LATER:
            self._restore_at = decision.retry_seconds or _NOT_YET
        elif isinstance(decision, Hold) and decision.reason is HoldReason.CONFLICT:
            self._restore_at = _AFTER_CONFLICT
        elif isinstance(decision, Hold) and decision.reason is HoldReason.OVER_BUDGET_AT_START and decision.arithmetic:
            self._affordable, self._affordable_at = decision.arithmetic.target, now + JUDGED_SECONDS
        elif decision.arithmetic is not None and decision.arithmetic.bound is Bound.MIN_AVAILABLE:
            self._restore_at = now + REST_SECONDS

    def _trigger(self, kept: PersistedLimit) -> Trigger:
        return Trigger(kind=TriggerKind.START, persisted=kept, load=self._p.load)

    def _judge_again(self, policy: Policy, state: State, limit: int) -> None:
        """Judge a limit that this host could not bear at start: memory, the tables and the settings change."""
        self._affordable_at = self._p.clock.boottime() + JUDGED_SECONDS
        trigger = self._trigger(PersistedLimit(limit=limit))
        decision = core_policy.decide(trigger, self._p.observer.observe(), state, policy)
        if not isinstance(decision, Hold):
            return
        if decision.reason is HoldReason.OVER_BUDGET_AT_START and decision.arithmetic is not None:
            self._affordable = decision.arithmetic.target
        elif decision.reason is HoldReason.ALREADY_IN_FORCE:
            self._affordable = None

    def _raise_to_minimum(self, policy: Policy) -> None:
        """Decide once about `min_limit`, after whatever has to end first: a pause, the cooldown, a kernel without a limit."""
        now, least, limit = self._p.clock.boottime(), policy.min_limit, self._p.kernel.limit()
        if least != self._minimum:
            self._minimum, self._minimum_at = least, _NOT_YET
        if self._minimum_at is None or now < self._minimum_at or limit is None:
            return
        if least is None or limit >= least:
            self._minimum_at = None
        elif not self._minimum_at or self._p.runtime_dir.pause(now) is None:  # one hold is recorded, if it is paused
            decision = self._decide(Trigger(kind=TriggerKind.MINIMUM), is_news=False)
            later = isinstance(decision, Hold) and decision.reason in _RAISED_LATER
            self._minimum_at = (decision.retry_seconds or now) if isinstance(decision, Hold) and later else None
            if isinstance(decision, Hold) and decision.reason is HoldReason.CONFLICT:
                self._minimum_at = _AFTER_CONFLICT
