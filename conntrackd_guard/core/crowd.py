"""A crowd of small tables as two figures: any user may make thousands, and a record must stay small. Pure."""

from __future__ import annotations

from dataclasses import replace

from conntrackd_guard.core.model import Observation, Table

NAMED_ONE_BY_ONE = 32
"""The fullest tables stand in a record by themselves; 5,000 would make it 1 MiB, and encoding it 55 ms."""


def condense(observation: Observation, concerned: int | None) -> Observation:
    """Return the observation with its small tables told as a sum.

    No decision changes by it, and no sum but one of a hold whose bounds allow less than the limit in force.
    A small table is under half the limit, so it is charged twice what it holds whatever the target. Never among them:
    the fullest, the initial one, that of the namespace `concerned`, and those that dropped, or may have.
    """
    if len(observation.tables) <= NAMED_ONE_BY_ONE:
        return observation
    limit = observation.limit or 0
    fullest = sorted(observation.tables, key=lambda table: (-table.count, table.namespace))
    alone = fullest[:NAMED_ONE_BY_ONE]
    small: list[Table] = []
    for table in fullest[NAMED_ONE_BY_ONE:]:
        apart = table.initial or table.namespace == concerned or table.dropped != 0 or 2 * table.count > limit
        (alone if apart else small).append(table)
    return replace(
        observation,
        tables=tuple(alone),
        small_tables=len(small),
        small_entries=sum(table.count for table in small),
    )
