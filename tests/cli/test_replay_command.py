"""`guard replay`: options, text, JSON, CSV, exit codes, and sources that are none."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.replay.lines import Answer as ReplayAnswer
from conntrackd_guard.replay.lines import Job, written
from conntrackd_guard.replay.model import Difference, Exact, Grade, HostResult, Span
from conntrackd_guard.replay.sources import named
from conntrackd_guard.replay.sources.history import is_history

ESCAPE = "\x1b[2J"


@pytest.fixture
def history(host: Host) -> Path:
    """Give the history of a guard that raised once."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.stop()
    return guarded.paths.history


def run(*arguments: str) -> Exit:
    """Run the command on this host."""
    return main(["replay", *arguments], Paths())


def settings(folder: Path, text: str) -> str:
    """Write a settings file and return its name."""
    file = folder / "try.yaml"
    file.write_text(text, "utf-8")
    file.chmod(0o644)
    return str(file)


def test_text_names_the_host_and_the_sums(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row, then the totals of its grade."""
    assert run(str(history)) is Exit.DONE
    text = capsys.readouterr().out
    assert str(history) in text
    assert "1, of which 1 get the recorded verdict and 0 another" in text
    assert "raises           1, limit 65,536 → 98,304" in text
    assert "Total: recorded decisions, decided again" in text


def test_json_lines_of_two_runs_merge(history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What two machines worked out is one answer; a host that both have counts once."""
    results = tmp_path / "results"
    assert run(str(history), "--json") is Exit.DONE
    results.write_text(capsys.readouterr().out, "ascii")
    assert run("--merge", "--json", str(results), str(results)) is Exit.DONE
    out = capsys.readouterr().out
    assert out == results.read_text("ascii")
    head, *rows, totals = map(json.loads, out.splitlines())
    assert head["version"] == 1
    assert [row["answer"]["host"]["grade"] for row in rows] == sorted({row["answer"]["host"]["grade"] for row in rows})
    assert totals["totals"]["exact"]["raises"] == 1


def test_parts_of_a_comparison_merge(history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hosts on which the two policies agree count in the totals of the whole."""
    same = settings(tmp_path, "threshold: 80%\n")
    other = tmp_path / "other.db"
    shutil.copy(history, other)
    arguments = ("--config", same, "--against", same, "--json")
    parts = []
    for number, file in enumerate((history, other)):
        assert run(str(file), *arguments) is Exit.DONE
        parts.append(tmp_path / f"part-{number}")
        parts[-1].write_text(capsys.readouterr().out, "ascii")
    assert run(str(history), str(other), *arguments) is Exit.DONE
    whole = capsys.readouterr().out
    assert run("--merge", "--json", *map(str, parts)) is Exit.DONE
    merged = capsys.readouterr().out
    assert sorted(merged.splitlines()) == sorted(whole.splitlines())
    assert json.loads(merged.splitlines()[-1])["totals"]["exact"]["hosts"] == 2


def test_csv_has_a_row_for_each_host(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the fields of a row by name."""
    assert run(str(history), "--csv") is Exit.DONE
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert (rows[0]["host"], rows[0]["grade"], rows[0]["raises"]) == (str(history), "exact", "1")


def test_two_policies_that_differ_exit_with_no(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal ones succeed; of different ones only what differs is shown."""
    same, other = settings(tmp_path, "threshold: 80%\n"), tmp_path / "other"
    other.mkdir()
    assert run(str(history), "--config", same, "--against", same) is Exit.DONE
    assert "The policies differ on 0 of" in capsys.readouterr().out
    ceiling = settings(other, f"max_limit: {LIMIT}\n")
    assert run(str(history), "--config", same, "--against", ceiling) is Exit.NO
    text = capsys.readouterr().out
    assert "against: none, limit up to 65,536" in text


@pytest.mark.parametrize("content", [b"", b"garbage", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_history_ends_in_a_clear_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its name is escaped, whatever it is made of."""
    file = tmp_path / f"bad{ESCAPE}.db"
    file.write_bytes(content)
    code = run(str(file))
    out, err = capsys.readouterr()
    assert ESCAPE not in out + err
    assert "bad\\x1b[2J.db" in out + err
    if content.startswith(b"SQLite"):
        assert code is Exit.DONE
        assert "Skipped: 1" in out
    else:
        assert code is Exit.FAILED
    assert "Traceback" not in out + err


def test_one_file_that_cannot_be_read_is_skipped(
    history: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named; the others of its folder are replayed."""
    (bad := history.parent / "bad.db").write_bytes(b"")

    def look(path: Path) -> bool:
        if path == bad:
            raise PermissionError(13, "Permission denied")
        return is_history(path)

    monkeypatch.setattr(named, "is_history", look)
    assert run(str(history.parent)) is Exit.DONE
    out = capsys.readouterr().out
    assert "1, of which 1 get the recorded verdict and 0 another" in out
    assert f"{bad}: Can't read it: Permission denied." in out


def test_results_of_others_move_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does an impossible time in them end the view."""
    difference = Difference(row=1, at=1e30, recorded=f"{ESCAPE}hold x", replayed="raise to 1\u202e")
    exact = Exact(rows=1, different=1, other_versions={}, differences=(difference,))
    row = HostResult(name="h", grade=Grade.EXACT, causes={}, holds={}, since=1e9, until=1e30, exact=exact)
    file = tmp_path / "results"
    head = Job(policy=Policy(), span=Span()).head()
    file.write_text(head + written("u", ReplayAnswer(host=row)), "ascii")
    assert run("--merge", str(file)) is Exit.DONE
    out = capsys.readouterr().out
    assert "#1 at @1000000000000000019884624838656: \\x1b[2Jhold x → raise to 1\\u202e" in out
    assert ESCAPE not in out
    assert "\u202e" not in out
    assert run("--merge", "--csv", str(file)) is Exit.DONE
    assert run("--merge", "-o", str(tmp_path / "page.html"), str(file)) is Exit.DONE


@pytest.mark.parametrize("text", ["", "[]\n", '{"job": 1', "\x00\n", '{"answer": {"host": {}}}\n', "[" * 100_000])
def test_hostile_results_end_in_a_clear_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a file that is none of ours, or that somebody altered."""
    file = tmp_path / "results"
    file.write_text(text, "utf-8")
    assert run("--merge", str(file)) is Exit.FAILED
    assert str(file) in capsys.readouterr().err


def test_the_page_escapes_what_others_named(host: Host, tmp_path: Path) -> None:
    """No name of a file, and no note, becomes an element or moves the cursor; a chart shows the limit replayed."""
    guarded = Guarded(host)
    for count in range(0, LIMIT, 400):
        host.table(count)
        guarded.turn(0.25)
    guarded.stop()
    file, output = tmp_path / f"<script>x{ESCAPE}.db", tmp_path / "page.html"
    guarded.paths.history.rename(file)
    bad = tmp_path / "<img src=x>.db"
    bad.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    assert run(str(file), str(bad), "-o", str(output)) is Exit.DONE
    page = output.read_text("utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;x\\x1b[2J.db" in page
    assert "limit replayed" in page
    assert "Skipped: 1" in page
