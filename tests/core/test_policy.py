"""Decisions as a table: for each trigger and host the decision, its reason, and when to decide again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from testbed.hosts import GIB, LIMIT, NOW, OTHER, PRESSURE, WEB, host, message, table

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Buckets, FloodAction, FloodResponse, Policy, Share
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    INT_MAX,
    Corroboration,
    Hold,
    ImpossibleCount,
    LoadFacts,
    MessageKind,
    NamespaceOwner,
    Observation,
    Pause,
    PersistedLimit,
    Raise,
    Refusal,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide

FULL = table(LIMIT)
FULL_HOST = host(FULL)
CALM = State()
SOON = NOW + 5.0
"""When a hold that conditions may end is decided again."""
BUSY = table(220_000, demand_per_second=5_000.0)
"""84 % full, full in 8 s: it presses, and has dropped nothing."""
HUGE = 1 << 50
BROKEN = ImpossibleCount(namespace=WEB, label="web", source="statistics file", count=5_000_000, most=20_000)
HOLD_FLOODS = Policy(on_flood=FloodResponse(action=FloodAction.HOLD))
RAISED_20_TIMES = tuple(NOW - 590 + i for i in range(20))


def other_writer(was: int) -> Trigger:
    """Return the trigger that another writer's change gives."""
    return Trigger(kind=TriggerKind.OTHER_WRITER, was=was)


INITIAL = table(100, OTHER, initial=True)


CHAINS = Trigger(kind=TriggerKind.CHAINS)
MINIMUM = Trigger(kind=TriggerKind.MINIMUM)


def start(kept: int, buckets: int | None = None) -> Trigger:
    """Return the trigger that a start gives where the drop-in keeps a limit, and perhaps buckets."""
    return Trigger(kind=TriggerKind.START, persisted=PersistedLimit(limit=kept, buckets=buckets))


