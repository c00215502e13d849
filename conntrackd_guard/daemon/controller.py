"""Observe, decide, apply, record: one decision from its trigger to its record, and the memory of those before.

Everything that reads the state, the policy or the limit is here. Nothing that the write doesn't need
comes before it: another writer's change counts in memory for the decision, and its record follows.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from conntrackd_guard.core import budget, episode, incident, usage
from conntrackd_guard.core.assessment import Assessment, assess
from conntrackd_guard.core.configuration import Buckets, FloodAction, Policy
from conntrackd_guard.core.episode import Episode, Episodes
from conntrackd_guard.core.errors import describe
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.incident import Incidents
from conntrackd_guard.core.kernel_default import default_limit
from conntrackd_guard.core.limits import format_limit, is_lower, is_unlimited
from conntrackd_guard.core.model import (
    Decision,
    Hold,
    MessageKind,
    Observation,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Raise,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import changed, resolve
from conntrackd_guard.core.records import NAMED_ONE_BY_ONE, UNTRUSTED, condense
from conntrackd_guard.core.state import advance, excused
from conntrackd_guard.daemon.applier import LOWERED_RETRIES, BucketsRefused, Lowered
from conntrackd_guard.daemon.chain_watch import ChainWatch
from conntrackd_guard.daemon.dependencies import WAITING_SECONDS, Dependencies
from conntrackd_guard.daemon.publisher import Publisher
from conntrackd_guard.daemon.recovery import queued_overrides
from conntrackd_guard.daemon.restorer import Restorer
from conntrackd_guard.daemon.verifier import Verifier
from conntrackd_guard.history.database import Position
from conntrackd_guard.host.conntrack.observer import rested

OVERRIDE_SECONDS = 10.0
"""An override that set a limit is in force within milliseconds; one that still isn't was cut short."""
BUCKETS_SECONDS = 1.0
"""Interval for looking whether another program resized the hash, or loaded the module again; a decision looks as well."""
MEMORY_SECONDS = 1.0
"""Interval for comparing the entries that exist with budget and `min_available`, while tables are read."""

EXPLAINING_SHARE = 0.10
"""Share of one core for scans that messages without a number cause: a scan takes milliseconds, or in a crowd a second."""


