"""What is told: names that stay, series that are few, and counters that never fall."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testbed.figures import LIMIT, LOOP, figures, seen, tables
from testbed.records import MAX_LIMIT, RAISE, a_record

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.metrics import (
    OTHERS,
    TABLES_NAMED,
    Figures,
    Kind,
    Totals,
    count_drops,
    families,
    known_ways,
    way,
)
from conntrackd_guard.core.model import Observation, OutcomeKind, Override, OverrideKind, Pause, Table

NAMES = [
    "guard_build_info", "guard_last_success_timestamp_seconds", "guard_source_up", "guard_tables_complete",
    "guard_recorder_errors", "guard_paused", "guard_conflict", "guard_decisions_total", "guard_limit_entries",
    "guard_highest_limit_entries", "guard_kept_limit_over_budget", "guard_buckets", "guard_tables",
    "guard_table_entries", "guard_table_drops_total", "guard_table_early_drop_total", "guard_cost_bytes",
    "guard_budget_bytes", "guard_min_available_bytes", "guard_memory_available_bytes", "guard_headroom_bytes",
]  # fmt: skip
"""People's own dashboards and alerts are built on these."""


def told(figures: Figures, name: str) -> dict[tuple[str, ...], float]:
    """Return the series of one family by the values of their labels."""
    found = [family for family in families(figures) if family.name == name]
    return dict(found[0].samples) if found else {}


def test_the_names_stay() -> None:
    """Each is there on a host where all can be read; a counter ends in _total, and nothing else does."""
    whole = families(figures(seen(*tables(3))))
    assert [family.name for family in whole] == NAMES
    assert all((family.kind is Kind.COUNTER) == family.name.endswith("_total") for family in whole)


@pytest.mark.parametrize("number", [1, TABLES_NAMED, TABLES_NAMED + 1, 5_000])
def test_a_crowd_is_few_series_and_nothing_is_left_out(number: int) -> None:
    """The fullest and the initial table stand alone, the others are one sum; all together hold what the host holds."""
    host = seen(*tables(number))
    entries = told(figures(host), "guard_table_entries")
    assert len(entries) <= TABLES_NAMED + 1
    assert sum(entries.values()) == sum(table.count for table in host.tables)
    assert ("1", "initial") in entries
    assert number == 1 or entries[str(number), ""] == number


def test_a_namespace_goes_by_the_name_people_gave_it() -> None:
    """A process is no name: it will soon be another. A name of any length stays a label."""
    host = seen(*tables(2), Table(namespace=7, label="web", count=9), Table(namespace=8, label="x" * 4096, count=8))
    assert set(told(figures(host), "guard_table_entries")) == {
        ("1", "initial"), ("2", ""), ("7", "web"), ("8", "x" * 100), OTHERS,
    }  # fmt: skip


def test_what_can_not_be_read_is_not_told_as_zero() -> None:
    """No conntrack, no buckets, no drop counters: no series. Unlimited is told, and has no highest limit."""
    bare = figures(seen(Table(namespace=1, label="initial", count=5), limit=None, buckets=None))
    assert told(bare, "guard_limit_entries") == told(bare, "guard_buckets") == {}
    assert told(bare, "guard_table_drops_total") == {OTHERS: 0.0}
    unlimited = figures(seen(limit=0))
    assert (told(unlimited, "guard_limit_entries"), told(unlimited, "guard_highest_limit_entries")) == ({(): 0.0}, {})


