"""Metrics: stable names, few series, and counters that never decrease."""

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
    count_up,
    decision_labels,
    families,
    known_decisions,
)
from conntrackd_guard.core.model import Observation, OutcomeKind, Override, OverrideKind, Pause, Table

NAMES = [
    "guard_build_info", "guard_health", "guard_last_success_timestamp_seconds", "guard_source_up", "guard_tables_complete",
    "guard_tables_unread", "guard_recorder_errors", "guard_paused", "guard_conflict", "guard_decisions_total",
    "guard_limit_entries", "guard_highest_limit_entries", "guard_persisted_limit_over_budget", "guard_buckets",
    "guard_average_chain_entries", "guard_tables", "guard_table_entries", "guard_table_drops_total",
    "guard_table_early_drop_total", "guard_table_insert_failed_total", "guard_table_clash_resolved_total",
    "guard_table_chain_too_long_total", "guard_cost_bytes", "guard_budget_bytes", "guard_min_available_bytes",
    "guard_memory_available_bytes", "guard_headroom_bytes",
]  # fmt: skip
"""Dashboards and alerts of operators depend on these."""


def series(figures: Figures, name: str) -> dict[tuple[str, ...], float]:
    """Return the series of one family by their label values."""
    found = [family for family in families(figures) if family.name == name]
    return dict(found[0].samples) if found else {}


def test_names_are_stable() -> None:
    """A readable host exports all of them; only counters end in _total."""
    whole = families(figures(seen(*tables(3))))
    assert [family.name for family in whole] == NAMES
    assert all((family.kind is Kind.COUNTER) == family.name.endswith("_total") for family in whole)


@pytest.mark.parametrize("number", [1, TABLES_NAMED, TABLES_NAMED + 1, 5_000])
def test_many_tables_have_few_series(number: int) -> None:
    """The initial and the fullest tables have series, the others are one sum; together they are complete."""
    host = seen(*tables(number))
    entries = series(figures(host), "guard_table_entries")
    assert len(entries) <= TABLES_NAMED + 1
    assert sum(entries.values()) == sum(table.count for table in host.tables)
    assert ("1", "initial") in entries
    assert number == 1 or entries[str(number), ""] == number


def test_a_namespace_has_the_name_that_people_gave_it() -> None:
    """A process is not a name, as it may change. Long names are cut."""
    host = seen(*tables(2), Table(namespace=7, label="web", count=9), Table(namespace=8, label="x" * 4096, count=8))
    assert set(series(figures(host), "guard_table_entries")) == {
        ("1", "initial"), ("2", ""), ("7", "web"), ("8", "x" * 100), OTHERS,
    }  # fmt: skip


def test_unreadable_figures_are_left_out() -> None:
    """Without conntrack, buckets or drop counters there are no series. An unlimited table has no highest limit."""
    bare = figures(seen(Table(namespace=1, label="initial", count=5), limit=None, buckets=None))
    assert series(bare, "guard_limit_entries") == series(bare, "guard_buckets") == {}
    assert series(bare, "guard_table_drops_total") == {OTHERS: 0.0}
    assert series(bare, "guard_average_chain_entries") == {}
    unlimited = figures(seen(limit=0))
    assert (series(unlimited, "guard_limit_entries"), series(unlimited, "guard_highest_limit_entries")) == (
        {(): 0.0},
        {},
    )


def test_chains_have_metrics_where_the_kernel_limits_them() -> None:
    """The average is that of all tables: 2 × (1 + 2 + 3) ÷ 4. A kernel without a chain limit has neither figure."""
    host = seen(*tables(3, chain_too_long=5, insert_failed=1, clash_resolved=2), buckets=4)
    found = figures(host)
    assert series(found, "guard_average_chain_entries") == {(): 3.0}
    assert series(found, "guard_table_chain_too_long_total") == {("3", ""): 5, ("2", ""): 5, OTHERS: 0}
    assert series(found, "guard_table_insert_failed_total") == {("3", ""): 1, ("2", ""): 1, OTHERS: 0}
    assert series(found, "guard_table_clash_resolved_total") == {("3", ""): 2, ("2", ""): 2, OTHERS: 0}
    old = figures(replace(host, chain_limit=False))
    assert series(old, "guard_average_chain_entries") == series(old, "guard_table_chain_too_long_total") == {}
    assert series(old, "guard_table_insert_failed_total") != {}


def test_a_counter_that_becomes_readable_starts_with_its_value() -> None:
    """Counters come one by one: netlink has them all, a bare count none."""
    bare, whole = (
        seen(Table(namespace=7, label="web", count=5)),
        seen(*tables(1), Table(namespace=7, label="web", count=5, drop=9)),
    )
    totals = count_up(count_up(Totals(), bare), whole)
    assert series(figures(whole, totals=totals), "guard_table_drops_total")["7", "web"] == 9
    assert ("7", "web") not in series(figures(whole, totals=totals), "guard_table_chain_too_long_total")


