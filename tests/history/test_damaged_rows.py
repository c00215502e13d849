"""A damaged value in one row costs that row, or a part of it: every view shows the others, and a start folds them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.records import BOOT, a_record, add, raised

from conntrackd_guard.actions import status
from conntrackd_guard.actions.revertible import revertible_raises
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, TriggerKind
from conntrackd_guard.core.verification import Drops, End, Verification
from conntrackd_guard.history.database import History, Position
from conntrackd_guard.history.rows import COLUMNS
from conntrackd_guard.history.series import Point
from conntrackd_guard.host.paths import Paths

DAMAGES = (
    "x'ff00'", "'text'", "-1", "9223372036854775807", "1e300", "CAST(x'fffe41' AS TEXT)", "'{\"limit\": NaN}'", "'[\"a\"]'",
    f"'{'[' * 100_000}'", f"'{'9' * 5000}'",
)  # fmt: skip
VERIFICATION = Verification(
    key="", limit=98304, seconds=10.0, end=End.WATCHED, drops=Drops.UNKNOWN, dropped=None, last_drop_seconds=None,
    growth_per_second=None, seconds_to_full=None,
)  # fmt: skip
PLACES = (
    *(f"decisions.{name}" for name in COLUMNS if name != "id"),
    *(f"evidence.{name}" for name in ("trigger", "observation", "state", "decision", "arithmetic")),
    "verifications.json", "policies.json", "samples.analysis", "samples.at_seconds", "meta.value",
    *(f"series.{name}" for name in ("at", "limit", "count", "dropped", "name")), "series_names.label",
)  # fmt: skip


DAMAGED = range(2, 2 + len(DAMAGES))
"""Rows; 1 is a hold before them, and two raises come after them."""
INTACT = {1, DAMAGED.stop, DAMAGED.stop + 1}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A host with raises, each with a verification and a sample, and a series."""
    paths = Paths(tmp_path)
    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text(f"{BOOT}\n")
    with History(paths.history, mode="writer") as history:
        add(history, a_record("first"))
        for number in range(2, DAMAGED.stop + 2):
            add(history, raised(f"raise-{number}"))
            history.add_verification(replace(VERIFICATION, key=f"raise-{number}"))
            history._database.execute("INSERT INTO samples VALUES (?, 1000.0, 'x', '{}')", (number,))
        history.add_points([Point(at=1000 + at, namespace=1, label="web", limit=9, count=5) for at in DAMAGED])
        history.count([], Position(cursor="c"))
    return paths


@pytest.mark.parametrize("place", PLACES)
def test_a_damaged_value(paths: Paths, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No value of any type ends a view, and the other rows are in each."""
    table, column = place.split(".")
    change = f'UPDATE OR IGNORE {table} SET "{column}" = '  # noqa: S608 - constants
    if table in {"decisions", "evidence", "verifications", "samples"}:
        sets = [[f"{change} {damage} WHERE id = {row}" for row, damage in zip(DAMAGED, DAMAGES, strict=True)]]
    else:
        sets = [[f"{change} {damage}"] for damage in DAMAGES]
    for statements in sets:
        with sqlite3.connect(paths.history, isolation_level=None) as database:
            for statement in statements:
                database.execute(statement)
        check(paths, capsys, has_policies=table != "policies")


def check(paths: Paths, capsys: pytest.CaptureFixture[str], *, has_policies: bool) -> None:
    """Run every view."""
    main(["history", "--json", "--no-dry-run"], paths)
    assert {row["id"] for row in json.loads(capsys.readouterr().out)["decisions"]} >= INTACT
    for arguments in (["history"], *(["show", str(number)] for number in DAMAGED)):
        main([*arguments, "--no-dry-run"], paths)
    page = paths.root / "page.html"
    main(["report", "--no-dry-run", "--since", "@500", "--until", "@2000", "-o", str(page)], paths)
    assert page.read_text().count("<details") >= len(INTACT) * has_policies
    unread: list[str] = []
    state, last = status._past(paths, unread)
    assert len(state.raise_seconds) >= 2
    assert last is not None
    revertible_raises(paths, 98304)
    with History(paths.history, mode="writer") as history:
        assert len(list(history.records(BOOT))) >= 2
        history.position()
        history.begins()
        history.find_fingerprint("x", BOOT)
        history.prune(2000.0, 1e6, 100)
    capsys.readouterr()


def test_a_damaged_row_is_named(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """`guard history` and `guard status` count what they leave out."""
    with sqlite3.connect(paths.history) as database:
        database.execute("UPDATE decisions SET at_seconds = 'text' WHERE id = 2")
    main(["history", "--no-dry-run"], paths)
    assert "1 damaged decisions are left out, by number: 2." in capsys.readouterr().err
    unread: list[str] = []
    status._past(paths, unread)
    assert unread == ["history: 1 damaged decisions are left out, by number: 2."]


@pytest.mark.parametrize(
    "place", ["decisions.boottime_seconds", "decisions.from_limit", "decisions.reason", "evidence.trigger"]
)
def test_a_damaged_change_of_another_program_is_named(paths: Paths, place: str) -> None:
    """The state is folded from the others."""
    table, column = place.split(".")
    with History(paths.history, mode="writer") as history:
        lowered = Hold(reason=HoldReason.LIMIT_LOWERED)
        number = add(history, a_record("change", lowered, trigger=TriggerKind.OTHER_WRITER))
        history._database.execute(f"UPDATE {table} SET {column} = x'ff00' WHERE id = ?", (number,))  # noqa: S608
        assert "change" not in [record.key for record in history.records(BOOT)]
        assert history.damage == f"1 damaged decisions are left out, by number: {number}."


def test_a_huge_count_does_not_hold_up_a_start(paths: Paths) -> None:
    """A state keeps 1,000 raises."""
    with sqlite3.connect(paths.history) as database:
        database.execute("UPDATE decisions SET repeats = 1 << 62 WHERE id = 2")
    with History(paths.history, mode="reader") as history:
        assert len(list(history.records(BOOT))) == 1000 + len(DAMAGED) + 1
