"""The calculation as shown can be redone by hand."""

from __future__ import annotations

from dataclasses import replace

from testbed.printed_sums import false_lines
from testbed.records import RAISE, SUM, a_record

from conntrackd_guard.cli.render.arithmetic_text import calculations
from conntrackd_guard.core.configuration import Policy, Share


def worked_out(text: str) -> tuple[float, int]:
    """Return both sides of a line such as `563 × 98,304 + 1,048,576 = 56,393,728 (53.8 MiB)`."""
    left, right = text.replace(",", "").replace("×", "*").replace("−", "-").split(" = ")
    return eval(left), int(right.split(" ")[0])  # noqa: S307 - a calculation from the line above


def lines(policy: Policy, **changed: object) -> list[tuple[str, str]]:
    """Return the lines of a raise whose arithmetic differs from SUM in these fields."""
    arithmetic = replace(SUM, **changed)  # type: ignore[arg-type]
    ((_, found),) = calculations(a_record("k", replace(RAISE, arithmetic=arithmetic)), policy)
    return found


def test_the_lines_add_up() -> None:
    """Cost and new memory, computed from the line itself, equal the figure at its end and the decision's own."""
    found = dict(lines(Policy()))
    assert worked_out(found["cost"]) == (SUM.cost_bytes, SUM.cost_bytes)
    assert worked_out(found["new memory"]) == (SUM.new_bytes, SUM.new_bytes)
    assert worked_out(found["left available"]) == (20981551616, 20981551616)


def test_the_verdicts_show_which_bound_broke() -> None:
    """A mark shows whether budget and min_available held, with the figures compared."""
    texts = [text for _, text in lines(Policy())]
    assert "✓ cost 56,393,728 ≤ budget 2,500,000,000" in texts
    assert "✓ min_available 1,200,000,000 ≤ left 20,981,551,616" in texts

    texts = [text for _, text in lines(Policy(min_available=Share(bytes=5)), budget_bytes=1)]
    assert "✗ cost 56,393,728 > budget 1" in texts


def test_the_parts_of_the_memory_are_shown() -> None:
    """Tables that can't be read, ZFS' cache and low memory have a line each, only where there are any."""
    plain = [text for _, text in lines(Policy())]
    found = lines(Policy(), unread_tables=1, memory_zfs_bytes=7_000_000_000, memory_is_low=True)
    texts = [text for _, text in found]
    assert [text for text in texts if text not in plain] == [
        "1 of the full tables can't be read",
        "low memory only: a 32-bit kernel keeps entries there",
        "14,000,000,000 + 7,000,000,000 of ZFS' cache above its minimum = 21,000,000,000 (19.6 GiB)",
    ]
    assert [text for text in plain if text not in texts] == []
    assert false_lines([line for line in found if line[0] == "available"]) == []