def test_states_are_one_or_zero() -> None:
    """Pause, conflict, sources, unreadable tables and a limit over budget."""
    plain = figures(seen(*tables(1)))
    states = {
        name: series(plain, f"guard_{name}")[()]
        for name in ("paused", "conflict", "tables_complete", "persisted_limit_over_budget")
    }
    assert states == {"paused": 0, "conflict": 0, "tables_complete": 1, "persisted_limit_over_budget": 0}
    assert series(plain, "guard_source_up") == {("ring_buffer",): 1, ("journal",): 0}
    loop = replace(LOOP, conflict=True, over_budget=True, recorder_errors=2, sources={"journal": "read once a minute"})
    bad = figures(seen(*tables(1), complete=False, pause=Pause(by="x", reason="y")), loop=loop)
    states = {name: series(bad, f"guard_{name}")[()] for name in states}
    assert states == {"paused": 1, "conflict": 1, "tables_complete": 0, "persisted_limit_over_budget": 1}
    assert series(bad, "guard_source_up") == {("journal",): 1}
    assert series(bad, "guard_recorder_errors") == {(): 2}


def test_a_kernel_without_statistics_files_is_no_alert() -> None:
    """What it can't show is a figure of its own; a table that it shows and can't be read is incomplete."""
    for more, expected in (
        ({}, (1, 0)),
        ({"complete": False, "unread_tables": 2}, (0, 2)),
        ({"complete": False, "unread_tables": 2, "has_statistics": False}, (1, 2)),
    ):
        found = figures(seen(*tables(1), **more))
        names = ("guard_tables_complete", "guard_tables_unread")
        assert tuple(series(found, name)[()] for name in names) == expected


def test_the_highest_limit_names_its_bound() -> None:
    """There is one series, labelled with its bound."""
    assert series(figures(seen(*tables(1))), "guard_highest_limit_entries") == {("chains",): 12 * LIMIT}
    policy = Policy(max_limit=LIMIT)
    assert series(figures(seen(*tables(1)), policy), "guard_highest_limit_entries") == {("max_limit",): LIMIT}


def test_usual_decisions_are_counted_from_zero() -> None:
    """`increase()` misses the first count of a new series, and a raise may be the only one in a year."""
    expected = [
        a_record("a", RAISE, OutcomeKind.APPLIED),
        a_record("b", RAISE, OutcomeKind.REJECTED),
        a_record("c", MAX_LIMIT),
        a_record("d", Override(kind=OverrideKind.REVERT), OutcomeKind.APPLIED),
        a_record("e", Override(kind=OverrideKind.PAUSE), OutcomeKind.APPLIED),
    ]
    assert [known_decisions().get(decision_labels(record)) for record in expected] == [0] * 5
    assert sum(verdict == "hold" for verdict, _, _ in known_decisions()) == len(HoldReason)


@st.composite
def days(draw: st.DrawFn) -> list[Observation]:
    """Draw observations of one host: tables come, go, grow and shrink, and their u32 counters wrap."""
    counters = dict.fromkeys(range(1, 40), (0, 0))
    observations = []
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
        observations.append(seen(*those))
    return observations


@given(days())
def test_counters_never_decrease(observations: list[Observation]) -> None:
    """Neither when the kernel's wrap, nor when a table moves between the named ones and the others."""
    totals = Totals()
    before: dict[tuple[str, ...], float] = {}
    known: set[int] = set()
    for seen_now in observations:
        totals = count_up(totals, seen_now)
        now = series(figures(seen_now, totals=totals), "guard_table_drops_total")
        for labels in before.keys() & now.keys():
            number = 0 if labels == OTHERS else int(labels[0])
            assert now[labels] >= before[labels] or number not in known | {0}
        known = {table.namespace for table in seen_now.tables}
        before = now


def test_drops_are_counted_in_their_series() -> None:
    """A table's own series starts at its kernel counter; the others count only what is added."""
    crowd = tables(TABLES_NAMED + 1, drop=1_000)
    small, full = crowd[1], crowd[-1]
    first = count_up(Totals(), seen(*crowd))
    second = count_up(
        first, seen(*crowd[:1], replace(small, drop=1_003), *crowd[2:-1], replace(full, drop=1_005, early_drop=2))
    )
    drops = series(figures(seen(*crowd), totals=second), "guard_table_drops_total")
    assert (drops[OTHERS], drops[str(full.namespace), ""]) == (3, 1_005)
    assert series(figures(seen(*crowd), totals=second), "guard_table_early_drop_total")[str(full.namespace), ""] == 2
