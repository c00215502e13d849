"""Replay one host: the grade of its evidence decides how."""

from dataclasses import replace
from typing import assert_never

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.replay.asked import ask
from conntrackd_guard.replay.exact import redecide
from conntrackd_guard.replay.model import Grade, HostInput, HostResult
from conntrackd_guard.replay.simulation import simulate


def replay(host: HostInput, policy: Policy, *, recorded: bool = False) -> HostResult:
    """Return the row of one host under `policy`; `recorded`: recorded decisions each under the policy of their time."""
    match host.grade:
        case Grade.EXACT:
            return redecide(host, [None if recorded else policy])[0]
        case Grade.SIMULATED:
            return simulate(host, policy)
        case Grade.ASKED_ONLY:
            return ask(host, policy)
        case other:
            assert_never(other)


def compare(
    host: HostInput, policy: Policy, against: Policy, *, recorded: bool = False
) -> tuple[HostResult, HostResult]:
    """Return the rows of one host under two policies; its evidence is read once.

    A history may have more decisions than memory has room for, so both decide each in turn.
    """
    if host.grade is Grade.EXACT:
        row, other = redecide(host, [None if recorded else policy, against])
        return row, other
    kept = replace(host, samples=tuple(host.samples), messages=tuple(host.messages))
    return replay(kept, policy), replay(kept, against)
