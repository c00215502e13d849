"""A history gives back the state of the guard that wrote it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st
from testbed.records import BOOT, RAISE, a_record, add

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Corroboration,
    Hold,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Raise,
    Record,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.state import fold
from conntrackd_guard.history.database import History

LIMITS = st.sampled_from([0, 4096, 65536, 98304, 131072, 2**32 - 1])
"""Few, so that a program puts back what the guard had set."""
BY_OTHERS = [
    HoldReason.LIMIT_LOWERED, HoldReason.LIMIT_RAISED, HoldReason.BUCKETS_CHANGED, HoldReason.SET_ELSEWHERE,
    HoldReason.RELOADED,
]  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> tuple[Hold, Outcome, Trigger]:
    """Draw what another program did."""
    trigger = Trigger(
        kind=TriggerKind.OTHER_WRITER,
        was=draw(st.none() | LIMITS),
        restarted=draw(st.booleans()),
        below_minimum=draw(st.booleans()),
    )
    return Hold(reason=draw(st.sampled_from(BY_OTHERS))), Outcome(kind=OutcomeKind.NONE), trigger


@st.composite
def raises(draw: st.DrawFn) -> tuple[Raise, Outcome, Trigger]:
    """Draw a raise with any outcome."""
    decision = replace(RAISE, corroboration=draw(st.sampled_from(Corroboration)))
    errno = draw(st.sampled_from([22, 30]))
    outcome = Outcome(kind=draw(st.sampled_from(OutcomeKind)), limit_after=draw(LIMITS), errno=errno)
    return decision, outcome, Trigger(kind=draw(st.sampled_from([TriggerKind.START, TriggerKind.KERNEL_MESSAGE])))


@st.composite
def overrides(draw: st.DrawFn) -> tuple[Override, Outcome, Trigger]:
    """Draw an override that was carried out or failed."""
    outcome = Outcome(kind=draw(st.sampled_from([OutcomeKind.APPLIED, OutcomeKind.REJECTED])))
    return Override(kind=draw(st.sampled_from(OverrideKind))), outcome, Trigger(kind=TriggerKind.OVERRIDE)


@st.composite
def boots(draw: st.DrawFn) -> list[Record]:
    """Draw what happened in a boot, oldest first."""
    seconds, records = 10.0, []
    for number in range(draw(st.integers(1, 30))):
        seconds += draw(st.sampled_from([0.5, 5.0, 20.0]))
        decision, outcome, trigger = draw(changes() | changes() | raises() | overrides())
        plain = a_record(str(number), decision, boottime_seconds=seconds, limit=draw(LIMITS))
        records.append(replace(plain, trigger=trigger, outcome=outcome))
    return records


@given(boots(), st.sampled_from([100.0, 1e9]))
def test_the_state_after_all_rows_is_that_after_all_records(records: list[Record], now: float) -> None:
    """Whatever the guard, other programs and operators did: no start forgets any of it."""
    with TemporaryDirectory() as folder, History(Path(folder) / "history.db", mode="writer") as history:
        for record in records:
            add(history, record)
        assert fold(history.records(BOOT), now) == fold(records, now)
