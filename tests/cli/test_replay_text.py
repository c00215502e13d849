"""`guard replay` for people: what differs between two policies."""

from __future__ import annotations

from typing import Any

import pytest

from conntrackd_guard.cli.render.console import local
from conntrackd_guard.cli.render.replay_text import host_lines, total_lines
from conntrackd_guard.replay.lines import Answer
from conntrackd_guard.replay.model import Exact, Grade, HostResult, Step
from conntrackd_guard.replay.summary import summarize


def row(**found: Any) -> HostResult:
    """Return a row of a host."""
    return HostResult(**{"name": "h", "grade": Grade.SIMULATED, "causes": {}, "holds": {}} | found)


@pytest.mark.parametrize(
    ("one", "other", "line"),
    [
        (
            {"actions": ("add memory", "set max_limit")},
            {"actions": ("stop the flood", "set max_limit")},
            ("to do", "add memory; set max_limit | against: stop the flood; set max_limit"),
        ),
        (
            {"notes": ("a", "c")},
            {"notes": ("b", "c")},
            ("note", "a; c | against: b; c"),
        ),
        (
            {"steps": (Step(at=1.0, before=10, target=20, cause="c"), Step(at=3.0, before=20, target=40, cause="c"))},
            {"steps": (Step(at=2.0, before=10, target=20, cause="c"), Step(at=3.0, before=20, target=40, cause="c"))},
            ("steps", f"10 → 20 at {local(1.0)} | against: 10 → 20 at {local(2.0)}"),
        ),
        (
            {"causes": {"filling_up": 1}},
            {"causes": {"kernel_message": 1}},
            ("details", "differ in what --json has alone"),
        ),
    ],
)
def test_every_difference_has_a_line(one: dict[str, Any], other: dict[str, Any], line: tuple[str, str]) -> None:
    """A host is named because its policies differ, so the text shows in what."""
    assert list(host_lines(Answer(host=row(**one), against=row(**other)))) == [line]


def test_the_decisions_of_all_hosts_add_up() -> None:
    """Overrides, which no policy decides, are among them."""
    exact = Exact(rows=4, same=1, overrides=2, unreadable=1, other_versions={})
    hosts = [Answer(host=row(grade=Grade.EXACT, exact=exact)) for _ in range(2)]
    total = summarize(hosts, compared=False).totals[Grade.EXACT]
    assert dict(total_lines(total))["decisions"] == (
        "8, of which 2 get the recorded verdict and 0 another; 4 overrides; 2 unreadable"
    )
