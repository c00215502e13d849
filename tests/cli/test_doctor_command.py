"""`guard doctor`: text, JSON and exit code."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from conntrackd_guard.cli.commands.doctor import document
from conntrackd_guard.cli.main import main
from conntrackd_guard.cli.render.doctor_text import print_examination
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.doctor.checks import Examination
from conntrackd_guard.doctor.verdicts import Check, Verdict
from conntrackd_guard.host.paths import Paths

GOOD = Check(name="conntrack", verdict=Verdict.GOOD, evidence="limit 65,536")
NOTE = Check(name="pause", verdict=Verdict.NOTE, evidence="paused", next_step="`guard resume` ends it.")
UNKNOWN = Check(name="ring_buffer", verdict=Verdict.UNKNOWN, evidence="not permitted", next_step="Run this as root.")
WRONG = Check(
    name="sysctl_system",
    verdict=Verdict.WRONG,
    evidence="/etc/sysctl.d/\x1b[2J99-zzz.conf:1 sets 9, which comes after 98,304 in /etc/sysctl.d/99-zz-guard.conf",
    next_step="Take line 1 out.",
)


def examination(*checks: Check) -> Examination:
    """Return an examination with these checks."""
    return Examination(at_seconds=0.0, mode=Mode.ACT, checks=checks)


def test_only_failed_checks_count() -> None:
    """Notes and unknown checks don't count as failed."""
    assert not examination(GOOD, NOTE, UNKNOWN).wrong
    assert examination(GOOD, WRONG).wrong


def test_a_pipe_gets_a_line_for_each_text(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a check, its next step below, the count last; no control characters."""
    print_examination(Console(), examination(GOOD, UNKNOWN, WRONG))
    evidence = WRONG.evidence.replace("\x1b", r"\x1b")
    assert capsys.readouterr().out.splitlines() == [
        "good     conntrack              limit 65,536",
        "unknown  ring buffer            not permitted",
        "                                → Run this as root.",
        f"FAIL     sysctl --system        {evidence}",
        "                                → Take line 1 out.",
        "1 good, 1 FAIL, 1 unknown.",
    ]


def test_a_terminal_of_80_columns_gets_wrapped_text() -> None:
    """Evidence wraps beside its name; no line is longer than the terminal, and nothing is cut."""
    stream = io.StringIO()
    print_examination(Console(file=stream, force_terminal=True, width=80, color_system=None), examination(WRONG))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(line[32:].strip() for line in lines[:-2]).replace(" ", "") == "".join(
        WRONG.evidence.replace("\x1b", r"\x1b").split()
    )


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the verdict has a colour; with NO_COLOR it has none."""
    for name, value in {"TERM": "xterm-256color", "COLORTERM": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    seen = []
    for _ in range(2):
        stream = io.StringIO()
        print_examination(Console(file=stream, force_terminal=True, width=80), examination(WRONG))
        seen.append("\x1b[1;31mFAIL" in stream.getvalue())
        monkeypatch.setenv("NO_COLOR", "1")
    assert seen == [True, False]


def test_the_document_is_complete() -> None:
    """Every check with its four fields, and whether any failed."""
    found = json.loads(json.dumps(document(examination(GOOD, WRONG))))
    assert (found["at"], found["mode"], found["wrong"]) == ("1970-01-01T00:00:00.000Z", "act", True)
    assert found["checks"][0] == {"name": "conntrack", "verdict": "good", "evidence": "limit 65,536", "next_step": ""}


def test_the_exit_code_is_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a host without a guard the exit code is 3; `--json` is one versioned document with as many checks."""
    assert main(["doctor"], Paths(tmp_path)) == 3
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert main(["doctor", "--json"], Paths(tmp_path)) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["wrong"], len(found["checks"])) == (1, True, len(lines) - 1)
