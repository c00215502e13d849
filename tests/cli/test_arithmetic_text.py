"""The calculation as shown can be redone by hand."""

from __future__ import annotations

from dataclasses import replace

from testbed.records import SUM

from conntrackd_guard.cli.render.arithmetic_text import calculation_lines
from conntrackd_guard.core.configuration import Policy, Share


def worked_out(text: str) -> tuple[float, int]:
    """Return both sides of a line such as `563 × 98,304 + 1,048,576 = 56,393,728 (53.8 MiB)`."""
    left, right = text.replace(",", "").replace("×", "*").replace("−", "-").split(" = ")
    return eval(left), int(right.split(" ")[0])  # noqa: S307 - a calculation from the line above


def test_the_lines_add_up() -> None:
    """Cost and new memory, computed from the line itself, equal the figure at its end and the decision's own."""
    lines = dict(calculation_lines(SUM, Policy()))
    assert worked_out(lines["cost"]) == (SUM.cost_bytes, SUM.cost_bytes)
    assert worked_out(lines["new memory"]) == (SUM.new_bytes, SUM.new_bytes)
    assert worked_out(lines["left available"]) == (20981551616, 20981551616)


def test_the_verdicts_show_which_bound_broke() -> None:
    """A mark shows whether budget and min_available held."""
    texts = [text for _, text in calculation_lines(SUM, Policy())]
    assert ("✓ cost ≤ budget" in texts, "✓ left ≥ min_available" in texts) == (True, True)

    texts = [text for _, text in calculation_lines(replace(SUM, budget_bytes=1), Policy(min_available=Share(bytes=5)))]
    assert "✗ the cost is over the budget" in texts
