"""`guard history` and `guard show`: options, text and JSON."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from testbed.records import a_record, raised

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.cli.render.console import local
from conntrackd_guard.cli.render.decision_text import print_history
from conntrackd_guard.cli.render.detail_text import print_detail
from conntrackd_guard.core.codec import decode
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, Observation, Outcome, OutcomeKind, Override, OverrideKind, TriggerKind
from conntrackd_guard.history import details
from conntrackd_guard.history.database import History, Repeats
from conntrackd_guard.history.rows import COLUMNS
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings import files

FIELDS = {
    *("id", "at", "trigger", "verdict", "reason", "from", "to", "outcome", "mode", "namespace", "message"),
    *("repeats", "last_at", "arithmetic", "sentence", "verification"),
}


@pytest.fixture(autouse=True)
def settings_of_whoever_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings belong to root on a host, and here to whoever runs the tests."""
    monkeypatch.setattr(files, "_ROOT", os.geteuid())


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A host whose guard raised once, held twice, and was refused once."""
    paths = Paths(tmp_path)
    paths.state_folder.mkdir(parents=True)
    refused = replace(raised("c", wall_seconds=4000.0), outcome=Outcome(kind=OutcomeKind.REJECTED, errno=13))
    with History(paths.history, mode="writer") as history:
        for record in (a_record("a"), raised("b", wall_seconds=3000.0), refused):
            history.add(record, policy=Policy(), sentence=sentence(record, Policy()), kernel_release="6.1")
        history.count([Repeats(1, 1, 1500.0)])
    return paths


def test_history_is_one_json_document(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` is one versioned document with every promised field, newest first."""
    assert main(["history", "--json"], paths) is Exit.DONE
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == 1
    decisions = document["decisions"]
    assert [found["id"] for found in decisions] == [3, 2, 1]
    assert FIELDS - decisions[0].keys() == set()
    assert (decisions[1]["from"], decisions[1]["to"], decisions[1]["outcome"]) == (65536, 98304, "applied")
    assert (decisions[1]["at"], decisions[1]["reason"]) == ("1970-01-01T00:50:00.000Z", "kernel_message confirmed")
    assert (decisions[2]["repeats"], decisions[2]["reason"]) == (2, "at_ceiling")
    assert decisions[1]["arithmetic"]["bytes_per_entry"] == 563


def test_an_incident_has_a_heading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Decisions of one boot within ten minutes are one; a lone one, and messages from before a start, are none."""
    paths, past = Paths(tmp_path), Hold(reason=HoldReason.HISTORICAL)
    records = [
        a_record("past", past, wall_seconds=500.0),
        raised("first", limit_after=98_304, wall_seconds=1000.0),
        a_record("hold", wall_seconds=1090.0, limit=98_304),
        replace(raised("refused", wall_seconds=1100.0), outcome=Outcome(kind=OutcomeKind.REJECTED, errno=13)),
        raised("last", limit_after=147_456, wall_seconds=1690.0, limit=98_304),
        raised("later", limit_after=147_456, wall_seconds=9000.0),
        raised("rebooted", limit_after=98_304, wall_seconds=9100.0, boot_id="another"),
        a_record("then", wall_seconds=9200.0, boot_id="another"),
    ]
    with History(paths.history, mode="writer") as history:
        for record in records:
            history.add(record, policy=Policy(), sentence="why", kernel_release="6.1")
    assert main(["history"], paths) is Exit.DONE
    out = capsys.readouterr().out
    heads = [line.strip() for line in out.splitlines() if line.strip() != "why"]
    assert [head if head.startswith("Incident") else head.split(" ")[0] for head in heads] == [
        "ID",
        f"Incident of {local(9100.0)}, 1min 40s  1 raise (65,536 → 98,304), 1 hold",
        *("8", "7", ""),
        *("6", ""),
        f"Incident of {local(1000.0)}, 11min 30s  2 raises (65,536 → 147,456), 1 not carried out, 1 hold",
        *("5", "4", "3", "2", "1"),
    ]


def test_history_in_a_pipe_is_plain(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe a decision is two whole lines, without colour and never cut to a width."""
    assert main(["history"], paths) is Exit.DONE
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert len(lines) == 7
    assert lines[1].split()[0] == "3"
    assert lines[1].endswith("kernel: table full, rejected")
    assert lines[4].endswith("leave 19.5 GiB available.")
    assert "×2 until" in lines[5]


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["--last", "1"], [3]),
        (["--verdict", "hold"], [1]),
        (["--since", "@2000", "--until", "@3000"], [2]),
        (["--since", "@1400", "--until", "@1450"], [1]),
        (["--since", "-1h"], []),
    ],
)
def test_history_is_narrowed(
    paths: Paths, capsys: pytest.CaptureFixture[str], arguments: list[str], ids: list[int]
) -> None:
    """Every filter works; a repeated hold counts for the whole time it lasted."""
    assert main(["history", "--json", *arguments], paths) is Exit.DONE
    assert [found["id"] for found in json.loads(capsys.readouterr().out)["decisions"]] == ids


