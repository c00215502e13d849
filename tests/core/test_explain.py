"""The sentence of a record: why, with the figures, on one line that is safe to print."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testbed.records import RAISE, SUM, a_record, raised

from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Corroboration,
    Decision,
    Hold,
    MessageKind,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Pause,
    PersistedLimit,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.records import table_name
from conntrackd_guard.core.text import printable

FILLING = Table(namespace=4026532316, label="web", count=60_000)


def past(**trigger: Any) -> Record:
    """Return the record of messages from before the start, on a host whose table is not full."""
    record = a_record("a", Hold(reason=HoldReason.HISTORICAL), tables=(replace(FILLING, count=10),))
    full = Trigger(kind=TriggerKind.KERNEL_MESSAGE, message_kind=MessageKind.TABLE_FULL, live=False, **trigger)
    return replace(record, trigger=full)


def held(reason: HoldReason, bound: Bound = Bound.TARGET, **changed: Any) -> Hold:
    """Return a hold with an arithmetic, changed in these fields."""
    return Hold(reason=reason, arithmetic=replace(SUM, bound=bound, target=70000, **changed), advice=("Do this.",))


def lowered(detail: str, earlier: int = 2) -> Record:
    """Return the record of a lowering below the guard's own limit, after `earlier` ones."""
    record = a_record("a", Hold(reason=HoldReason.LIMIT_LOWERED), trigger=TriggerKind.OTHER_WRITER)
    return replace(
        record,
        trigger=Trigger(kind=TriggerKind.OTHER_WRITER, was=262144),
        outcome=Outcome(kind=OutcomeKind.NONE, detail=detail),
        state=State(set_limit=262144, conflict_seconds=(40.0,) * earlier),
    )


def broken(**terms: Any) -> Record:
    """Return the record of a budget, or of `min_available`, that the tables exceed."""
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
            "; when full, the tables take 53.8 MiB of a memory budget of 2.3 GiB and leave 19.5 GiB available.",
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
            (
                "holds 65,536 of 65,536 entries (100 %). The kernel is dropping new connections. "
                "Wanted 98,304; the budget of 2.3 GiB allows 70,000. Do this."
            ),
        ),
        (
            a_record("a", held(HoldReason.AT_CEILING, Bound.MAX_LIMIT), tables=(FILLING,)),
            (
                "holds 60,000 of 65,536 entries (92 %). The kernel will drop new connections once it is full. "
                "Wanted 98,304; `max_limit` allows 70,000. Do this."
            ),
        ),
        (
            a_record("a", held(HoldReason.CONFLICT), tables=(replace(FILLING, dropped=7),)),
            (
                "Not raised (limit 65,536): another program keeps lowering the limit. The table of web (netns 4026532316) "
                "holds 60,000 of 65,536 entries (92 %), 7 dropped. The kernel is dropping new connections."
            ),
        ),
        (
            raised(
                "a",
                decision=replace(RAISE, target=70_000, arithmetic=replace(SUM, target=70_000, bound=Bound.MAX_LIMIT)),
            ),
            "available. Only part of the step fits. Wanted 98,304; `max_limit` allows 70,000.",
        ),
        (
            a_record("a", held(HoldReason.RESERVE, Bound.MIN_AVAILABLE)),
            "`min_available` of 1.1 GiB (19.6 GiB is available) allows",
        ),
        (
            a_record("a", held(HoldReason.RESERVE, Bound.MIN_AVAILABLE, memory_zfs_bytes=7 << 30)),
            "`min_available` of 1.1 GiB (19.6 GiB with 7 GiB of ZFS' cache is available) allows",
        ),
        (
            a_record("a", held(HoldReason.RESERVE, Bound.MIN_AVAILABLE, memory_is_low=True)),
            "`min_available` of 1.1 GiB (19.6 GiB of low memory is available) allows",
        ),
        (
            broken(cost_bytes=3_000_000_000),
            "The tables exceed the memory budget: 65,536 entries take 2.8 GiB of 2.3 GiB.",
        ),
        (
            broken(memory_available_bytes=900_000_000),
            "Too little memory is available: 858.3 MiB, less than `min_available` (1.1 GiB). The tables' 65,536 entries take",
        ),
        (
            broken(cost_bytes=3_000_000_000, memory_available_bytes=900_000_000),
            "entries take 2.8 GiB of 2.3 GiB. Too little memory is available: 858.3 MiB, less than `min_available` (1.1 GiB).",
        ),
        (
            a_record("a", Hold(reason=HoldReason.PAUSED), pause=Pause(by="guard pause", reason="load test")),
            'raising is paused by `guard pause` ("load test"). End it: `guard resume`. The table of web',
        ),
        (
            replace(
                a_record("a", Hold(reason=HoldReason.LIMIT_LOWERED)),
                trigger=Trigger(kind=TriggerKind.OTHER_WRITER, was=262144),
            ),
            "Something else set nf_conntrack_max from 262,144 to 65,536 (not known what).",
        ),
        (
            lowered("by /etc/x.conf:3 holds this value"),
            "(probable cause: /etc/x.conf:3 holds this value). 3 of 3 in 24 h: the guard",
        ),
        (lowered("by unknown", earlier=1), "(not known what). 2 of 3 in 24 h: at 3 the guard stops raising."),
        (
            a_record("a", Hold(reason=HoldReason.COOLDOWN, retry_seconds=52.0)),
            "Waiting up to 2 s after the last raise before the next.",
        ),
        (
            a_record("a", Hold(reason=HoldReason.UNSAMPLED, retry_seconds=75.0)),
            (
                "Not raised (limit 65,536): no sample distinguishes a flood from real load yet. "
                "The one raise allowed without a sample is used. Next try in 25 s."
            ),
        ),
        (
            a_record("a", Hold(reason=HoldReason.RESOLVED)),
            "Web (netns 4026532316): the condition is over (65,536 of 65,536). Nothing to do.",
        ),
        (
            replace(
                a_record("a", Hold(reason=HoldReason.HISTORICAL)),
                trigger=Trigger(kind=TriggerKind.KERNEL_MESSAGE, message_kind=MessageKind.TABLE_FULL, message_count=2),
            ),
            (
                'Found 2 "table full" messages from before this start. '
                "Not acted on; a full table is decided about by itself."
            ),
        ),
        (
            past(
                message_count=820,
                message_wall_seconds=1_796_308_049.9,
                namespaces=((78, 791), (7, 9)),
                more_namespaces=3,
            ),
            (
                'Found 820 "table full" messages from before this start, the last at 2026-12-03 14:27:29 UTC, in netns 78 '
                "(791) and 4 others. Not acted on; no table is full now."
            ),
        ),
        (
            past(message_count=1, namespaces=((78, 1),)),
            'Found 1 "table full" message from before this start, in netns 78. Not acted on; no table is full now.',
        ),
        (
            replace(
                a_record("a", Hold(reason=HoldReason.SET_ELSEWHERE)),
                trigger=Trigger(kind=TriggerKind.START, persisted=PersistedLimit(limit=300_000)),
            ),
            "The limit (65,536) is lower than the 300,000 saved for this boot and isn't the kernel's default. Someone set it",
        ),
        (
            a_record("a", Hold(reason=HoldReason.PAUSED), pause=Pause(by="/etc/x/pause", reason="the file exists")),
            "raising is paused: /etc/x/pause exists. Remove it to resume.",
        ),
        (
            raised("a", tables=(Table(namespace=4026532316, label="web", count=20_003, dropped=3),)),
            "the table of web (netns 4026532316) had been full (20,003 of 65,536, 3 dropped); ",
        ),
        (
            a_record(
                "a",
                Override(kind=OverrideKind.REVERT, target=4096, uid=0, login_uid=1000, reason="test"),
                OutcomeKind.APPLIED,
            ),
            "uid 0 (logged in as uid 1000) reverted the limit from 65,536 to 4,096: test.",
        ),
        (
            a_record("a", Override(kind=OverrideKind.PAUSE, until_seconds=3650.0, reason="rollout")),
            "An operator paused raising for 1h: rollout.",
        ),
        (
            a_record("a", Override(kind=OverrideKind.PAUSE, uid=0, user="root", login_uid=1000, login="alice")),
            "root (logged in as alice) paused raising until `guard resume`.",
        ),
        (
            a_record("a", Override(kind=OverrideKind.RESUME, uid=1000, user="alice", login_uid=1000, login="alice")),
            "alice resumed raising.",
        ),
        (
            lowered("the acting guard (process 7)"),
            "The acting guard (process 7) set nf_conntrack_max from 262,144 to 65,536. 3 of 3",
        ),
    ],
)
def test_a_sentence_has_reason_figures_and_next_step(record: Record, says: str) -> None:
    """An operator woken at night reads what happened in one line."""
    assert says in sentence(record, Policy())


