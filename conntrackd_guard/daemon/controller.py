"""One decision from trigger to record, and what the guard remembers of those before.

Observe, decide, apply, take into the state, hand over to the recorder. Other writers and orders change
what the next decision knows, so they are noticed here, just before it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from conntrackd_guard.core import usage, verification
from conntrackd_guard.core.codec import decode
from conntrackd_guard.core.configuration import Buckets, Mode, Policy
from conntrackd_guard.core.corroboration import concerned_tables
from conntrackd_guard.core.explain import concerned
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Hold,
    MessageKind,
    Observation,
    Outcome,
    OutcomeKind,
    PersistedLimit,
    Raise,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.records import condense
from conntrackd_guard.core.state import advance
from conntrackd_guard.core.verification import End, PendingVerification
from conntrackd_guard.daemon.applier import LOWERED_RETRIES, Applier, BucketsRefused, Lowered
from conntrackd_guard.daemon.flood_detector import Floods
from conntrackd_guard.daemon.log_sources import LogSources
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import Kernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.host.systemd_notify import Service
from conntrackd_guard.recording.recorder import Recorder

ORDER_SECONDS = 10.0
"""An order that set a limit is in force within milliseconds; one that still isn't was cut short."""


@dataclass(slots=True, kw_only=True)
class Dependencies:
    """What the loop works with."""

    mode: Mode
    kernel: Kernel
    observer: Observer
    floods: Floods
    applier: Applier
    recorder: Recorder
    runtime_dir: RuntimeDir
    log_sources: LogSources
    clock: Clock
    service: Service
    kept: PersistedLimit | None = None
    """What the drop-in kept for this boot, as it was at start."""


