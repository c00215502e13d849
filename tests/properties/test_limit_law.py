"""The law of every write: the limit never becomes smaller, as the kernel reads it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from testbed.records import RAISE, a_record
from testbed.strategies import observations, policies, states, triggers

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.limits import MODULUS, is_lower, is_unlimited
from conntrackd_guard.core.model import (
    INT_MAX,
    Hold,
    Observation,
    PersistedLimit,
    Raise,
    Record,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.state import advance
from conntrackd_guard.daemon.applier import Applier
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

MANY = settings(max_examples=3 * settings().max_examples)
EDGES = st.sampled_from([0, 1, 2, 65_536, INT_MAX, INT_MAX + 1, MODULUS - 5, MODULUS - 1])
LIMITS = EDGES | st.integers(0, 2_000_000) | st.integers(0, MODULUS - 1)
"""As `Sysctl.read` returns them."""


@dataclass
class Kernel:
    """A kernel whose limit others change between any two reads; `lowered` has the writes that break the law."""

    shown: list[int]
    rehearsing: bool = False
    in_force: int = 0
    lowered: list[tuple[int, int]] = field(default_factory=list)

    def limit(self) -> int:
        """Return the next limit."""
        self.in_force = self.shown.pop(0) if self.shown else self.in_force
        return self.in_force

    limit_in_force = limit

    def set_limit(self, target: int) -> int:
        """Take any value, as old kernels do."""
        if is_lower(target, self.in_force):
            self.lowered.append((self.in_force, target))
        self.in_force = target
        return target

    def buckets(self) -> int:
        """Return a number of buckets."""
        return 65_536

    def set_buckets(self, target: int) -> int:
        """Resize."""
        return target


@MANY
@given(seen=LIMITS, before=LIMITS, is_same=st.booleans(), target=st.integers(1, INT_MAX))
def test_the_applier_lowers_nothing(seen: int, before: int, target: int, *, is_same: bool) -> None:
    """Whatever was observed and decided: the limit just before the write never becomes smaller."""
    planned = a_record("1", replace(RAISE, target=target), limit=seen, kernel_limit=seen)
    kernel = Kernel([seen if is_same else before])
    with TemporaryDirectory() as folder:
        (Path(folder) / "run").mkdir()
        runtime_dir = RuntimeDir(Paths(Path(folder)))
        runtime_dir.prepare()
        answer = Applier(kernel, runtime_dir).apply(planned, planned.decision)  # type: ignore[arg-type]
    event(type(answer).__name__)
    assert kernel.lowered == []


starts = st.builds(
    Trigger,
    kind=st.just(TriggerKind.START),
    persisted=st.builds(PersistedLimit, limit=EDGES | st.integers(1, INT_MAX)),
)


@MANY
@given(triggers | starts | st.just(Trigger(kind=TriggerKind.MINIMUM)), observations(), LIMITS, states, policies)
def test_no_decision_lowers_the_limit(
    trigger: Trigger, seen: Observation, limit: int, state: State, policy: Policy
) -> None:
    """Nothing is raised from an unlimited table, neither for need nor for the limit that was persisted."""
    seen = replace(seen, limit=limit, kernel_limit=limit)
    decision = decide(trigger, seen, state, policy)
    if is_unlimited(limit):
        assert isinstance(decision, Hold)
    if isinstance(decision, Raise):
        assert is_lower(limit, decision.target)


@MANY
@given(was=LIMITS, limit=LIMITS, is_ours=st.booleans())
def test_only_a_smaller_limit_is_a_lowering(was: int, limit: int, *, is_ours: bool) -> None:
    """Another writer's change counts as a conflict if fewer entries fit than the guard's own limit allows."""
    assume(limit != was)
    ours = was if is_ours and not is_unlimited(was) else None
    seen = replace(a_record("1").observation, limit=limit, kernel_limit=limit)
    trigger, state = Trigger(kind=TriggerKind.OTHER_WRITER, was=was), State(set_limit=ours)
    decision = decide(trigger, seen, state, Policy())
    assert isinstance(decision, Hold)
    assert (decision.reason is HoldReason.LIMIT_LOWERED) == is_lower(limit, was)
    after = advance(state, _recorded(trigger, seen, state, decision))
    assert after.set_limit is None
    assert bool(after.conflict_seconds) == (ours is not None and is_lower(limit, ours))


def _recorded(trigger: Trigger, seen: Observation, state: State, decision: Hold) -> Record:
    return replace(a_record("1"), trigger=trigger, observation=seen, state=state, decision=decision)
