"""The sentence says why, with the figures, and can't harm who reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from testbed.records import RAISE, SUM, a_record, raised

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Bound,
    Corroboration,
    Decision,
    Hold,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Pause,
    Record,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.records import table_name
from conntrackd_guard.core.text import printable


def held(reason: HoldReason, bound: Bound = Bound.TARGET) -> Hold:
    """Return a hold with the sum."""
    return Hold(reason=reason, arithmetic=replace(SUM, bound=bound, target=70000), advice=("Do this.",))


def broken(**terms: Any) -> Record:
    """Return the record of a budget or a reserve that is broken by what is held."""
    return a_record("a", Hold(reason=HoldReason.RESERVE_BROKEN, arithmetic=replace(SUM, **terms)))


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (
            raised("a", tables=(Table(namespace=4026532316, label="web", count=65536, dropped=1204),)),
            "Raised 65,536 → 98,304: the table of web (netns 4026532316) was full (65,536 of 65,536, 1,204 dropped); ",
        ),
        (
            raised("a"),
            "; the worst case costs 53.8 MiB of a 2.3 GiB budget and leaves 19.5 GiB available.",
        ),
        (a_record("a", RAISE, OutcomeKind.REHEARSED), "Would raise 65,536 → 98,304 (dry run): the table of web"),
        (
            replace(raised("a"), outcome=Outcome(kind=OutcomeKind.REJECTED, errno=13, detail="Permission denied")),
            "Could not raise 65,536 → 98,304 (Permission denied): ",
        ),
        (
            a_record("a", replace(RAISE, corroboration=Corroboration.UNKNOWN), OutcomeKind.APPLIED),
            "the kernel reports a full table in netns 4026532316, which could not be checked; ",
        ),
        (
            a_record("a", held(HoldReason.OVER_BUDGET, Bound.BUDGET)),
            "holds 65,536 of 65,536 (100 %). Wanted 98,304; the budget of 2.3 GiB allows 70,000. Do this.",
        ),
        (
            a_record("a", held(HoldReason.RESERVE, Bound.MIN_AVAILABLE)),
            "a reserve of 1.1 GiB (19.6 GiB is available) allows",
        ),
        (
            broken(cost_bytes=3_000_000_000),
            "Held at 65,536: The tables hold more memory than the budget: 65,536 entries take 2.8 GiB of 2.3 GiB.",
        ),
        (
            broken(memory_available_bytes=900_000_000),
            "Less memory is available than the reserve, 858.3 MiB of 1.1 GiB; the tables' 65,536 entries take 53.8 MiB of a",
        ),
        (
            broken(cost_bytes=3_000_000_000, memory_available_bytes=900_000_000),
            "entries take 2.8 GiB of 2.3 GiB. Less memory is available than the reserve, 858.3 MiB of 1.1 GiB.",
        ),
        (
            a_record("a", Hold(reason=HoldReason.PAUSED), pause=Pause(by="guard pause", reason="load test")),
            "Raising is paused. By guard pause: load test.",
        ),
        (
            replace(
                a_record("a", Hold(reason=HoldReason.LIMIT_LOWERED)),
                trigger=Trigger(kind=TriggerKind.OTHER_WRITER, was=262144),
            ),
            "Held at 65,536: Another program lowered the limit: 262,144 → 65,536.",
        ),
        (
            a_record(
                "a",
                Override(kind=OverrideKind.REVERT, target=4096, uid=0, login_uid=1000, reason="test"),
                OutcomeKind.APPLIED,
            ),
            "Reverted 65,536 → 4,096 by uid 0 (logged in as uid 1000): test.",
        ),
        (
            a_record("a", Override(kind=OverrideKind.PAUSE, until_seconds=3650.0, reason="rollout")),
            "Raising paused for 1h: rollout.",
        ),
    ],
)
def test_the_sentence_tells_why(record: Record, says: str) -> None:
    """Someone woken at night reads what happened, with figures and the next step, in one line."""
    assert says in sentence(record, Policy())


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(st.from_type(Record))
def test_every_record_has_one_printable_line(record: Record) -> None:
    """Whatever was decided and whatever strangers wrote, the sentence is one line that no terminal acts on."""
    assert sentence(record, Policy()).isprintable()


@pytest.mark.parametrize("decision", [Hold(reason=reason) for reason in HoldReason])
def test_every_hold_tells_its_reason(decision: Hold) -> None:
    """No hold is left without its reason's own words."""
    record: Record = a_record("a", decision)
    assert decision.reason.sentence in sentence(record, Policy())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web", "web"),
        ("größe →", "größe →"),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202eevil", "\\u202eevil"),
        ("\udcff", "\\udcff"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_what_a_terminal_would_act_on_is_shown(text: str, shown: str) -> None:
    """Escapes, line breaks, C1 controls and bidi overrides become visible, letters of any script stay."""
    assert printable(text) == shown


ROOTLESS = Table(namespace=4026532316, label="rootless", count=65536, user_owned=True)
"""The table that the line names: any user may have made and filled it."""


@pytest.mark.parametrize(
    ("decision", "others", "says"),
    [
        (
            replace(RAISE, arithmetic=replace(SUM, full_tables=2)),
            (60000,),
            "the table of web (netns 7) was filling up (60,0",
        ),
        (
            replace(RAISE, arithmetic=replace(SUM, full_tables=2)),
            (),
            "the table of rootless (netns 4026532316) was full",
        ),
        (RAISE, (100,), "the table of rootless (netns 4026532316) was full"),  # with trust_user_namespaces
        (
            Hold(reason=HoldReason.UNTRUSTED_NAMESPACE),
            (70000,),
            "The table of rootless (netns 4026532316) holds 65,536",
        ),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_the_table_told_is_the_one_raised_for(
    decision: Decision, others: tuple[int, ...], says: str, *, named: bool
) -> None:
    """Where a trusted table needs the raise too, it is told, and not the one that nobody would raise for."""
    tables = (ROOTLESS, *(Table(namespace=7, label="web", count=count) for count in others))
    record = a_record("a", decision, OutcomeKind.APPLIED, tables=tables)
    if not named:
        record = replace(record, trigger=replace(record.trigger, namespace=None))
    assert says in sentence(record, Policy())


def test_a_hostile_name_does_not_reach_the_screen() -> None:
    """A namespace named by someone else can't clear the reader's screen."""
    decision: Decision = RAISE
    hostile = Table(namespace=4026532316, label="\x1b]0;x\x07", count=65536)
    assert "\\x1b]0;x\\x07 (netns" in sentence(
        a_record("a", decision, OutcomeKind.APPLIED, tables=(hostile,)), Policy()
    )


def test_a_namespace_whose_name_is_a_path_of_4_kb_leaves_room_for_the_why() -> None:
    """Its name is cut where a table is named; the number tells which it is."""
    named = table_name(Table(namespace=7, label="\x1b" + "x" * 4096, count=1))
    assert named.startswith(r"\x1bxxx")
    assert named.endswith("x… (netns 7)")
    assert len(named) < 80