class Controller:
    """Decides with `policy` and `state`. Methods raise GuardError where the host can't be read."""

    def __init__(self, parts: Dependencies, policy: Policy, state: State) -> None:
        self._p = parts
        self.policy = policy
        self.state = state
        ours = None if parts.kernel.rehearsing else state.set_limit
        self.limit = parts.kernel.limit_in_force() if ours is None else ours
        """The limit in force as last seen, or as the guard left it before it was restarted."""
        self._bearable: int | None = None
        """What this host could bear at start, where the limit found then was more."""
        self._after: PendingVerification | None = None
        self._keys = 0
        parts.floods.prepare(policy)

    @property
    def over_budget(self) -> bool:
        """The limit in force is more than this host could bear at start, and was so then."""
        return self._bearable is not None and (self.limit or 0) > self._bearable

    def take_policy(self, policy: Policy) -> None:
        """Go by another policy from now on."""
        self.policy = policy
        self._p.floods.prepare(policy)

    def restore(self) -> None:
        """Compare what was kept for this boot with what is in force, and put it back where a boot has lost it."""
        kept = self._p.kept
        if kept is not None:
            ours = max(kept.limit, 0 if self._p.kernel.rehearsing else self.state.set_limit or 0)
            decision = self.decide(Trigger(kind=TriggerKind.START, persisted=replace(kept, limit=ours)))
            over = isinstance(decision, Hold) and decision.reason is HoldReason.OVER_BUDGET_AT_START
            self._bearable = decision.arithmetic.target if over and decision.arithmetic else None

    def decide(self, trigger: Trigger, *, quietly_eased: bool = False, covers: bool = False) -> Raise | Hold:
        """Observe, decide, apply, record; return the decision as it ended.

        `quietly_eased`: such a hold is no news. `covers`: with this record, all lines taken so far are decided on.
        """
        for attempt in range(LOWERED_RETRIES + 1):
            record, policy = self._decide_once(trigger, last=attempt == LOWERED_RETRIES)
            if record is not None:
                break
        else:
            raise AssertionError("the last attempt always ends in a record")
        decision = record.decision
        if not (quietly_eased and isinstance(decision, Hold) and decision.reason is HoldReason.RESOLVED):
            self._finish(record, policy, covers=covers)
        if isinstance(decision, Raise) and record.outcome.kind is OutcomeKind.REJECTED and self.state.refusal:
            return Hold(reason=HoldReason.WRITE_REFUSED, retry_seconds=self.state.refusal.until_seconds)
        return decision if isinstance(decision, Raise | Hold) else Hold(reason=HoldReason.RESOLVED)

    def look_for_other_writers(self) -> bool:
        """Notice a limit that neither the guard nor an order set, and record it; return whether there was one."""
        limit = self._p.kernel.limit_in_force()
        if self._after is not None and limit != self._after.limit:
            self._conclude(self._after, End.LIMIT_CHANGED, self._p.clock.boottime())
        if limit == self.limit:
            return False
        self.take_orders()
        before, self.limit = self.limit, limit
        if limit == before:
            return False
        if limit is None or before is None:
            what = (
                "tracks no connections any more" if limit is None else f"tracks connections now, with limit {limit:,}"
            )
            self._p.recorder.log("guard.info", "info", f"This kernel {what}.")
            if limit is not None:
                self.restore()  # the module has loaded late: its default hides what was kept
            return False
        self.decide(Trigger(kind=TriggerKind.OTHER_WRITER, was=before))
        return True

    def take_orders(self) -> None:
        """Take orders into the state, and have them recorded in case that whoever gave them could not."""
        for key, content in self._p.runtime_dir.overrides():
            try:
                record = decode(Record, content)
            except ValueError:
                self._p.recorder.log("guard.error", "error", f"The order {key} can't be read and is left out.")
                self._p.runtime_dir.drop_override(key)
                continue
            limit = record.outcome.limit_after
            if limit is not None and limit != self._p.kernel.limit_in_force():
                if self._p.clock.boottime() - record.observation.boottime_seconds < ORDER_SECONDS:
                    continue  # it is being carried out
                self._p.recorder.log(
                    "guard.info", "warning", f"The order {key} was not carried out: {limit:,} is not in force."
                )
            else:
                self.state = advance(self.state, record)
                self.limit = self.limit if limit is None else limit
                self._p.recorder.submit(record, self.policy)
            self._p.runtime_dir.drop_override(key)

    def _decide_once(self, trigger: Trigger, *, last: bool) -> tuple[Record | None, Policy]:
        """One attempt; None where the limit was lowered while deciding and there are attempts left."""
        policy = self.policy
        observation = self._observe(trigger)
        while True:
            decision = decide(trigger, observation, self.state, policy)
            self._keys += 1
            planned = Record(
                key=f"{observation.boot_id[:8]}-{int(observation.boottime_seconds * 1e6)}-{os.getpid()}-{self._keys}",
                mode=self._p.mode,
                trigger=trigger,
                observation=observation,
                state=self.state,
                decision=decision,
                outcome=Outcome(kind=OutcomeKind.NONE),
            )
            if not isinstance(decision, Raise):
                return planned, policy
            match self._p.applier.apply(planned, decision):
                case BucketsRefused(why=why):
                    self._p.recorder.log("guard.error", "error", f"Decided as with `buckets: keep`: {why}")
                    policy = replace(policy, buckets=Buckets.KEEP)
                case Lowered():
                    break
                case Record() as done:
                    return done, policy
        self.look_for_other_writers()
        retry = Hold(
            reason=HoldReason.CHANGED_UNDER_US, retry_seconds=observation.boottime_seconds + usage.TICK_SECONDS
        )
        return (replace(planned, decision=retry) if last else None), policy

    def _observe(self, trigger: Trigger) -> Observation:
        """Read the host; for a line that names no namespace, look for others unless a trusted table explains it."""
        named = (trigger.namespace,) if trigger.namespace is not None and trigger.live else ()
        observation = self._p.observer.observe(namespaces=named)
        unplaced = (
            trigger.live and trigger.message_count > 0 and trigger.message_kind is MessageKind.TABLE_FULL and not named
        )
        trusted = self.policy.trust_user_namespaces
        if unplaced and not any(trusted or not t.user_owned for t in concerned_tables(trigger, observation)):
            observation = self._p.observer.observe(rescan=True)
        return condense(self._p.floods.mark(observation), trigger.namespace)

    def _finish(self, record: Record, policy: Policy, *, covers: bool) -> None:
        """Take a record into the state and hand it to the recorder."""
        self.state = advance(self.state, record)
        if isinstance(record.decision, Raise) and record.outcome.limit_after is not None:
            if not self._p.kernel.rehearsing:
                self.limit = record.outcome.limit_after
            self._p.observer.rebase()
            if record.outcome.kind is OutcomeKind.APPLIED:
                self._watch_raise(record, record.outcome.limit_after)
        position = self._p.log_sources.position() if covers else None
        self._p.recorder.submit(record, policy, position, times=max(1, record.trigger.message_count))
        self._want_sample(record)

    def _want_sample(self, record: Record) -> None:
        """Have a table sampled that filled before there was a sample of it."""
        decision, table = record.decision, concerned(record)
        if not self.policy.on_flood.restricts or table is None or table.flooded is not None:
            return
        if isinstance(decision, Raise) or (isinstance(decision, Hold) and decision.reason is HoldReason.UNSAMPLED):
            self._p.floods.want(table)

    def look_for_floods(self, tables: tuple[Table, ...]) -> None:
        """Sample a table that is nearly full, or was just decided on without a sample, for `on_flood`."""
        if self.policy.on_flood.restricts:
            self._p.floods.sample(tables, self._p.kernel.limit() or 0, self.policy, self._p.clock.boottime())

    # -- what came of a raise ------------------------------------------------------------------

    def saw(self, tables: Sequence[Table], now: float) -> None:
        """Note a look at the tables for the raise before, and hand over what came of that once it is known."""
        if self._after is not None:
            self._after = verification.seen(self._after, tables, now)
            if verification.is_over(self._after, now):
                self._conclude(self._after, End.WATCHED, now)

    def _watch_raise(self, record: Record, limit: int) -> None:
        """Begin to watch what comes of a raise, in place of the one before."""
        seen = record.observation
        if self._after is not None:
            after = verification.seen(self._after, seen.tables, seen.boottime_seconds)
            self._conclude(after, End.RAISED_AGAIN, seen.boottime_seconds)
        if record.trigger.kind is not TriggerKind.START:  # nothing was full, and nothing is being looked at
            self._after = verification.begin(record, limit)

    def _conclude(self, after: PendingVerification, end: End, now: float) -> None:
        """Hand over what came of a raise: it is written once that raise's row is."""
        self._p.recorder.record_verification(verification.conclude(after, end, now))
        self._after = None
