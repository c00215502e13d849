"""`guard status --watch`: rates, sparklines and a picture that fits any terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from testbed.records import a_record, raised

from conntrackd_guard.actions import status
from conntrackd_guard.actions.status import Status, preview
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.cli.render.status_live import SPARK_SECONDS, LiveView, use_of, view
from conntrackd_guard.core import verification
from conntrackd_guard.core.budget import cost_of
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.model import Observation, State, Table
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.core.verification import End
from conntrackd_guard.history.rows import first_row
from conntrackd_guard.host.paths import Paths

NOW = 1_798_167_600.0
LIMIT = 65_536


def a_status(*tables: Table, at: float = 0.0) -> Status:
    """Return the status of a host with these tables."""
    seen = Observation(
        boottime_seconds=1000.0 + at,
        wall_seconds=NOW + at,
        boot_id="boot-1",
        limit=LIMIT,
        kernel_limit=LIMIT,
        tables=tables,
        buckets=LIMIT,
        memory_total_bytes=8 << 30,
        memory_available_bytes=5 << 30,
    )
    return Status(
        mode=Mode.ACT,
        holder=42,
        live={"pid": 42, "since": NOW, "mode": "act"},
        silent_seconds=0.0,
        other_runs=False,
        observation=seen,
        cost=cost_of(seen, Policy()),
        next_step=preview(seen, State(), Policy()),
        last=None,
        unread=(),
    )


def table(count: int, drop: int = 0, label: str = "web", namespace: int = 7, early_drop: int = 0) -> Table:
    """Return a table."""
    return Table(namespace=namespace, label=label, count=count, drop=drop, early_drop=early_drop)


def picture(found: Status, live_view: LiveView, width: int = 80, height: int = 24, rows: int = 3) -> list[str]:
    """Return the lines of one picture, with some decisions."""
    record = raised("r", tables=(table(LIMIT),))
    proof = verification.conclude(verification.begin(record, LIMIT, [table(LIMIT)]), End.WATCHED, 60.0)
    hostile = replace(a_record("h"), key="h")
    row = first_row(record, 3, policy=Policy(), sentence="Raised \x1b[2J" + 200 * "x", kernel_release="6.1")
    other = first_row(hostile, 2, policy=Policy(), sentence="Held", kernel_release="6.1")
    last = [replace(row, verification=proof), other, replace(row, verification=proof)][:rows]
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(view(found, live_view, last, console))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_rates_are_between_two_pictures() -> None:
    """Entries added minus entries removed, and drops with evictions, per second."""
    live_view = LiveView()
    live_view.add(a_status(table(1000, drop=5)))
    assert live_view.rates(table(1000)) is None
    live_view.add(a_status(table(1400, drop=25, early_drop=4), at=2.0))
    assert live_view.rates(table(1400, drop=25, early_drop=4)) == (200.0, 12.0)
    text = "\n".join(picture(a_status(table(1400, drop=25, early_drop=4), at=2.0), live_view))
    assert "+200" in text
    assert format_duration((LIMIT - 1400) / 200, parts=1) in text  # at 2 % the drops are no demand


def test_a_full_table_that_drops_is_full_now() -> None:
    """Its count does not change; the drops are the demand."""
    live_view = LiveView()
    live_view.add(a_status(table(LIMIT, drop=5)))
    full = a_status(table(LIMIT, drop=5000), at=2.0)
    live_view.add(full)
    line = next(line for line in picture(full, live_view) if line.startswith("web"))
    assert line.split()[-2:] == ["2,498", "now"]
    assert "████████ 100 %" in line


def test_the_sparkline_shows_the_last_minutes() -> None:
    """The highest use of each cell's time; cells without data are blank."""
    live_view = LiveView()
    for ago, use in [(290, 0.0), (100, 0.5), (95, 0.1), (1, 1.0)]:
        live_view.remember(7, NOW - ago, use)
    live_view.remember(7, NOW - SPARK_SECONDS - 1, 1.0)
    assert live_view.spark(7, NOW) == "▁     ▅  █"
    assert live_view.spark(8, NOW) == " " * 10