@pytest.mark.parametrize(
    "arguments",
    [["history", "--last", "0"], ["history", "--since", "soon"]],
)
def test_an_invalid_value_is_a_usage_error(
    paths: Paths, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """An impossible number or time ends with exit code 2 and a message about what was expected."""
    with pytest.raises(SystemExit) as ended:
        main(arguments, paths)
    assert ended.value.code == Exit.USAGE
    assert "expected a" in capsys.readouterr().err


def test_show_prints_the_whole_calculation(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """One decision is shown in full: inputs, calculation, result."""
    assert main(["show", "2"], paths) is Exit.DONE
    out = capsys.readouterr().out
    for text in (
        "message          table full  ×2",
        "web (netns 4026532316): 65,536",
        "563 × 98,304 + 1,048,576 = 56,393,728 (53.8 MiB)",
        "outcome          applied",
    ):
        assert text in out


def test_show_counts_the_small_tables_of_the_calculation(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The entries charged can be found again among the inputs."""
    crowd = raised("crowd", small_tables=4967, small_entries=49_670)
    with History(paths.history, mode="writer") as history:
        number = history.add(crowd, policy=Policy(), sentence="why", kernel_release="6.1")
    for row_id, shown in ((number, True), (2, False)):
        assert main(["show", str(row_id)], paths) is Exit.DONE
        out = capsys.readouterr().out
        assert ("small tables     4,967 tables with 49,670 entries together" in out) is shown


@pytest.mark.parametrize(("limit", "text"), [(0, "0 (unlimited)"), (2**32 - 1, "-1 (unlimited)")])
def test_no_limit_is_named(paths: Paths, capsys: pytest.CaptureFixture[str], limit: int, text: str) -> None:
    """The kernel's number for it would pass for a limit, in the list, in one decision and on the page."""
    record = replace(
        a_record("none", limit=limit, kernel_limit=limit, wall_seconds=5000.0),
        outcome=Outcome(kind=OutcomeKind.NONE, limit_after=limit),
    )
    with History(paths.history, mode="writer") as history:
        number = history.add(record, policy=Policy(), sentence="why", kernel_release="6.1")
    assert main(["history", "--last", "1"], paths) is Exit.DONE
    assert f"  {text} " in capsys.readouterr().out
    assert main(["show", str(number)], paths) is Exit.DONE
    out = capsys.readouterr().out
    assert re.search(rf"limit +{re.escape(text)}\n", out)
    assert f"the limit then read {text}" in out


def test_a_decision_is_found_by_its_key(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The drop-in was written before the row had a number: it names the key. An unknown key ends with exit code 3."""
    assert main(["show", "b"], paths) is Exit.DONE
    assert "65,536 → 98,304" in capsys.readouterr().out
    for unknown in ("x", "99", "1000000000000000000000", "\udcff"):
        assert main(["show", unknown], paths) is Exit.NO


def test_show_prints_how_often_a_hold_was_seen(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """A hold's count includes kernel messages, ten of which may be one decision: it is no count of decisions."""
    assert main(["show", "1"], paths) is Exit.DONE
    out = capsys.readouterr().out
    assert "repeats          seen 2 times, the last at " in out


def test_show_json_holds_the_evidence(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The document holds everything needed to decide again."""
    assert main(["show", "2", "--json"], paths) is Exit.DONE
    found = json.loads(capsys.readouterr().out)["decision"]
    assert decode(Observation, found["observation"]) == raised("b", wall_seconds=3000.0).observation
    assert decode(Policy, found["policy"]) == Policy()


def test_show_of_an_unknown_number_ends_with_3(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown number ends with exit code 3 and names the command that lists the known ones."""
    assert main(["show", "99"], paths) is Exit.NO
    assert "There is no decision 99. `guard history` lists" in capsys.readouterr().err


@pytest.mark.parametrize("width", [40, 60, 80, 81, 100, 120])
def test_no_date_is_broken_on_a_terminal(paths: Paths, width: int) -> None:
    """Whatever the width: neither the time of a head, nor that of a repeat, nor one in a sentence."""
    many = "".join(f"{word} until 2026-11-29 20:10:03, " for word in ("ab", "abcdefg", "abcdefghijkl", "x" * 17))
    with History(paths.history, mode="writer") as history:
        number = history.add(a_record("many"), policy=Policy(), sentence=many, kernel_release="6.1")
        history.count([Repeats(number, 123_456, 1500.0)])
        rows = list(history.rows())
        shown = details.detail(history, number)
    assert shown is not None
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None)
    print_history(console, rows)
    print_detail(console, shown)
    lines = stream.getvalue().splitlines()
    dates = re.findall(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}", stream.getvalue())
    assert len(re.findall("[0-9]{4}-[0-9]{2}-[0-9]{2}", stream.getvalue())) == len(dates) > len(rows) + 8
    of_dates = [line for line in lines if re.search(r"[0-9]{4}-[0-9]{2}-[0-9]{2} ", line)]
    heads = {line for line in of_dates if re.match(" *[0-9]+  [0-9]{4}-", line)}
    assert max(len(line.rstrip()) for line in of_dates if line not in heads) <= width
    assert all(len(line.rstrip()) <= width for line in heads if "×" in line)


@pytest.mark.parametrize(
    ("login", "shown"), [(None, "pause by root: tests"), (1000, "pause by root (logged in as uid 1000): tests")]
)
def test_an_override_names_who_is_known(
    paths: Paths, capsys: pytest.CaptureFixture[str], login: int | None, shown: str
) -> None:
    """A login that the kernel doesn't know is not printed as None."""
    order = Override(kind=OverrideKind.PAUSE, reason="tests", uid=0, user="root", login_uid=login)
    record = a_record("order", order, trigger=TriggerKind.OVERRIDE)
    with History(paths.history, mode="writer") as history:
        number = history.add(record, policy=Policy(), sentence="why", kernel_release="6.1")
    assert main(["show", str(number)], paths) is Exit.DONE
    assert f"override         {shown}\n" in capsys.readouterr().out


def test_without_a_history_show_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That there is no decision of that number follows from it."""
    assert main(["show", "1"], Paths(tmp_path)) is Exit.NO
    assert capsys.readouterr().err.count("\n") == 1


def test_a_reader_after_a_dry_run_learns_where_to_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first thing that people try is a dry run, and its history is another one. An empty one has no match to miss."""
    dry = Paths(tmp_path, Mode.DRY_RUN)
    History(dry.history, mode="writer").close()
    assert main(["show", "1"], Paths(tmp_path)) is Exit.NO
    assert capsys.readouterr().err.endswith(" does not exist. That of mode dry-run does: --dry-run shows it.\n")
    assert main(["history", "--dry-run"], Paths(tmp_path)) is Exit.DONE
    assert capsys.readouterr().err == "guard: No decision has been recorded yet.\n"
    assert main(["history", "--dry-run", "--verdict", "hold"], Paths(tmp_path)) is Exit.DONE
    assert capsys.readouterr().err == "guard: No decision matches.\n"


def test_a_fresh_host_has_no_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first run history is empty, with a note on stderr and exit code 0."""
    assert main(["history", "--json"], Paths(tmp_path)) is Exit.DONE
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"version": 1, "decisions": []}
    assert "No decision has been recorded yet" in printed.err


@pytest.mark.parametrize(
    ("settings", "arguments", "found"),
    [
        ("", [], "Not raised"),
        ("", ["--dry-run"], "rehearsed"),
        ("mode: dry-run", [], "rehearsed"),
        ("mode: dry-run", ["--no-dry-run"], "Not raised"),
        ("mode: sleep", [], "Not raised"),
    ],
)
def test_the_dry_run_has_its_own_history(
    paths: Paths, capsys: pytest.CaptureFixture[str], settings: str, arguments: list[str], found: str
) -> None:
    """`mode` in the settings selects the history, unless the command line does; with bad settings the real one is shown."""
    with History(Paths(paths.root, Mode.DRY_RUN).history, mode="writer") as history:
        history.add(a_record("dry"), policy=Policy(), sentence="rehearsed", kernel_release="6.1")
    paths.settings_file.parent.mkdir(parents=True)
    paths.settings_file.write_text(settings + "\n")
    for command in (["history"], ["show", "1"]):
        assert main([*command, *arguments], paths) is Exit.DONE
        out = capsys.readouterr().out
        assert [word for word in ("Not raised", "rehearsed") if word in out] == [found]


def test_no_column_reaches_the_terminal_raw(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever can write the file, or damage it, must not clear the reader's screen."""
    text = "\x1b[2J\u202e"
    with closing(sqlite3.connect(paths.history)) as database:
        for column in COLUMNS:
            change = f"UPDATE decisions SET {column} = ? WHERE id = 2 AND typeof({column}) = 'text'"  # noqa: S608 - constants
            with suppress(sqlite3.IntegrityError):
                database.execute(change, (text,))
        for verdict in ("hold", "raise", "override"):
            database.execute("UPDATE decisions SET verdict = ? WHERE id = 3", (verdict,))
            database.commit()
            for arguments in (["history"], ["history", "--json"], ["show", "3"], ["show", "2"], ["show", text]):
                main([*arguments, "--no-dry-run"], paths)
                printed = capsys.readouterr()
                assert "\x1b" not in printed.out + printed.err
                assert "\u202e" not in printed.out + printed.err


@pytest.mark.parametrize("arguments", [["top", "--namespace", "\x1b[2J"], ["\x1b[2J"], ["show", "1", "\x1b[2J"]])
def test_no_argument_reaches_the_terminal_raw(
    paths: Paths, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A script may pass on words of others."""
    with suppress(SystemExit):
        main(arguments, paths)
    assert "\x1b" not in capsys.readouterr().err


def test_a_reason_has_a_length(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """It is in every log message while raising is paused."""
    with pytest.raises(SystemExit):
        main(["pause", "--reason", "x" * 201], paths)
    assert "argument --reason: expected up to 200 characters, found 201" in capsys.readouterr().err