UNKNOWN_OWNER = table(LIMIT, user_owned=True, owner_unknown=True)
UNKNOWN: dict[str, Any] = {
    "memory_unknown": "/proc/meminfo (no valid MemTotal)", "memory_total_bytes": 0, "memory_available_bytes": 0,
}  # fmt: skip
HOLDS: list[tuple[HoldReason, Trigger, Observation, State, Policy, float | None]] = [
    (HoldReason.HISTORICAL, message(live=False), FULL_HOST, CALM, Policy(), None),
    (HoldReason.TRIGGER_OFF, PRESSURE, FULL_HOST, CALM, Policy(raise_early=False), None),
    (HoldReason.EXPECTATION_TABLE, message(message_kind=MessageKind.EXPECTATION_FULL), FULL_HOST, CALM, Policy(), None),
    (HoldReason.NEIGHBOUR_TABLE, message(message_kind=MessageKind.NEIGHBOUR_FULL), FULL_HOST, CALM, Policy(), None),
    (HoldReason.SUPPRESSED, message(message_kind=MessageKind.SUPPRESSED), FULL_HOST, CALM, Policy(), None),
    # the named table can be read, and is a tenth full
    (HoldReason.CONTRADICTED, message(), host(table(26_214)), CALM, Policy(), None),
    # the named table counts more entries than exist; and a message about any table, of which no other is full
    (HoldReason.IMPOSSIBLE_COUNT, message(), host(table(10, OTHER), impossible=(BROKEN,)), CALM, Policy(), SOON),
    (HoldReason.IMPOSSIBLE_COUNT, message(None), host(table(10, OTHER), impossible=(BROKEN,)), CALM, Policy(), SOON),
    # another namespace's
    (HoldReason.CONTRADICTED, message(OTHER), host(table(10, OTHER), impossible=(BROKEN,)), CALM, Policy(), None),
    # nothing can be read of the named namespace, and such a message was stepped for 100 s ago
    (HoldReason.UNCONFIRMED, message(), host(table(10, OTHER)), State(unknown_seconds=NOW - 100.0), Policy(), SOON),
    # the message came half a second after a raise, which made room
    (HoldReason.SUPERSEDED, message(), host(table(100_000)), State(last_raise_seconds=NOW - 0.5), Policy(), None),
    (HoldReason.RESOLVED, PRESSURE, host(table(100_000)), CALM, Policy(), None),
    # 84 % full; at 50 a second the remaining 42,144 last 843 s
    (HoldReason.STABLE, PRESSURE, host(table(220_000, demand_per_second=50.0)), CALM, Policy(), SOON),
    # dry run: the kernel's table is full, the rehearsed limit would hold it
    (HoldReason.DRY_RUN_SUFFICIENT, message(), host(FULL, limit=393_216, kernel_limit=LIMIT), CALM, Policy(), None),
    (HoldReason.UNTRUSTED_NAMESPACE, message(), host(table(LIMIT, user_owned=True)), CALM, Policy(), SOON),
    # nothing can be read of the named namespace, but who owns it, or that nothing leads to it
    (HoldReason.UNTRUSTED_NAMESPACE, message(), host(unread_owner=NamespaceOwner.USER), CALM, Policy(), SOON),
    (HoldReason.OWNER_UNKNOWN, message(), host(unread_owner=NamespaceOwner.UNKNOWN), CALM, Policy(), SOON),
    (HoldReason.UNREACHABLE_NAMESPACE, message(), host(unread_owner=NamespaceOwner.NONE), CALM, Policy(), SOON),
    # entries of a namespace that nothing leads to
    (
        HoldReason.UNREACHABLE_NAMESPACE,
        message(None),
        host(complete=False, unread_tables=1, unread_owner=NamespaceOwner.NONE),
        CALM,
        Policy(),
        SOON,
    ),
    (HoldReason.OWNER_UNKNOWN, PRESSURE, host(UNKNOWN_OWNER), CALM, Policy(), SOON),
    (HoldReason.PAUSED, message(), host(FULL, pause=Pause(by="root", reason="drill")), CALM, Policy(), SOON),
    (HoldReason.CONFLICT, message(), FULL_HOST, State(conflict_seconds=(1.0, 2.0, 3.0)), Policy(), SOON),
    (HoldReason.UNLIMITED, message(), host(FULL, limit=0), CALM, Policy(), SOON),
    (HoldReason.UNLIMITED, message(), host(FULL, limit=2**32 - 1), CALM, Policy(), SOON),
    (HoldReason.UNLIMITED, start(300_000), host(INITIAL, limit=2**31), CALM, Policy(), SOON),
    (HoldReason.NO_CONNTRACK, message(), host(limit=None), CALM, Policy(), None),
    (
        HoldReason.WRITE_REFUSED,
        message(),
        FULL_HOST,
        State(refusal=Refusal(errno=30, limit=LIMIT, count=3, until_seconds=NOW + 4.0)),
        Policy(),
        NOW + 4.0,
    ),
    # a full table is given 200 ms, one that only presses 2 s
    (HoldReason.COOLDOWN, message(), FULL_HOST, State(last_raise_seconds=NOW - 0.125), Policy(), NOW - 0.125 + 0.2),
    (HoldReason.COOLDOWN, PRESSURE, host(BUSY), State(last_raise_seconds=NOW - 1.5), Policy(), NOW + 0.5),
    # the shorter of 200 ms and `cooldown`
    (
        HoldReason.COOLDOWN,
        message(),
        FULL_HOST,
        State(last_raise_seconds=NOW - 0.0625),
        Policy(cooldown_seconds=0.125),
        NOW + 0.0625,
    ),
    # the oldest of the twenty leaves the window in 10 s, later than the next look
    (HoldReason.RATE_LIMITED, PRESSURE, host(BUSY), State(raise_seconds=RAISED_20_TIMES), Policy(), SOON),
    (HoldReason.OVER_BUDGET, message(), host(FULL, memory_total_bytes=GIB), CALM, Policy(), SOON),
    (HoldReason.RESERVE, message(), host(FULL, memory_available_bytes=GIB), CALM, Policy(), SOON),
    (HoldReason.MEMORY_UNKNOWN, message(), host(FULL, **UNKNOWN), CALM, Policy(), SOON),
    (HoldReason.MEMORY_UNKNOWN, PRESSURE, host(BUSY, **UNKNOWN), CALM, Policy(), SOON),
    (HoldReason.MEMORY_UNKNOWN, start(393_216), host(INITIAL, **UNKNOWN), CALM, Policy(), SOON),
    (HoldReason.MEMORY_UNKNOWN, start(LIMIT), host(INITIAL, **UNKNOWN), CALM, Policy(), SOON),
    # the tables are not known to exceed anything
    (HoldReason.RESOLVED, Trigger(kind=TriggerKind.MEMORY), host(FULL, **UNKNOWN), CALM, Policy(), None),
    (HoldReason.AT_CEILING, message(), FULL_HOST, CALM, Policy(max_limit=LIMIT), SOON),
    (HoldReason.FLOOD, message(), host(table(LIMIT, flooded=True)), CALM, HOLD_FLOODS, SOON),
    # no sample, and a step was made 10 s ago
    (HoldReason.UNSAMPLED, message(), FULL_HOST, State(last_raise_seconds=NOW - 10.0), HOLD_FLOODS, NOW + 0.25),
    # 2 × 262,144 ÷ 16,384 = 32 already
    (HoldReason.CHAINS, message(), host(FULL, buckets=16_384), CALM, Policy(), SOON),
    (
        HoldReason.INT_MAX,
        message(),
        host(
            table(INT_MAX), limit=INT_MAX, memory_total_bytes=HUGE, memory_available_bytes=HUGE // 2, buckets=None
        ),
        CALM,
        Policy(),
        SOON,
    ),
    (HoldReason.CHAIN_DROPS, CHAINS, host(table(10, lost_to_chains=1)), CALM, Policy(), None),
    # 24 on average, in all tables together
    (HoldReason.LONG_CHAINS, CHAINS, host(table(6_000), table(6_000, OTHER), buckets=1_000), CALM, Policy(), None),
    (HoldReason.BUCKETS_LOST, start(LIMIT, LIMIT + 512), host(INITIAL), CALM, Policy(), None),
    (HoldReason.ALREADY_IN_FORCE, start(LIMIT), host(INITIAL), CALM, Policy(), None),
    # 200,000 is not the number of buckets
    (HoldReason.SET_ELSEWHERE, start(393_216), host(INITIAL, limit=200_000), CALM, Policy(), None),
    # 576 × 262,144 is 144 MiB: more than a tenth of 1 GiB
    (HoldReason.OVER_BUDGET_AT_START, start(LIMIT), host(INITIAL, memory_total_bytes=GIB), CALM, Policy(), None),
    (HoldReason.LIMIT_RAISED, other_writer(65_536), host(), CALM, Policy(), None),
    (HoldReason.LIMIT_LOWERED, other_writer(393_216), host(), CALM, Policy(), None),
    (HoldReason.BUCKETS_CHANGED, replace(other_writer(LIMIT), was_buckets=65_536), host(), CALM, Policy(), None),
    (HoldReason.REVERTED, MINIMUM, host(), State(reverted=True), Policy(min_limit=2 * LIMIT), None),
    (HoldReason.RESOLVED, MINIMUM, host(), CALM, Policy(min_limit=LIMIT), None),
    (HoldReason.UNLIMITED, MINIMUM, host(limit=0, kernel_limit=0), CALM, Policy(min_limit=LIMIT), SOON),
    (HoldReason.RELOADED, replace(other_writer(393_216), reloaded=True), host(), CALM, Policy(), None),
    (
        HoldReason.RESERVE_BROKEN,
        Trigger(kind=TriggerKind.MEMORY),
        host(FULL, memory_total_bytes=GIB),
        CALM,
        Policy(),
        None,
    ),
    (HoldReason.RESOLVED, Trigger(kind=TriggerKind.MEMORY), FULL_HOST, CALM, Policy(), None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "trigger", "seen", "state", "policy", "retry"), HOLDS, ids=[row[0].code for row in HOLDS]
)
def test_holds(  # noqa: PLR0913, PLR0917 - a row of the table
    reason: HoldReason, trigger: Trigger, seen: Observation, state: State, policy: Policy, retry: float | None
) -> None:
    """Each reason to hold, and when it is decided again."""
    decision = decide(trigger, seen, state, policy)
    assert isinstance(decision, Hold)
    assert decision.reason is reason
    assert decision.retry_seconds == (None if retry is None else pytest.approx(retry))