@pytest.mark.parametrize("limit", [0, 2**32 - 1])
def test_without_a_limit_no_table_is_full(limit: int) -> None:
    """Neither in the bar nor in the sparkline, which begins with points of the history."""
    found = a_status(table(50_000))
    found = replace(found, observation=replace(found.observation, limit=limit, kernel_limit=limit))
    live_view = LiveView()
    live_view.remember(7, NOW - 100, use_of(50_000, limit))
    live_view.add(found)
    assert live_view.spark(7, NOW) == "      ▁  ▁"
    line = next(line for line in picture(found, live_view) if line.startswith("web"))
    assert " 0 % " in line


@pytest.mark.parametrize(("width", "height"), [(40, 30), (80, 24), (80, 50), (120, 30), (200, 60)])
def test_a_picture_fits_the_terminal(width: int, height: int) -> None:
    """Hundreds of tables, hostile and wide names: no line is wider, no picture higher, no escape gets out."""
    names = ["\x1b[2J\x1b]0;owned\x07", "漢字" * 20, "x" * 300, "[red]markup[/red]", "\u202egnp"]
    tables = [table(60_000 - number, 2**31, names[number % 5], number) for number in range(300)]
    live_view = LiveView()
    live_view.add(a_status(*tables))
    found = a_status(*tables, at=2.0)
    live_view.add(found)
    lines = picture(replace(found, unread=("\x1b[31m" + 300 * "y",) * 9), live_view, width, height)
    assert len(lines) < height
    assert max(map(cell_len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert any("[red]markup" in line for line in lines) or height == 24
    assert lines[-1].startswith("Ctrl-C ends")


def test_problems_are_at_the_top() -> None:
    """Errors, a conflict and a pause are shown as by `guard status`; the rest needs no line."""
    live = {"pid": 42, "mode": "act", "conflict": True, "recorder": {"trouble": ["disk full"]}}
    quiet = a_status(table(100))
    lines = picture(replace(quiet, live={**live, "sources": {"journal": "following"}}), LiveView())
    assert "ACTION NEEDED: raising is off, another program" in lines[0]
    assert [line.split()[0] for line in lines[2:6]] == ["daemon", "action", "action", "limit"]
    assert "healthy; fullest table at 0 % of 65,536" in picture(quiet, LiveView())[0]


def test_drops_between_two_pictures_are_not_missed() -> None:
    """The two readings of a status are close together; drops before them count as well."""
    live_view = LiveView()
    live_view.add(a_status(table(60_000, drop=5)))
    found = a_status(table(60_000, drop=50), at=2.0)
    live_view.add(found)
    assert "PACKETS DROPPED: web (netns 7) at" in picture(found, live_view)[0]


def test_a_narrow_terminal_shows_which_table_drops() -> None:
    """At 40 columns, names, use, entries and drops remain."""
    live_view = LiveView()
    live_view.add(a_status(table(LIMIT, drop=5)))
    full = a_status(table(LIMIT, drop=5000), at=2.0)
    live_view.add(full)
    lines = picture(full, live_view, width=40)
    assert ["web", "100", "%", "65,536", "2,498"] in [line.split() for line in lines]


def test_it_takes_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe it ends with a hint at `--json`."""
    assert main(["status", "--watch", "--no-dry-run"], Paths(tmp_path)) == Exit.NO
    assert "--json" in capsys.readouterr().err


def test_a_terminal_that_can_not_redraw_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cursor movement each picture would be printed below the last."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(status, "gather", lambda _: pytest.fail("it redraws"))
    monkeypatch.setenv("TERM", "dumb")
    assert main(["status", "--watch", "--no-dry-run"], Paths(tmp_path)) == Exit.NO
