"""Repeated decisions: counted in a row, or a row of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from testbed.records import BOOT, a_record, add, raised

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, Outcome, OutcomeKind, Override, OverrideKind, Record, TriggerKind
from conntrackd_guard.core.records import fingerprint
from conntrackd_guard.history.database import History, Position, Repeats
from conntrackd_guard.history.details import detail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the history of a fresh host goes."""
    return tmp_path / "history.db"


def refused(key: str, errno: int = 30, **observed: Any) -> Record:
    """Return a raise that the kernel refused."""
    return replace(raised(key, **observed), outcome=Outcome(kind=OutcomeKind.REJECTED, errno=errno))


def test_repeats_are_counted_in_one_row(path: Path) -> None:
    """A repeat is a count and a last time, not a row."""
    with History(path, mode="writer") as history:
        row_id = add(history, a_record("a"))
        history.count([Repeats(row_id, 41, 2000.5)], Position(cursor="c"))
        (row,) = history.rows()
        assert (row.repeats, row.at, row.last_at) == (42, "1970-01-01T00:16:40.000Z", "1970-01-01T00:33:20.500Z")
        assert [found.id for found in history.rows(since=1500.0)] == [row_id]


def test_a_row_is_found_by_its_fingerprint(path: Path) -> None:
    """The newest of its boot, with the wall time of its last repeat and what it names."""
    hold = a_record("a")
    with History(path, mode="writer") as history:
        add(history, hold)
        row_id = add(history, a_record("b"))
        assert history.find_fingerprint(fingerprint(hold), BOOT) == (row_id, 1000.0, 4026532316, "")
        history.count([Repeats(row_id, 1, 2000.5, also="also netns 4026532317")])
        assert history.find_fingerprint(fingerprint(hold), BOOT) == (
            row_id,
            2000.5,
            4026532316,
            "also netns 4026532317",
        )
        assert history.find_fingerprint(fingerprint(hold), "boot-2") is None


@pytest.mark.parametrize(
    "between",
    [
        raised("c"),
        refused("c"),
        a_record("c", Override(kind=OverrideKind.RESUME)),
        a_record("c", Hold(reason=HoldReason.LIMIT_LOWERED), trigger=TriggerKind.OTHER_WRITER),
    ],
)
def test_after_a_change_of_the_state_a_repeat_is_a_new_row(path: Path, between: Record) -> None:
    """Such as a raise, a first refusal, an override or another writer."""
    with History(path, mode="writer") as history:
        for record in (a_record("a"), refused("b", errno=13)):
            add(history, record)
        assert history.find_fingerprint(fingerprint(refused("x", errno=13)), BOOT) is not None
        add(history, between)
        assert history.find_fingerprint(fingerprint(a_record("x")), BOOT) is None
        assert history.find_fingerprint(fingerprint(refused("x", errno=13)), BOOT) is None


def test_a_write_refused_again_keeps_the_first_time_and_the_newest_evidence(path: Path) -> None:
    """One row has the first time, the count, and all of the last try."""
    newest = refused("b", boottime_seconds=90.0, wall_seconds=1040.0)
    with History(path, mode="writer") as history:
        row_id = add(history, refused("a"))
        again = history.add(
            newest,
            policy=Policy(max_limit=7),
            sentence="why again",
            kernel_release="6.1",
            position=Position(cursor="c"),
            again=row_id,
        )
        assert again == row_id
        found = detail(history, row_id)
        assert found is not None
        assert found.record == replace(newest, key="a")
        assert found.policy == Policy(max_limit=7)
        row = found.row
        assert (row.at_seconds, row.last_seconds, row.repeats, row.sentence) == (1000.0, 1040.0, 2, "why again")
        assert history.position() == Position(cursor="c")


def test_a_refusal_is_folded_as_often_as_it_came(path: Path) -> None:
    """The back-off after a restart is that of all tries, counted from the last."""
    newest = refused("b", boottime_seconds=90.0)
    with History(path, mode="writer") as history:
        row_id = add(history, refused("a"))
        for _ in range(2):
            history.add(newest, policy=Policy(), sentence="why", kernel_release="6.1", again=row_id)
        add(history, raised("r"))
        assert list(history.records(BOOT)) == [*[replace(newest, key="a")] * 3, raised("r")]