@pytest.mark.parametrize("owner", [None, *NamespaceOwner])
def test_a_namespace_that_can_not_be_read_is_stepped_for_if_no_user_can_have_made_it(
    owner: NamespaceOwner | None,
) -> None:
    """One plain step: for root's own, where a process is hidden, and wherever the operator trusts user namespaces."""
    seen = host(unread_owner=owner)
    assert isinstance(decide(message(), seen, CALM, Policy(trust_user_namespaces=True)), Raise)
    steps = isinstance(decide(message(), seen, CALM, Policy()), Raise)
    assert steps is (owner in {None, NamespaceOwner.ROOT})


def test_every_reason_has_its_row() -> None:
    """Only what is found out while writing can't be decided beforehand."""
    assert {row[0] for row in HOLDS} == set(HoldReason) - {HoldReason.CHANGED_UNDER_US}


@pytest.mark.parametrize(
    ("seen", "policy", "target"),
    [
        (FULL_HOST, Policy(), 393_216),  # × 1.5
        (host(table(8_192), limit=8_192), Policy(), 16_384),  # + 8,192 is more than × 1.5
        # 20,000 a second for 30 s: 262,144 + 600,000
        (host(table(LIMIT, demand_per_second=20_000.0)), Policy(), 862_144),
        # 1,000,000 a second would ask for 30 million: four times the limit is the most
        (host(table(LIMIT, demand_per_second=1e6)), Policy(), 1_048_576),
        # another writer lowered the limit far below the count: 500,000 ÷ 0.8, and one more
        (host(table(500_000)), Policy(), 625_001),
        (FULL_HOST, Policy(max_limit=300_000), 300_000),
        (host(table(LIMIT, flooded=True)), Policy(), 393_216),  # by default a flood is a need like any other
        (
            host(table(LIMIT, flooded=True)),
            Policy(on_flood=FloodResponse(action=FloodAction.RAISE_TO, limit=300_000)),
            300_000,
        ),
        (host(table(LIMIT, flooded=False)), HOLD_FLOODS, 393_216),
        # one that is no flood needs the step as well
        (
            host(table(LIMIT, flooded=True), table(230_000, OTHER, flooded=False, demand_per_second=1_000.0)),
            HOLD_FLOODS,
            393_216,
        ),
        # a flood in a namespace that any user can make hides no need of the host's own
        (host(FULL, table(LIMIT, OTHER, flooded=True, user_owned=True)), HOLD_FLOODS, 393_216),
        # no sample: one plain step, whatever the growth
        (host(table(LIMIT, demand_per_second=20_000.0)), HOLD_FLOODS, 393_216),
        # a part: the `max_limit` leaves 5 % of the limit and no less
        (FULL_HOST, Policy(max_limit=275_252), 275_252),
    ],
)
def test_how_far(seen: Observation, policy: Policy, target: int) -> None:
    """The largest of factor, least step, lookahead and what the fullest table needs; then what fits."""
    decision = decide(message(), seen, CALM, policy)
    assert isinstance(decision, Raise)
    assert (decision.target, decision.corroboration) == (target, Corroboration.CONFIRMED)


