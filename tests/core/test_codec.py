"""The codec loses nothing, and reads what older and newer guards wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conntrackd_guard.core.codec import decode, decode_decision, encode, hold_reason
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Hold,
    Observation,
    Outcome,
    OutcomeKind,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.records import fingerprint, reason

st.register_type_strategy(float, st.floats(allow_nan=False))  # NaN equals nothing, not even itself


def a_hold(**observed: Any) -> Record:
    """Return a hold at `max_limit`, with these fields of its observation."""
    plain = {"boottime_seconds": 1.0, "wall_seconds": 2.0, "boot_id": "b", "limit": 10, "kernel_limit": 10}
    return Record(
        key="k",
        mode=Mode.ACT,
        trigger=Trigger(kind=TriggerKind.FILLING_UP, namespace=7),
        observation=Observation(**{**plain, **observed}),
        state=State(),
        decision=Hold(reason=HoldReason.AT_CEILING),
        outcome=Outcome(kind=OutcomeKind.NONE),
    )


@given(st.from_type(Record))
def test_a_record_survives_json(record: Record) -> None:
    """Any record, written as JSON text and read back, is the same record."""
    assert decode(Record, json.loads(json.dumps(encode(record)))) == record


@given(st.from_type(Policy))
def test_a_policy_survives_json(policy: Policy) -> None:
    """Any policy, written as JSON text and read back, is the same policy."""
    assert decode(Policy, json.loads(json.dumps(encode(policy)))) == policy


def test_every_hold_reason_has_a_code_of_its_own() -> None:
    """Else a history would be read as another one than was written."""
    assert [hold_reason(reason.code) for reason in HoldReason] == list(HoldReason)
    assert len({reason.code for reason in HoldReason}) == len(HoldReason)


def test_fields_of_a_newer_guard_are_left_out() -> None:
    """A row written by a newer guard, with fields this one doesn't know, is still readable."""
    data = encode(a_hold())
    data["observation"]["weather"] = "fine"
    assert decode(Record, data) == a_hold()


def test_fields_an_older_guard_lacked_take_their_default() -> None:
    """A row written before a field existed reads as if the field had its default."""
    data = encode(a_hold())
    del data["observation"]["tables"], data["observation"]["complete"], data["decision"]["advice"]
    assert decode(Record, data) == a_hold()


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        (Table, {"namespace": 1, "label": "x"}, "Table lacks count"),
        (Table, {"namespace": True, "label": "x", "count": 1}, "expected int, found True"),
        (Table, {"namespace": 1, "label": None, "count": 1}, "expected str, found None"),
        (Mode, "pretend", "'pretend' is not a valid Mode"),
        (State, [], "expected State, found"),
    ],
)
def test_an_error_names_what_does_not_fit(kind: type[Any], data: object, says: str) -> None:
    """A damaged row is refused by name, never read as something else."""
    with pytest.raises(ValueError, match=says):
        decode(kind, data)


@pytest.mark.parametrize("data", [{"verdict": "shrug"}, {}, {"verdict": "hold", "reason": "mood"}])
def test_an_unknown_decision_is_refused(data: object) -> None:
    """A decision whose verdict or reason is unknown is no decision."""
    with pytest.raises(ValueError, match="unknown"):
        decode_decision(data)


def test_figures_are_no_part_of_the_fingerprint() -> None:
    """Count and time may differ; namespace, trigger, verdict, reason and limit may not."""
    busy = a_hold(wall_seconds=99.0, tables=(Table(namespace=7, label="x", count=9),))
    assert fingerprint(busy) == fingerprint(a_hold(tables=(Table(namespace=7, label="y", count=8),)))
    assert fingerprint(a_hold(limit=11)) != fingerprint(a_hold())
    assert reason(busy) == "at_ceiling"
