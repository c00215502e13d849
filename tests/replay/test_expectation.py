"""A policy as a test: the shipped examples hold, a policy that breaks one is named, and bad files end in clear lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import SettingsError
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.replay.expectation import check, read_cases

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "config/replay").glob("*.yaml"))
CASE = """
cases:
  - name: one
    host: {memory: 1GiB, available: 1GiB, limit: 65536}
    series: [{at: 0s, entries: 1}, {at: 60s, entries: 2}]
    expect: {raises: 0}
"""


def test_there_are_three_examples() -> None:
    """As the documentation says."""
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_hold(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under the default settings and their own."""
    assert main(["replay", "--expect", str(example)], Paths()) is Exit.DONE
    assert "✓" in capsys.readouterr().out


def test_a_policy_that_breaks_an_example_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what was expected and what was found; exit code 3."""
    settings = tmp_path / "guard.yaml"
    settings.write_text("max_limit: 262144\n", "utf-8")
    settings.chmod(0o644)
    arguments = ["replay", "--expect", str(EXAMPLES[1]), "--config", str(settings)]
    assert main(arguments, Paths()) is Exit.NO
    out = capsys.readouterr().out
    assert "✗ a slow ramp is raised for once" in out
    assert "raises: expected 1, found 0" in out
    assert "✓ a quiet host is left alone" in out


def test_every_field_can_be_expected(tmp_path: Path) -> None:
    """Each one is compared with the row."""
    file = tmp_path / "case.yaml"
    fields = {
        **dict.fromkeys(("raises", "episodes", "messages"), "7"),
        **dict.fromkeys(("highest_limit", "allowed_limit", "dropped", "saved"), '">= 7000000"'),
        "targets": "[7]",
        "holds": "[flood]",
    }
    expected = ", ".join(f"{name}: {value}" for name, value in fields.items())
    file.write_text(CASE.replace("raises: 0", expected), "utf-8")
    (case,) = read_cases(file, Policy())
    assert {one.field for one in check(case)[1]} == fields.keys()


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("cases:", "case:", "unknown key case"),
        ("limit: 65536", "limit: many", "host, limit: found 'many'"),
        (", limit: 65536", "", "expected `limit`"),
        ("available: 1GiB, ", "", "expected `available`"),
        ("{at: 60s, entries: 2}", "{at: 0s, entries: 2}", "times that rise"),
        ("{at: 60s, entries: 2}", "{at: 60s}", "expected `at` and `entries`"),
        (
            "name: one",
            "messages: [{at: 30s}, {at: 61s}]\n    name: one",
            "messages: found one after the last of `series`",
        ),
        ("{at: 60s, entries: 2}", "[2]", "key: value"),
        ("{raises: 0}", "{}", "found nothing"),
        ("{raises: 0}", "{rises: 0}", "unknown key rises"),
        ("{raises: 0}", '{raises: "<= x"}', "expect, raises"),
        ("name: one", "name: []", "found no name"),
        ("name: one", "settings: {treshold: 1}\n    name: one", "threshold"),
        ("name: one", "settings: []\n    name: one", "settings: expected lines"),
        ("name: one", 'name: one\n    "\\e[2J": 1', "unknown key \\x1b[2J"),
        ("cases:", "cases: [", "invalid YAML"),
        ("cases:", "x" * (1 << 20), "more than 1 MiB"),
    ],
)
def test_a_bad_file_ends_in_a_clear_line(old: str, new: str, found: str, tmp_path: Path) -> None:
    """Which names the file and the case, and is safe to print."""
    file = tmp_path / "case.yaml"
    file.write_text(CASE.replace(old, new, 1), "utf-8")
    with pytest.raises(SettingsError) as error:
        read_cases(file, None)
    assert found in str(error.value)
    assert str(file) in str(error.value)
    assert "\x1b" not in str(error.value)