@given(st.from_type(Record))
def test_every_record_has_one_printable_line(record: Record) -> None:
    """Whatever the decision and whatever strangers wrote: one line without control characters."""
    assert sentence(record, Policy()).isprintable()


def test_the_table_that_lost_most_packets_is_named() -> None:
    """Of several tables; without the buckets there is no average."""
    tables = [
        Table(namespace=n, label=name, count=9, lost_to_chains=lost) for n, name, lost in ((7, "web", 5), (8, "db", 2))
    ]
    record = a_record("a", Hold(reason=HoldReason.CHAIN_DROPS), tables=tuple(tables), buckets=None)
    assert sentence(record, Policy()) == (
        "The kernel dropped 7 packets, most of web (netns 7), without a message: hash chains are too long."
    )


@pytest.mark.parametrize("decision", [Hold(reason=reason) for reason in HoldReason])
def test_every_hold_has_a_sentence(decision: Hold) -> None:
    """Without figures it is the reason's own, but for the rate limit, whose figures are constants."""
    text = sentence(a_record("a", decision), Policy())
    expected = "rate limit reached: 20" if decision.reason is HoldReason.RATE_LIMITED else decision.reason.sentence[1:]
    assert expected in text or "the condition is over" in text


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
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    """Escapes, line breaks, C1 controls and bidi overrides become visible, letters of any script stay."""
    assert printable(text) == shown


ROOTLESS = Table(namespace=4026532316, label="rootless", count=65536, user_owned=True)
"""The table that the message names: any user can have created and filled it."""


@pytest.mark.parametrize(
    ("decision", "others", "says"),
    [
        (
            replace(RAISE, arithmetic=replace(SUM, untrusted_entries=98_304)),
            (60000,),
            "the table of web (netns 7) was filling up (60,0",
        ),
        (
            replace(RAISE, arithmetic=replace(SUM, untrusted_entries=98_304)),
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
def test_the_table_named_is_the_one_raised_for(
    decision: Decision, others: tuple[int, ...], says: str, *, named: bool
) -> None:
    """If a trusted table needs the raise too, the sentence names it, not the untrusted one."""
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


def test_a_long_name_of_a_namespace_is_cut() -> None:
    """The number identifies it."""
    named = table_name(Table(namespace=7, label="\x1b" + "x" * 4096, count=1))
    assert named.startswith(r"\x1bxxx")
    assert named.endswith("x… (netns 7)")
    assert len(named) < 80