@pytest.mark.parametrize(
    ("default", "buckets", "load", "target"),
    [
        (262_144, 262_144, LoadFacts(), 393_216),
        (262_144, 65_536, LoadFacts(kernel_release="5.10.0"), 393_216),
        # chains: 24 × 16,384 ÷ 2 is what fits, and 200 for the other table
        (131_072, 16_384, LoadFacts(hashsize=16_384), 196_608),
    ],
)
def test_what_a_boot_lost_is_put_back_over_a_kernel_default(
    default: int, buckets: int, load: LoadFacts, target: int
) -> None:
    """The kept limit, as far as this boot's host can bear it; the table of the host itself is charged as full."""
    trigger = replace(start(393_216), load=load)
    decision = decide(trigger, host(INITIAL, limit=default, buckets=buckets), CALM, Policy())
    assert isinstance(decision, Raise)
    assert (decision.target, decision.arithmetic.full_tables) == (target, 1)


def test_a_pause_holds_a_restore_too() -> None:
    """The operator outranks what the last boot left."""
    seen = host(INITIAL, pause=Pause(by="root", reason="drill"))
    decision = decide(start(393_216), seen, CALM, Policy())
    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.PAUSED


def test_a_part_below_five_percent_is_not_worth_a_write() -> None:
    """262,144 × 1.05 = 275,251.2: one entry below that is a hold, and names the bound."""
    decision = decide(message(), FULL_HOST, CALM, Policy(max_limit=275_251))
    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.AT_CEILING
    assert decision.arithmetic is not None
    assert decision.arithmetic.target == 275_251


