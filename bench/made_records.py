"""Records like those of a guard, for a long history."""

from __future__ import annotations

from pathlib import Path

from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.model import (
    MessageKind,
    Observation,
    Outcome,
    OutcomeKind,
    Raise,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide

_MESSAGE = "nf_conntrack: nf_conntrack: table full in netns 4026532316, dropping packet"
_NAMESPACE = 4026532316
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def record(index: int, wall_seconds: float) -> Record:
    """Return a decision about a full table at that wall time; every third one lacks the memory and holds."""
    limit = 65_536 + index
    observation = Observation(
        boottime_seconds=index * 60.0,
        wall_seconds=wall_seconds,
        boot_id=_BOOT_ID,
        limit=limit,
        kernel_limit=limit,
        tables=(Table(namespace=_NAMESPACE, label="made for the bench", count=limit, drop=index + 1, dropped=1),),
        buckets=262_144,
        entry_slab_bytes=256,
        memory_total_bytes=24 * 2**30,
        memory_available_bytes=2**20 if index % 3 == 0 else 20 * 2**30,
    )
    trigger = Trigger(
        kind=TriggerKind.KERNEL_MESSAGE,
        message_kind=MessageKind.TABLE_FULL,
        namespace=_NAMESPACE,
        message=_MESSAGE,
        message_count=1,
    )
    state = State()
    decision = decide(trigger, observation, state, Policy())
    return Record(
        key=f"bench-{index}",
        mode=Mode.ACT,
        trigger=trigger,
        observation=observation,
        state=state,
        decision=decision,
        outcome=(
            Outcome(kind=OutcomeKind.APPLIED, limit_after=decision.target)
            if isinstance(decision, Raise)
            else Outcome(kind=OutcomeKind.NONE)
        ),
    )
