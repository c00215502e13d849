"""Decide and advance, driven against themselves: a guard that is killed at any step and one that runs on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conntrackd_guard.core import tuning
from conntrackd_guard.core.codec import decode, encode
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.model import (
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
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.state import advance

GIB = 1 << 30
WEB = 4026532316
POLICY = Policy(conflict_limit=2)
LINE = Trigger(kind=TriggerKind.KERNEL_MESSAGE, message_kind=MessageKind.TABLE_FULL, namespace=WEB, message_count=1)
PRESSURE = Trigger(kind=TriggerKind.FILLING_UP, namespace=WEB)


@dataclass
class World:
    """One host and its guard: the kernel's limit, what the guard remembers, and the history on its disk."""

    limit: int = 65_536
    state: State = field(default_factory=State)
    history: list[str] = field(default_factory=list)

    def observe(self, now: float, count: int, demand: float | None, dropped: int) -> Observation:
        """Return what the guard sees; a table never holds more than the limit lets in."""
        table = Table(
            namespace=WEB,
            label="web",
            count=min(count, self.limit),
            dropped=dropped,
            demand_per_second=demand,
        )
        return Observation(
            boottime_seconds=now,
            wall_seconds=now,
            boot_id="b",
            limit=self.limit,
            kernel_limit=self.limit,
            tables=(table,),
            buckets=262_144,
            entry_slab_bytes=256,
            memory_total_bytes=24 * GIB,
            memory_available_bytes=20 * GIB,
        )

    def ask(self, trigger: Trigger, seen: Observation, refused: int | None = None) -> None:
        """Decide, write (unless the kernel refuses), remember and record, as the daemon does."""
        decision = decide(trigger, seen, self.state, POLICY)
        outcome = Outcome(kind=OutcomeKind.NONE)
        if isinstance(decision, Raise) and refused is not None:
            outcome = Outcome(kind=OutcomeKind.REJECTED, errno=refused)
        elif isinstance(decision, Raise):
            self.limit = decision.target
            outcome = Outcome(kind=OutcomeKind.APPLIED, limit_after=decision.target)
        self.take(trigger, seen, decision, outcome)

    def take(self, trigger: Trigger, seen: Observation, decision: Raise | Hold | Override, outcome: Outcome) -> None:
        """Remember a record, and write it to the history."""
        record = Record(
            key=str(len(self.history)),
            mode=Mode.ACT,
            trigger=trigger,
            observation=seen,
            state=self.state,
            decision=decision,
            outcome=outcome,
        )
        self.state = advance(self.state, record)
        self.history.append(json.dumps(encode(record)))

    def folded(self) -> State:
        """Return the state that a start makes of this boot's history: plain holds are left out of it, as on disk."""
        records = [decode(Record, json.loads(text)) for text in self.history]
        kept = [r for r in records if not isinstance(r.decision, Hold) or r.trigger.kind is TriggerKind.OTHER_WRITER]
        return reduce(advance, kept, State())


class KilledAndContinuous(RuleBasedStateMachine):
    """Two hosts that see the same: on one the guard runs on, on the other it is killed now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(tuning, "MAX_RAISES", 4)
        self.patch.setattr(tuning, "MAX_RAISES_WINDOW_SECONDS", 60.0)
        self.patch.setattr(tuning, "CONFLICT_WINDOW_SECONDS", 600.0)
        self.now = 1_000.0
        self.count = self.dropped = 0
        self.demand: float | None = None
        self.continuous, self.killed = World(), World()
        self.raises: list[float] = []

    def teardown(self) -> None:
        """Restore the constants."""
        self.patch.undo()

    def both(self, trigger: Trigger, refused: int | None = None) -> None:
        """Have both guards decide on what their hosts show."""
        for world in (self.continuous, self.killed):
            before = world.limit
            seen = world.observe(self.now, self.count, self.demand, self.dropped)
            world.ask(replace(trigger, message_seconds=self.now), seen, refused)
            if world is self.killed and world.limit > before:
                self.raises.append(self.now)

    @initialize(count=st.integers(0, 65_536))
    def begin(self, count: int) -> None:
        """Begin with any table."""
        self.count = count

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.25, 1.0, 2.0, 30.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(count=st.integers(0, 5_000_000), demand=st.none() | st.floats(0, 200_000), dropped=st.sampled_from([0, 0, 7]))
    def the_table_changes(self, count: int, demand: float | None, dropped: int) -> None:
        """Flows come and go."""
        self.count, self.demand, self.dropped = count, demand, dropped

    @rule()
    def the_table_fills_up(self) -> None:
        """More flows come than any limit lets in."""
        self.count = 2**31

    @rule(trigger=st.sampled_from([LINE, PRESSURE]), refused=st.sampled_from([None, None, None, 13, 30]))
    def decide(self, trigger: Trigger, refused: int | None) -> None:
        """A message or the watch asks; the kernel may refuse the write."""
        self.both(trigger, refused)

    @rule(share=st.sampled_from([0.5, 0.9, 1.5]))
    def another_writes(self, share: float) -> None:
        """Another writer changes the limit on both hosts; the guards notice at their next tick."""
        for world in (self.continuous, self.killed):
            was, world.limit = world.limit, max(1_000, int(world.limit * share))
            seen = world.observe(self.now, self.count, self.demand, self.dropped)
            world.ask(Trigger(kind=TriggerKind.OTHER_WRITER, was=was), seen)

    @rule(kind=st.sampled_from([OverrideKind.RESUME, OverrideKind.PAUSE, OverrideKind.REVERT]))
    def an_operator_overrides(self, kind: OverrideKind) -> None:
        """An override is taken into the state of both."""
        outcome = Outcome(kind=OutcomeKind.APPLIED if kind is OverrideKind.REVERT else OutcomeKind.NONE)
        for world in (self.continuous, self.killed):
            seen = world.observe(self.now, self.count, self.demand, self.dropped)
            world.take(Trigger(kind=TriggerKind.OVERRIDE), seen, Override(kind=kind), outcome)

    @precondition(lambda self: self.killed.history)
    @rule()
    def kill(self) -> None:
        """The guard is killed after its last record, and starts again from what the disk holds."""
        self.killed.state = self.killed.folded()

    @invariant()
    def folded_is_continuous(self) -> None:
        """What a start would remember is what the running guard remembers."""
        assert self.killed.folded() == self.killed.state == self.continuous.state

    @invariant()
    def kills_reach_no_further(self) -> None:
        """The limit of the killed guard is never above that of the one that ran on."""
        assert self.killed.limit <= self.continuous.limit

    @invariant()
    def pace_is_kept(self) -> None:
        """However often it is killed, two raises are 200 ms apart at least."""
        assert all(later - earlier >= 0.2 - 1e-9 for earlier, later in pairwise(self.raises))


TestKilledAndContinuous: Any = KilledAndContinuous.TestCase
TestKilledAndContinuous.settings = settings(max_examples=settings().max_examples * 6 // 10, stateful_step_count=40)