class Controller:
    """Decides with `policy` and `state`. Methods raise GuardError if the host can't be read."""

    def __init__(self, parts: Dependencies, policy: Policy, state: State, publisher: Publisher | None = None) -> None:
        self._p = parts
        self.policy = policy
        self.state = state
        ours = None if parts.kernel.rehearsing else state.set_limit
        self.limit = parts.kernel.limit_in_force() if ours is None else ours
        """The limit in force as last seen, or as the guard left it before it was restarted."""
        self._buckets = parts.kernel.buckets()
        self._reverted_buckets: int | None = None
        self._module = parts.kernel.module()
        """Which loading of connection tracking `limit` belongs to."""
        self._restorer = Restorer(parts, self.decide, ours, policy)
        self._verifier = Verifier(parts.recorder)
        self._changes: list[Record] = []
        """Other writers' changes that are in the state and still to be submitted: nothing delays a write."""
        self._incidents: Incidents = {}
        self._chain_watch = ChainWatch(parts.observer, parts.recorder)
        self._limit_changed = self._memory_broken = False
        self._memory_at = self._explained_at = self._buckets_at = 0.0
        self._keys = 0
        self._publisher = publisher or Publisher(parts)

    def start(self) -> None:
        """Take up another writer's change from before the start, then a limit that the boot has lost."""
        if self.limit != self._p.kernel.limit_in_force():
            seen = self._p.observer.observe()
            if seen.limit == default_limit(self._p.load, seen.buckets or 0, seen.memory_total_bytes):
                self._module = -1  # loaded again since the last run, rather than set by somebody
        self._restorer.begin()
        self._look_for_other_writers()
        self._restorer.start(self.policy)

    def tick(self, episodes: Episodes) -> tuple[dict[int | None, Episode], float]:
        """Look at the tables; return the episodes after that, and when to look again (CLOCK_BOOTTIME)."""
        now = self._p.clock.boottime()
        in_force = self._look_for_other_writers()
        if self._p.owners is not None and self._p.owners.has_changed():
            self._p.observer.rescan()
        is_changed, self._limit_changed = self._limit_changed, False
        try:
            return self._look(episode.on_limit_change(episodes, now) if is_changed else episodes, in_force, now)
        except Exception:
            self._limit_changed = self._limit_changed or is_changed  # those episodes are lost
            raise

    def _look(self, episodes: Episodes, in_force: int | None, now: float) -> tuple[dict[int | None, Episode], float]:
        """Look at the tables at the limit in force; return the episodes after that, and when to look again."""
        wall, series = self._p.clock.wall(), self._p.recorder.series_collector
        limit = self._p.kernel.limit() if self._p.kernel.rehearsing else in_force
        if limit is not None and is_unlimited(limit):  # nothing but chains bounds the tables
            self._check_chains(self._p.observer.watch(in_force, attentive=series.is_due(wall))[0], now)
        if limit is None or is_unlimited(limit):
            return episode.on_tables(episodes, (), 0, 0, self.policy, now), now + WAITING_SECONDS
        tables, hurry = self._p.observer.watch(in_force, attentive=bool(episodes) or series.is_due(wall))
        if tables and self._p.debug is not None:
            self._p.debug.tick(tables, limit, self.policy)
        series.note(tables, self._p.observer.present, limit, wall)
        self._verifier.look(tables, now)
        after = episode.on_tables(episodes, tables, limit, self.limit or 0, self.policy, now)
        if self._incidents:
            self._end_incidents(tables, after, limit, now)
        self._p.floods.look(tables, limit, self.policy, now)
        if tables and now >= self._memory_at:
            self._check_memory()
            self._memory_at = max(now + MEMORY_SECONDS, rested(now, self._p.clock.boottime()))
        self._check_chains(tables, now)
        left = min((usage.seconds_to_full(t.count, limit, t.growth_per_second) for t in tables), default=math.inf)
        last = self.state.last_raise_seconds
        # A step made without a measured demand can fill within the cooldown.
        just_raised = bool(episodes) and last is not None and now - last < self.policy.cooldown_seconds
        hurry = hurry or left < usage.HURRY_SECONDS or just_raised
        return after, now + (usage.HURRIED_TICK_SECONDS if hurry else usage.TICK_SECONDS)

    def answer(self, known: Episode, *, covers: Callable[[], bool]) -> Episode:
        """Decide an episode that is due, and return it after that. A first decision that the need is over is no news."""
        trigger, began = known.trigger(raise_early=self.policy.raise_early), self._p.clock.boottime()
        decision = self.decide(trigger, is_news=known.reason is not None, covers=covers)
        if isinstance(decision, Hold) and decision.reason in UNTRUSTED and decision.retry_seconds is not None:
            again = rested(began, self._p.clock.boottime())  # users make crowds, in which an observation takes long
            decision = replace(decision, retry_seconds=max(decision.retry_seconds, again))
        return episode.on_decision(known, decision)

    def decide(
        self, trigger: Trigger, *, is_news: bool = True, covers: Callable[[], bool] = lambda: False
    ) -> Raise | Hold:
        """Observe, decide, apply, record; return the decision as it ended.

        Without `is_news`, a need that is over is not recorded. `covers`, called after the write: with this record,
        a decision was made about all messages taken so far.
        """
        policy = self.policy
        named = (trigger.namespace,) if trigger.namespace is not None and trigger.live else ()
        # One scan for all messages of a turn: in a crowd it takes a second. A decision made again looks again.
        existed_at = trigger.message_seconds if trigger.message_seconds and trigger.message_count else math.inf
        for _ in range(LOWERED_RETRIES + 1):
            observation = self._p.observer.observe(namespaces=named, existed_at=existed_at)
            if policy.on_flood.action is not FloodAction.RAISE:
                observation = self._p.floods.mark(observation)
            if len(observation.tables) > NAMED_ONE_BY_ONE:
                observation = condense(observation, trigger.namespace, policy)
            case = assess(trigger, observation, policy)
            if trigger.message_kind is MessageKind.TABLE_FULL and trigger.message_count and trigger.live and not named:
                case = self._explained(case)
            if case.observation.kernel_limit != self.limit or case.observation.buckets != self._buckets:
                self._take_change(case.observation)
            record = self._record(case.trigger, case.observation, resolve(case, self.state, policy))
            if not isinstance(record.decision, Raise):
                break
            match self._p.applier.apply(record, record.decision):
                case Record() as record:
                    break
                case BucketsRefused(why=why):
                    self._p.recorder.log("guard.error", "error", f"Decided as with `buckets: keep`: {why}")
                    policy = replace(policy, buckets=Buckets.KEEP)
                    trigger = _without_buckets(trigger)
                case Lowered():
                    pass
            retry, truth = case.observation.boottime_seconds + usage.TICK_SECONDS, case.corroboration
            hold = Hold(reason=HoldReason.CHANGED_UNDER_US, retry_seconds=retry, corroboration=truth)
            record = replace(record, decision=hold)  # unless it is decided again now
        return self._finish(record, policy, case, is_news=is_news, covers=covers)

    def publish(self, episodes: Episodes) -> None:
        """Take new overrides, and publish the status: for `guard status`, the metrics, and `systemctl status`."""
        self._take_overrides()
        over_budget = self._restorer.turn(self.policy, self.state, self.limit)
        self._publisher.publish(
            self.limit,
            self.policy,
            self.state,
            episodes,
            over_budget=over_budget,
            memory_exceeded=self._memory_broken,
            long_chains=None if self._chain_watch.lost is None else {"lost": self._chain_watch.lost},
        )

    def _explained(self, case: Assessment) -> Assessment:
        """Return the case as it is if a trusted table explains its message, else after a scan for namespaces."""
        for table in case.concerned:
            if self.policy.trust_user_namespaces or not table.user_owned:
                return case
        began = self._p.clock.boottime()
        if began < self._explained_at:  # users cause messages as well, and in a crowd a scan takes a second
            return case
        observation = self._p.floods.mark(self._p.observer.observe(rescan=True))
        self._explained_at = rested(began, self._p.clock.boottime(), EXPLAINING_SHARE)
        return assess(case.trigger, condense(observation, None, self.policy), self.policy)

    def _record(self, trigger: Trigger, seen: Observation, decision: Decision) -> Record:
        self._keys += 1
        return Record(
            key=f"{seen.boot_id[:8]}-{int(seen.boottime_seconds * 1e6)}-{os.getpid()}-{self._keys}",
            mode=self._p.mode,
            trigger=trigger,
            observation=seen,
            state=self.state,
            decision=decision,
            outcome=Outcome(kind=OutcomeKind.NONE),
        )

    def _finish(
        self, record: Record, policy: Policy, case: Assessment, *, is_news: bool, covers: Callable[[], bool]
    ) -> Raise | Hold:
        """Take a record into the state and hand it to the recorder, after those of other writers' changes."""
        while self._changes:
            self._p.recorder.submit(self._changes.pop(0), self.policy)
        if self._p.debug is not None:
            self._p.debug.decision(record, policy)
        decision, outcome = record.decision, record.outcome
        if not is_news and isinstance(decision, Hold) and decision.reason is HoldReason.RESOLVED:
            return decision
        self.state = advance(self.state, record)
        if isinstance(decision, Raise) and decision.buckets_target is not None:
            self._buckets = self._p.kernel.buckets()
        if isinstance(decision, Raise) and outcome.limit_after is not None and not self._p.kernel.rehearsing:
            self.limit = outcome.limit_after
            self._restorer.note_raise(record, decision, self.state.rest_limit)
        self._incidents = incident.on_record(self._incidents, record)
        position = self._position() if covers() else None
        self._p.recorder.submit(record, policy, position, times=max(1, record.trigger.message_count))
        if isinstance(decision, Raise) or (isinstance(decision, Hold) and decision.reason is HoldReason.UNSAMPLED):
            self._follow_up(record, case.trusted, policy)
        if isinstance(decision, Raise) and outcome.kind is OutcomeKind.REJECTED and self.state.refusal:
            retry, truth = self.state.refusal.until_seconds, decision.corroboration
            return Hold(reason=HoldReason.WRITE_REFUSED, retry_seconds=retry, corroboration=truth)
        return decision if isinstance(decision, Raise | Hold) else Hold(reason=HoldReason.RESOLVED)

    def _position(self) -> Position | None:
        """Return the position in the log, None if that fails: the record goes without, and its messages may count again."""
        try:
            return self._p.log_sources.position()
        except Exception as error:  # noqa: BLE001 - no error may cost the record of what is done
            self._p.recorder.log("guard.error", "error", f"Position in the log not known: {describe(error)}")
            return None

    def _follow_up(self, record: Record, trusted: Sequence[Table], policy: Policy) -> None:
        """Request a sample; after a raise, count growth and drops from here on. An error costs only this."""
        limit = record.outcome.limit_after
        try:
            self._p.floods.request(trusted, policy, self._p.clock.boottime())
            if isinstance(record.decision, Raise) and limit is not None:
                tables = self._p.observer.rebase()
                if record.outcome.kind is OutcomeKind.APPLIED:
                    self._verifier.begin(record, limit, tables)
        except Exception as error:  # noqa: BLE001 - whatever it is, the decision must not be made a second time
            text = f"Neither sampled nor verified: {describe(error)}"
            self._p.recorder.log("guard.error", "error", text, key=record.key)

    # -- other writers and the operator ---------------------------------------------------------

    def _look_for_other_writers(self) -> int | None:
        """Record a change of the limit that neither the guard nor an override made; return the one in force after that."""
        limit, now = self._p.kernel.limit_in_force(), self._p.clock.boottime()
        while self._p.recorder.restarts:
            self.state = excused(self.state, self._p.recorder.restarts.popleft())
        self._verifier.note_limit(limit, now)
        if limit != self.limit:
            self._take_overrides()
        is_due = now >= self._buckets_at
        self._buckets_at = now + BUCKETS_SECONDS if is_due else self._buckets_at
        if limit != self.limit or (is_due and self._p.kernel.buckets() != self._buckets):
            self._take_change(condense(self._p.floods.mark(self._p.observer.observe()), None, self.policy))
            limit = self._p.kernel.limit_in_force()
        elif is_due:
            self._module = self._p.kernel.module()  # loaded again, and the same limit was set since: nothing to restore
        while self._changes:
            self._p.recorder.submit(self._changes.pop(0), self.policy)
        return limit

    def _take_change(self, seen: Observation) -> None:
        """Take another writer's change of limit or buckets into the state; its record is still to be submitted."""
        self._take_overrides()
        before, limit, was_buckets = self.limit, seen.kernel_limit, self._buckets
        module, self._module = self._module, self._p.kernel.module()
        self.limit, self._buckets = limit, seen.buckets
        reloaded = limit is not None and (before is None or module != self._module)
        if limit is None or (before is None and self._restorer.kept is None):
            what = (
                "no longer tracks connections"
                if limit is None
                else f"now tracks connections, with limit {format_limit(limit)}"
            )
            if limit != before:
                self._p.recorder.log("guard.info", "info", f"This kernel {what}.")
                self._restorer.note_lower_limit()
            return
        known = {None, was_buckets, self._reverted_buckets}  # a revert writes them after the limit
        resized = was_buckets is not None and seen.buckets not in known and not self._p.kernel.rehearsing
        if limit == before and not resized and not reloaded:
            return
        trigger = Trigger(
            kind=TriggerKind.OTHER_WRITER,
            was=before,
            was_buckets=was_buckets if resized and not reloaded else None,
            reloaded=reloaded,
            below_minimum=self.policy.min_limit is not None and is_lower(limit or 0, self.policy.min_limit),
        )
        self._limit_changed = self._limit_changed or limit != before
        record = self._record(trigger, seen, changed(trigger, seen))
        self.state = advance(self.state, record)
        self._changes.append(record)
        if trigger.below_minimum and changed(trigger, seen).reason in {HoldReason.LIMIT_LOWERED, HoldReason.RELOADED}:
            self._restorer.note_lower_limit()
        if reloaded:
            self._restorer.restore()  # the kernel's default hides the limit that was kept

    def _take_overrides(self) -> None:
        """Take overrides into the state, and have them recorded in case the command could not do it."""
        now = self._p.clock.boottime()
        for record in queued_overrides(self._p.runtime_dir, self._p.recorder):
            limit, buckets = record.outcome.limit_after, getattr(record.decision, "buckets_target", None)
            self._reverted_buckets = buckets or self._reverted_buckets
            if limit is not None and limit != self._p.kernel.limit_in_force():
                if 0 <= now - record.observation.boottime_seconds < OVERRIDE_SECONDS:
                    continue  # it is being carried out
                text = f"The override {record.key} was not carried out: its limit {limit:,} is not in force."
                self._p.recorder.log("guard.info", "warning", text)
            else:
                self.state = advance(self.state, record, now)
                if isinstance(record.decision, Override) and record.decision.kind is OverrideKind.RESUME:
                    self._limit_changed = True  # what waits for the end of a refusal or a conflict is due
                self._restorer.note_override(record, limit, buckets)
                self.limit = self.limit if limit is None else limit
                self._p.recorder.submit(record, self.policy)
            self._p.runtime_dir.overrides.drop(record.key)

    # -- after the write ------------------------------------------------------------------------

    def _check_memory(self) -> None:
        """Record once that the entries that exist break the budget or `min_available`, until they no longer do."""
        trigger, seen = Trigger(kind=TriggerKind.MEMORY), self._p.observer.outline()
        broken = seen is None or budget.is_broken(assess(trigger, seen, self.policy), self.policy) is not None
        if broken:  # by the upper bound of what exists: only the tables show it
            seen = self._p.observer.observe()
            broken = budget.is_broken(assess(trigger, seen, self.policy), self.policy) is not None
        if broken and not self._memory_broken:
            self.decide(trigger)
        self._memory_broken = broken

    def _check_chains(self, tables: Sequence[Table], now: float) -> None:
        """Record packets lost to long hash chains, or chains as long as that; and again while it lasts."""
        if (trigger := self._chain_watch.look(tables, now)) is not None:
            seen = condense(self._chain_watch.mark(self._p.observer.observe()), None, self.policy)
            case = assess(trigger, seen, self.policy)
            record = self._record(case.trigger, case.observation, resolve(case, self.state, self.policy))
            self._finish(record, self.policy, case, is_news=False, covers=lambda: False)

    def _end_incidents(self, tables: Sequence[Table], episodes: Episodes, limit: int, now: float) -> None:
        """Log the end of each incident that mattered, once its table has had no need for a while."""
        self._incidents = incident.on_tables(self._incidents, tables)
        for namespace, over in self._incidents.items() if None not in episodes else ():
            if namespace not in episodes:
                self._incidents = {name: known for name, known in self._incidents.items() if name != namespace}
                if over.matters:
                    text = incident.sentence(over, limit, now, dry_run=self._p.kernel.rehearsing)
                    self._p.recorder.log("guard.incident_over", "info", text, namespace=namespace, dropped=over.dropped)


def _without_buckets(trigger: Trigger) -> Trigger:
    """Return the trigger of a start without the buckets that were persisted."""
    return replace(trigger, persisted=trigger.persisted and replace(trigger.persisted, buckets=None))