def test_a_part_says_what_kept_it_small() -> None:
    """A partial step is taken, with advice that names the bound."""
    decision = decide(message(), FULL_HOST, CALM, Policy(budget=Share(bytes=200_000_000)))
    assert isinstance(decision, Raise)
    assert decision.target == 339_940  # (200,000,000 − 4,194,304) ÷ 576 = 339,940.4
    assert decision.advice == ()  # the sentence has the bound, and the hold that may follow has the cure


def test_a_flood_beside_a_need_does_not_size_the_step() -> None:
    """With `on_flood`, the growth of what is raised for counts, and not that of the flood."""
    seen = host(
        table(230_000, demand_per_second=100.0, flooded=False),
        table(LIMIT, OTHER, demand_per_second=50_000.0, flooded=True),
    )
    decision = decide(message(OTHER), seen, CALM, HOLD_FLOODS)
    assert isinstance(decision, Raise)
    assert decision.target == 393_216


@pytest.mark.parametrize("complete", [True, False])
def test_a_flood_does_not_explain_an_unreadable_table(*, complete: bool) -> None:
    """A message that nothing confirms gets its plain step, whatever fills another table."""
    seen = host(table(230_000, OTHER, flooded=True, demand_per_second=1_000.0), complete=complete)
    decision = decide(message(WEB), seen, CALM, HOLD_FLOODS)
    assert isinstance(decision, Raise)
    assert decision.corroboration is Corroboration.UNKNOWN


def test_a_plain_step_without_a_sample_has_advice() -> None:
    """And made again after 30 s where no sample can be had: what nobody can look into is not left dropping."""
    raised = State(last_raise_seconds=NOW - 30.0)
    decision = decide(message(), FULL_HOST, raised, HOLD_FLOODS)
    assert isinstance(decision, Raise)
    assert any("a sample after it" in advice for advice in decision.advice)


def test_the_command_for_more_buckets_is_given_once_an_incident() -> None:
    """The first raise that makes chains long has it; those that follow within ten minutes do not."""
    seen = host(table(LIMIT), buckets=60_000)
    first = decide(message(), seen, CALM, Policy())
    again = decide(message(), seen, State(last_raise_seconds=NOW - 9.0), Policy())
    later = decide(message(), seen, State(last_raise_seconds=NOW - tuning.INCIDENT_SECONDS), Policy())
    wider = decide(message(), host(table(LIMIT), buckets=90_000), State(last_raise_seconds=NOW - 9.0), Policy())
    given = [any("nf_conntrack_buckets=" in text for text in found.advice) for found in (first, again, later, wider)]
    assert given == [True, False, True, True]


UNKNOWABLE: list[Any] = [
    pytest.param(message(WEB), host(table(10, OTHER)), id="the named namespace is gone"),
    pytest.param(message(None), host(table(10, OTHER), complete=False), id="something can't be read"),
]


