"""The kernel logs ten lines in a millisecond and then none for 5 s: meanwhile the guard asks the tables."""

from __future__ import annotations

import pytest
from testbed.stage import Stage, limit

pytestmark = pytest.mark.live

LINE_ONLY = {
    "raise_early": False,
    "conflict_limit": 0,
    "MIN_STEP": 256,
    "LOOKAHEAD_SECONDS": 0,
    "cooldown": "50ms",
}
WINDOW_SECONDS = 5
"""What kernels come with."""
TRIALS = 3


def test_a_table_that_fills_again_in_silence_is_raised_for(stage: Stage) -> None:
    """After a burst of lines the table fills up anew; it is raised for although the kernel logs nothing about it.

    A line between the two raises would prove nothing, so the kernel's own lines are counted and such a trial is left out.
    """
    stage.keeper.set_message_cost(WINDOW_SECONDS)
    stage.start(LINE_ONLY)
    for _ in range(TRIALS):
        first = raised_by_a_burst(stage)
        lines = stage.kernel.lines()
        stage.table.fill(first + 8 - stage.table.count())
        second = stage.raised(first)
        if stage.kernel.lines() == lines:
            break
    else:
        pytest.fail(f"the kernel logged a line between the raises in each of {TRIALS} trials")
    row = stage.decision(lambda row: row["verdict"] == "raise" and row["from"] == first, f"the raise from {first}")
    assert (row["trigger"], row["outcome"], row["to"]) == ("kernel_message", "applied", second)


def raised_by_a_burst(stage: Stage) -> int:
    """Fill the table and drop packets, so that the lines of this window are spent; return the raised limit."""
    before = limit()
    stage.table.fill(before - stage.table.count())
    stage.table.overflow(20)
    while limit() == before:  # a test before this one may have spent the lines
        stage.table.overflow(20)
    return stage.raised(before)