def test_states_are_told_as_yes_and_no() -> None:
    """Pause, stand-off, sources, what is out of sight, and a limit that is too much."""
    plain = figures(seen(*tables(1)))
    told_of = {
        name: told(plain, f"guard_{name}")[()]
        for name in ("paused", "conflict", "tables_complete", "kept_limit_over_budget")
    }
    assert told_of == {"paused": 0, "conflict": 0, "tables_complete": 1, "kept_limit_over_budget": 0}
    assert told(plain, "guard_source_up") == {("ring_buffer",): 1, ("journal",): 0}
    loop = replace(LOOP, conflict=True, over_budget=True, recorder_errors=2, sources={"journal": "read once a minute"})
    bad = figures(seen(*tables(1), complete=False, pause=Pause(by="x", reason="y")), loop=loop)
    told_of = {name: told(bad, f"guard_{name}")[()] for name in told_of}
    assert told_of == {"paused": 1, "conflict": 1, "tables_complete": 0, "kept_limit_over_budget": 1}
    assert told(bad, "guard_source_up") == {("journal",): 1}
    assert told(bad, "guard_recorder_errors") == {(): 2}


def test_the_highest_limit_names_its_bound() -> None:
    """One series, whichever bound holds."""
    assert told(figures(seen(*tables(1))), "guard_highest_limit_entries") == {("chains",): 12 * LIMIT}
    policy = Policy(max_limit=LIMIT)
    assert told(figures(seen(*tables(1)), policy), "guard_highest_limit_entries") == {("max_limit",): LIMIT}


def test_how_a_decision_ended_is_there_before_it_happened() -> None:
    """A raise may be the only one in a year, and a series that begins with 1 shows no increase."""
    expected = [
        a_record("a", RAISE, OutcomeKind.APPLIED),
        a_record("b", RAISE, OutcomeKind.REJECTED),
        a_record("c", MAX_LIMIT),
        a_record("d", Override(kind=OverrideKind.REVERT), OutcomeKind.APPLIED),
        a_record("e", Override(kind=OverrideKind.PAUSE)),
    ]
    assert [known_ways().get(way(record)) for record in expected] == [0] * 5
    assert sum(what == "hold" for what, _, _ in known_ways()) == len(HoldReason)


@st.composite
def days(draw: st.DrawFn) -> list[Observation]:
    """Draw looks at one host: tables come, go, grow and shrink, and their u32 counters wrap."""
    counters = dict.fromkeys(range(1, 40), (0, 0))
    looks = []
    for _ in range(draw(st.integers(2, 8))):
        there = draw(st.lists(st.integers(2, 39), unique=True, max_size=38))
        those = []
        for number in [1, *there]:
            drop, early = counters[number]
            counters[number] = (drop + draw(st.sampled_from([0, 1, 7, 2**31 - 1])), early + draw(st.integers(0, 9)))
            drop, early = (figure % 2**32 for figure in counters[number])
            count = draw(st.integers(0, LIMIT))
            those.append(
                Table(namespace=number, label="x", initial=number == 1, count=count, drop=drop, early_drop=early)
            )
        looks.append(seen(*those))
    return looks


@given(days())
def test_no_counter_ever_falls(looks: list[Observation]) -> None:
    """Not where the kernel's own wrap, nor where a table moves between the named ones and the others."""
    totals = Totals()
    before: dict[tuple[str, ...], float] = {}
    known: set[int] = set()
    for look in looks:
        totals = count_drops(totals, look)
        now = told(figures(look, totals=totals), "guard_table_drops_total")
        for labels in before.keys() & now.keys():
            number = 0 if labels == OTHERS else int(labels[0])
            assert now[labels] >= before[labels] or number not in known | {0}
        known = {table.namespace for table in look.tables}
        before = now


def test_drops_are_counted_where_they_happen() -> None:
    """A table's own series begins with what its kernel counted; among the others only what comes counts."""
    crowd = tables(TABLES_NAMED + 1, drop=1_000)
    small, full = crowd[1], crowd[-1]
    first = count_drops(Totals(), seen(*crowd))
    second = count_drops(
        first, seen(*crowd[:1], replace(small, drop=1_003), *crowd[2:-1], replace(full, drop=1_005, early_drop=2))
    )
    drops = told(figures(seen(*crowd), totals=second), "guard_table_drops_total")
    assert (drops[OTHERS], drops[str(full.namespace), ""]) == (3, 1_005)
    assert told(figures(seen(*crowd), totals=second), "guard_table_early_drop_total")[str(full.namespace), ""] == 2