@pytest.mark.parametrize(("trigger", "seen"), UNKNOWABLE)
def test_what_cannot_be_judged_gets_one_plain_step(trigger: Trigger, seen: Observation) -> None:
    """Unknown: one step without a demand, charged as one more full table, with advice."""
    decision = decide(trigger, seen, CALM, Policy())
    assert isinstance(decision, Raise)
    assert decision.corroboration is Corroboration.UNKNOWN
    assert decision.target == 393_216
    assert decision.arithmetic.demand_per_second == 0.0
    named = sum(t.namespace == trigger.namespace for t in seen.tables)
    assert decision.arithmetic.full_tables == 1 + named
    assert any("could not be judged" in advice for advice in decision.advice)


@pytest.mark.parametrize(("after", "reason"), [(0.1, HoldReason.SUPERSEDED), (0.3, HoldReason.COOLDOWN)])
def test_an_unknown_message_just_after_a_raise(after: float, reason: HoldReason) -> None:
    """A raise answers the burst that led to it; what comes later may be the same table, full again, and is looked at again."""
    raised = State(last_raise_seconds=NOW - 1.0)
    decision = decide(message(message_seconds=NOW - 1.0 + after), host(complete=False), raised, Policy())
    assert isinstance(decision, Hold)
    assert decision.reason is reason


def test_one_unknown_step_in_a_window() -> None:
    """What no table ever confirms can't climb: the next plain step waits for the window to pass."""
    gone = host(table(10, OTHER))
    assert isinstance(decide(message(), gone, State(unknown_seconds=NOW - 600.0), Policy()), Raise)
    assert isinstance(decide(message(), FULL_HOST, State(unknown_seconds=NOW - 100.0), Policy()), Raise)


@pytest.mark.parametrize("user_owned", [False, True])
@pytest.mark.parametrize("number", [None, OTHER])
def test_drops_of_a_table_that_has_room_raise_nothing(number: int | None, *, user_owned: bool) -> None:
    """Emptied since (a flush, short timeouts), or never full: lost races and failed allocations count as drops, too."""
    emptied = table(10, OTHER, dropped=5, user_owned=user_owned)
    decision = decide(message(number), host(emptied), CALM, Policy())
    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.CONTRADICTED


def test_lost_races_beside_a_full_untrusted_table_are_no_way_to_a_raise() -> None:
    """The full table explains the message; neither drops nor mere use of a trusted table make it this one's."""
    theirs = table(LIMIT, OTHER, user_owned=True, dropped=50)
    for ours in (table(13_107, dropped=3), table(220_000)):
        for trigger in (message(None), message(OTHER), replace(PRESSURE, namespace=OTHER), PRESSURE):
            decision = decide(trigger, host(theirs, ours), CALM, Policy())
            assert isinstance(decision, Hold)
            about_ours = trigger is PRESSURE  # which growth makes due at once, as a hold for theirs would not
            assert decision.reason is (HoldReason.STABLE if about_ours else HoldReason.UNTRUSTED_NAMESPACE)


