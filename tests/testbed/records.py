"""Records for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from conntrackd_guard.core.arithmetic import Arithmetic, Bound
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Corroboration,
    Decision,
    Hold,
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
from conntrackd_guard.history.database import History, Position

BOOT = "boot-1"
SUM = Arithmetic(
    current=65536, wanted=98304, target=98304, bound=Bound.TARGET, in_use=65536, largest_count=65536,
    demand_per_second=100.0, bytes_per_entry=563, bytes_source="slab", buckets=65536, buckets_target=None,
    bucket_bytes=1048576, new_bucket_bytes=0, full_tables=1, other_entries=0, charged_entries=98304,
    held_entries=65536, cost_bytes=56393728, new_bytes=18448384, budget_bytes=2500000000, min_available_bytes=1200000000,
    memory_total_bytes=25000000000, memory_hugetlb_bytes=0, memory_available_bytes=21000000000, max_limit=None,
    chain=3.0,
)  # fmt: skip
RAISE = Raise(target=98304, arithmetic=SUM, corroboration=Corroboration.CONFIRMED)
MAX_LIMIT = Hold(reason=HoldReason.AT_CEILING, arithmetic=SUM)


def a_record(
    key: str,
    decision: Decision = MAX_LIMIT,
    outcome: OutcomeKind = OutcomeKind.NONE,
    trigger: TriggerKind = TriggerKind.KERNEL_MESSAGE,
    **observed: Any,
) -> Record:
    """Return a record of `decision` with these fields of its observation."""
    plain = {"boottime_seconds": 50.0, "wall_seconds": 1000.0, "boot_id": BOOT, "limit": 65536, "kernel_limit": 65536}
    tables = (Table(namespace=4026532316, label="web", count=65536, drop=3),)
    return Record(
        key=key,
        mode=Mode.ACT,
        trigger=Trigger(kind=trigger, namespace=4026532316, message="table full", message_count=2),
        observation=Observation(**{**plain, "tables": tables, **observed}),
        state=State(raise_seconds=(1.5,)),
        decision=decision,
        outcome=Outcome(kind=outcome),
    )


def raised(key: str, *, limit_after: int | None = None, decision: Decision = RAISE, **observed: Any) -> Record:
    """Return a raise that was applied."""
    record = a_record(key, decision, OutcomeKind.APPLIED, **observed)
    return replace(record, outcome=replace(record.outcome, limit_after=limit_after))


def add(history: History, record: Record, position: Position | None = None) -> int:
    """Write a record with a default policy."""
    return history.add(record, policy=Policy(), sentence="why", kernel_release="6.1", position=position)
