"""Does a flood fill what is raised for? For the setting `on_flood`. Pure."""

from __future__ import annotations

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import State, Table

SAMPLE_SECONDS = 30.0
"""What a sample tells holds for this long, and so does one plain step without a sample."""


def raised_for(needy: tuple[Table, ...], policy: Policy) -> tuple[Table, ...]:
    """Return the tables whose need counts."""
    return tuple(table for table in needy if policy.trust_user_namespaces or not table.user_owned)


def flooded(needy: tuple[Table, ...], policy: Policy) -> bool | None:
    """Return whether a flood fills all that is raised for; None where that matters and no sample tells."""
    told = {table.flooded for table in raised_for(needy, policy)}
    if not policy.on_flood.restricts or not told or False in told:
        return False
    return None if None in told else True


def may_step_plainly(state: State, now: float) -> bool:
    """Return whether a step may be made without a sample: one is taken just after, and where it can't be, not at once."""
    return state.last_raise_seconds is None or now >= state.last_raise_seconds + SAMPLE_SECONDS
