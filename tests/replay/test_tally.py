"""What one host's replay counts."""

from __future__ import annotations

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.replay.model import Grade, HostFacts, HostInput
from conntrackd_guard.replay.tally import Tally


def test_an_impossible_time_is_no_part_of_the_span() -> None:
    """A history of anybody may have one."""
    tally = Tally(HostInput(name="h", grade=Grade.EXACT, facts=HostFacts()), Policy())
    for at in (1e30, -1.0, float("nan"), float("inf")):
        tally.at(at)
    assert tally.result().since is None
    tally.at(1e9)
    assert (tally.result().since, tally.result().until) == (1e9, 1e9)
