"""`guard history` and `guard show`, as typed and as read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.records import a_record, raised

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.codec import decode
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.model import Observation, Outcome, OutcomeKind
from conntrackd_guard.history.database import History
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
        history.merge(1, 1, 1500.0)
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


def test_history_in_a_pipe_is_plain(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe a decision is two whole lines, without colour and never cut to a width."""
    assert main(["history"], paths) is Exit.DONE
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert len(lines) == 7
    assert lines[1].split()[0] == "3"
    assert lines[1].endswith("kernel_message, rejected")
    assert lines[4].endswith("leaves 19.5 GiB available.")
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
    """Every filter leaves what it says; a repeated hold counts for the whole time it lasted."""
    assert main(["history", "--json", *arguments], paths) is Exit.DONE
    assert [found["id"] for found in json.loads(capsys.readouterr().out)["decisions"]] == ids


@pytest.mark.parametrize(
    "arguments",
    [["history", "--last", "0"], ["history", "--since", "soon"]],
)
def test_what_makes_no_sense_is_usage(paths: Paths, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """A number or a time that can't be meant ends with 2 and says what was expected."""
    with pytest.raises(SystemExit) as ended:
        main(arguments, paths)
    assert ended.value.code == Exit.USAGE
    assert "expected a" in capsys.readouterr().err


def test_show_tells_the_whole_sum(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """One decision is told in full: what was seen, the sum, what came of it."""
    assert main(["show", "2"], paths) is Exit.DONE
    out = capsys.readouterr().out
    for text in (
        "kernel said      table full  ×2",
        "web (netns 4026532316): 65,536",
        "563 × 98,304 + 1,048,576 = 56,393,728 (53.8 MiB)",
        "outcome          applied",
    ):
        assert text in out


def test_show_says_how_many_small_tables_a_sum_stands_for(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The entries charged can be found again among what was seen."""
    crowd = raised("crowd", small_tables=4967, small_entries=49_670)
    with History(paths.history, mode="writer") as history:
        number = history.add(crowd, policy=Policy(), sentence="why", kernel_release="6.1")
    for row_id, told in ((number, True), (2, False)):
        assert main(["show", str(row_id)], paths) is Exit.DONE
        out = capsys.readouterr().out
        assert ("small ones       4,967 tables hold 49,670 entries together" in out) is told


def test_a_decision_is_found_by_its_key(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The drop-in was written before the row had a number: it names the key. What nobody knows is answered with no."""
    assert main(["show", "b"], paths) is Exit.DONE
    assert "65,536 → 98,304" in capsys.readouterr().out
    for unknown in ("x", "99", "1000000000000000000000"):
        assert main(["show", unknown], paths) is Exit.NO


def test_show_says_what_was_counted(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """A hold's count is of kernel lines too, ten of which may be one decision: it is not told as so many decisions."""
    assert main(["show", "1"], paths) is Exit.DONE
    out = capsys.readouterr().out
    assert "repeats          2 in all: kernel lines, and decisions without a new line; last at " in out


def test_show_json_holds_the_evidence(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """A program gets all that is needed to decide again."""
    assert main(["show", "2", "--json"], paths) is Exit.DONE
    found = json.loads(capsys.readouterr().out)["decision"]
    assert decode(Observation, found["observation"]) == raised("b", wall_seconds=3000.0).observation
    assert decode(Policy, found["policy"]) == Policy()


def test_show_of_nothing_is_no(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """A number that no decision has is answered with 3 and the way to those there are."""
    assert main(["show", "99"], paths) is Exit.NO
    assert "There is no decision 99. `guard history` lists" in capsys.readouterr().err


def test_a_fresh_host_has_no_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first run, history is empty and says so: that is no failure."""
    assert main(["history", "--json"], Paths(tmp_path)) is Exit.DONE
    told = capsys.readouterr()
    assert json.loads(told.out) == {"version": 1, "decisions": []}
    assert "No decision has been recorded yet" in told.err


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
def test_the_dry_run_has_its_own(
    paths: Paths, capsys: pytest.CaptureFixture[str], settings: str, arguments: list[str], found: str
) -> None:
    """`mode` in the settings says which of the two is looked at, unless the command line does; bad settings: the real one."""
    with History(Paths(paths.root, Mode.DRY_RUN).history, mode="writer") as history:
        history.add(a_record("dry"), policy=Policy(), sentence="rehearsed", kernel_release="6.1")
    paths.settings_file.parent.mkdir(parents=True)
    paths.settings_file.write_text(settings + "\n")
    for command in (["history"], ["show", "1"]):
        assert main([*command, *arguments], paths) is Exit.DONE
        out = capsys.readouterr().out
        assert [word for word in ("Not raised", "rehearsed") if word in out] == [found]