def test_no_user_chooses_the_step() -> None:
    """A table that is not raised for is not brought below the threshold either."""
    ours = table(LIMIT * 95 // 100, demand_per_second=10.0)
    alone, beside = (
        decide(PRESSURE, host(ours, table(count, OTHER, user_owned=True)), CALM, Policy(threshold=0.4))
        for count in (0, LIMIT)
    )
    assert isinstance(alone, Raise)
    assert isinstance(beside, Raise)
    assert alone.target == beside.target


@pytest.mark.parametrize(("trigger", "seen"), UNKNOWABLE)
def test_a_message_that_was_judged_is_not_unknown_later(trigger: Trigger, seen: Observation) -> None:
    """Its table could be read and is gone since: nothing is raised for it, and nothing is left to decide."""
    decision = decide(replace(trigger, judged=True), seen, CALM, Policy())
    assert isinstance(decision, Hold)
    assert (decision.reason, decision.retry_seconds) == (HoldReason.RESOLVED, None)
    assert isinstance(decide(replace(trigger, namespace=None, judged=True), FULL_HOST, CALM, Policy()), Raise)


@pytest.mark.parametrize(
    ("seen", "target", "measured"),
    [
        # 95 % of 262,144 is 249,036.8: from there on growth of one short interval counts, and less than what lasted
        (table(249_037, burst_per_second=1e6, burst_seconds=0.056), 524_288, (1e6, 0.056, 2)),
        (table(LIMIT, burst_per_second=5_000.0, burst_seconds=0.05), 412_144, (5_000.0, 0.05, 2)),
        (table(249_036, burst_per_second=1e6, burst_seconds=0.056), 393_216, (0.0, None, 4)),
        (table(249_037, demand_per_second=1e6, demand_seconds=1.0), 1_048_576, (1e6, 1.0, 4)),
        (
            table(LIMIT, demand_per_second=100.0, demand_seconds=1.0, burst_per_second=1e6, burst_seconds=0.05),
            524_288,
            (1e6, 0.05, 2),
        ),
        (
            table(LIMIT, demand_per_second=20_000.0, demand_seconds=0.25, burst_per_second=1e6, burst_seconds=0.05),
            862_144,
            (20_000.0, 0.25, 4),
        ),
    ],
)
@pytest.mark.parametrize("trigger", [message(), PRESSURE], ids=["message", "filling up"])
def test_a_burst_at_the_brim_doubles_the_limit_at_most(
    trigger: Trigger, seen: Table, target: int, measured: tuple[float, float | None, int]
) -> None:
    """One short interval is no forecast; the calculation names the time that the growth was measured over."""
    decision = decide(trigger, host(seen), CALM, Policy())
    assert isinstance(decision, Raise)
    found = decision.arithmetic
    assert (decision.target, found.demand_per_second, found.demand_seconds, found.demand_factor) == (target, *measured)


@pytest.mark.parametrize(
    ("seen", "raises"),
    [
        (table(220_000, demand_per_second=28_000.0), False),  # full in 1.505 s, and the cooldown is over in 1.5 s
        (table(220_000, demand_per_second=28_200.0), True),  # 1.494 s
        (table(220_000, burst_per_second=1e6), False),
        (table(249_037), True),  # it grew from under the threshold to 95 % within half a second
        (table(249_036), False),
    ],
)
def test_a_table_that_fills_within_the_cooldown_does_not_wait_for_it(seen: Table, *, raises: bool) -> None:
    """A raise that was too small is followed by another after 200 ms, before packets are dropped."""
    raised = State(last_raise_seconds=NOW - 0.5)
    assert isinstance(decide(PRESSURE, host(seen), raised, Policy()), Raise) is raises
    just_raised = State(last_raise_seconds=NOW - 0.1)
    assert isinstance(decide(PRESSURE, host(seen), just_raised, Policy()), Hold)


def test_user_namespaces_are_charged_and_not_raised_for() -> None:
    """Any user can make such a table: it costs, but neither its need nor its demand raises the limit."""
    theirs = table(LIMIT, OTHER, user_owned=True, demand_per_second=1e6)
    decision = decide(message(None), host(theirs, FULL), CALM, Policy())
    assert isinstance(decision, Raise)
    assert decision.target == 393_216  # our own full table's step, not the demand of theirs
    assert decision.arithmetic.full_tables == 1
    assert decision.arithmetic.untrusted_entries == 393_216  # what it may hold then, as of any other table
    trusted = decide(message(OTHER), host(theirs), CALM, Policy(trust_user_namespaces=True))
    assert isinstance(trusted, Raise)
    assert trusted.target == 1_048_576


@pytest.mark.parametrize("trigger", [message(), PRESSURE], ids=["message", "filling up"])
def test_the_rate_limit_never_holds_a_table_that_drops(trigger: Trigger) -> None:
    """Twenty raises in ten minutes hold pressure, but not a table that is full or drops now."""
    spent = State(raise_seconds=RAISED_20_TIMES)
    for dropping in (FULL, replace(BUSY, dropped=1)):
        assert isinstance(decide(trigger, host(dropping), spent, Policy()), Raise)


def test_the_rate_limit_recovers() -> None:
    """A raise older than the window no longer counts."""
    gone = tuple(at - 10.0 for at in RAISED_20_TIMES[:1]) + RAISED_20_TIMES[1:]
    assert isinstance(decide(PRESSURE, host(BUSY), State(raise_seconds=gone), Policy()), Raise)


@pytest.mark.parametrize(
    ("fights", "conflict_limit", "raises"),
    [
        ((NOW - 3, NOW - 2), 3, True),
        ((NOW - 3, NOW - 2, NOW - 1), 3, False),
        ((NOW - 86_400, NOW - 2, NOW - 1), 3, True),  # the first is a day old
        ((NOW - 3, NOW - 2, NOW - 1), 0, True),  # 0 = never
    ],
)
def test_conflict(fights: tuple[float, ...], conflict_limit: int, *, raises: bool) -> None:
    """After three foreign lowerings within a day the guard stops raising, unless `conflict_limit` is 0."""
    decision = decide(message(), FULL_HOST, State(conflict_seconds=fights), Policy(conflict_limit=conflict_limit))
    assert isinstance(decision, Raise) is raises


@pytest.mark.parametrize(
    ("count", "demand", "reason"),
    [
        (220_000, None, HoldReason.STABLE),
        (220_000, 70.0, HoldReason.STABLE),  # 42,144 ÷ 70 = 602 s
        (220_000, 71.0, None),  # 594 s
        (235_930, None, None),  # 90 % and more is never left alone
        (196_608, None, HoldReason.STABLE),  # an open episode ends at 75 %, not at 80 %
        (196_607, 1_000.0, HoldReason.RESOLVED),
        (100_000, 162_144.0, None),  # full within one second
        (100_000, 162_143.0, HoldReason.RESOLVED),
        (78_644, 1e6, None),  # 30 % of 262,144 is 78,643.2
        (78_643, 1e6, HoldReason.RESOLVED),  # the growth of a moment is no forecast for most of a table
    ],
)
def test_pressure(count: int, demand: float | None, reason: HoldReason | None) -> None:
    """Over the threshold with more than ten minutes to full is stable; about to be full is not."""
    decision = decide(PRESSURE, host(table(count, demand_per_second=demand)), CALM, Policy())
    assert (decision.reason if isinstance(decision, Hold) else None) is reason


def test_pressure_elsewhere_begins_at_the_threshold() -> None:
    """Only the episode's own table has the five points of hysteresis."""
    decision = decide(PRESSURE, host(table(1), table(209_715, OTHER, demand_per_second=1_000.0)), CALM, Policy())
    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.RESOLVED
    assert isinstance(decide(PRESSURE, host(table(209_716, OTHER, demand_per_second=1_000.0)), CALM, Policy()), Raise)


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(errno=30, limit=LIMIT, count=9, until_seconds=NOW),  # its time is over
        Refusal(errno=30, limit=LIMIT + 1, count=9, until_seconds=NOW + 300),  # the limit changed since
    ],
)
def test_what_ends_a_back_off(refusal: Refusal) -> None:
    """A refused write is tried again when its time comes, or at once after a change of limit."""
    assert isinstance(decide(message(), FULL_HOST, State(refusal=refusal), Policy()), Raise)


def test_buckets_grow_with_the_limit_only_if_set() -> None:
    """`keep` gives advice with the command to run; `match` resizes with the raise."""
    seen = host(FULL, buckets=65_536)  # 2 × 393,216 ÷ 65,536 = 12
    kept = decide(message(), seen, CALM, Policy())
    assert isinstance(kept, Raise)
    assert kept.buckets_target is None
    assert "nf_conntrack_buckets=98304" in kept.advice[0]
    matched = decide(message(), seen, CALM, Policy(buckets=Buckets.MATCH))
    assert isinstance(matched, Raise)
    assert matched.buckets_target == 98_304  # 2 × 393,216 ÷ 8
