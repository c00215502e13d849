"""The kernel logs ten messages in a millisecond and then none for 5 s: the guard reads the tables meanwhile."""

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
"""The kernel's default."""
TRIALS = 3


def test_a_table_that_fills_again_without_a_message_is_raised_for(stage: Stage) -> None:
    """After a burst of messages the table fills up again; it is raised for although the kernel logs nothing.

    A message between the two raises would prove nothing, so such a trial is repeated.
    """
    stage.limit_guard.set_message_cost(WINDOW_SECONDS)
    stage.start(LINE_ONLY)
    for _ in range(TRIALS):
        first = raised_by_a_burst(stage)
        messages = stage.kernel.messages()
        stage.table.fill(first + 8 - stage.table.count())
        second = stage.raised(first)
        if stage.kernel.messages() == messages:
            break
    else:
        pytest.fail(f"the kernel logged a message between the raises in each of {TRIALS} trials")
    row = stage.decision(lambda row: row["verdict"] == "raise" and row["from"] == first, f"the raise from {first}")
    assert (row["trigger"], row["outcome"], row["to"]) == ("kernel_message", "applied", second)


def raised_by_a_burst(stage: Stage) -> int:
    """Fill the table and drop packets, so that this window allows no more messages; return the raised limit."""
    before = limit()
    stage.table.fill(before - stage.table.count())
    stage.table.overflow(20)
    while limit() == before:  # an earlier test may have used up the messages
        stage.table.overflow(20)
    return stage.raised(before)
