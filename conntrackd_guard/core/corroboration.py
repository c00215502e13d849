"""Is it true? What the tables say of a kernel line. Pure."""

from __future__ import annotations

from conntrackd_guard.core.model import Corroboration, Observation, Table, Trigger, TriggerKind
from conntrackd_guard.core.usage import CONFIRM_USE


def is_full(table: Table, kernel_limit: int) -> bool:
    """Return whether a table is at the limit in force, or dropped since the last raise or quiet spell."""
    return table.count >= CONFIRM_USE * kernel_limit or bool(table.dropped)


def named_tables(trigger: Trigger, observation: Observation) -> tuple[Table, ...]:
    """Return the table that the line names, or none."""
    if trigger.namespace is None:
        return ()
    return tuple(t for t in observation.tables if t.placed and t.namespace == trigger.namespace)


def concerned_tables(trigger: Trigger, observation: Observation) -> tuple[Table, ...]:
    """Return the tables that a line is about: the one it names, else every one that is full or drops. None for pressure."""
    if trigger.kind is not TriggerKind.KERNEL_MESSAGE:
        return ()
    if trigger.namespace is not None:
        return named_tables(trigger, observation)
    return tuple(table for table in observation.tables if is_full(table, observation.kernel_limit or 0))


def corroborate(trigger: Trigger, observation: Observation) -> Corroboration:
    """Return what the tables say of a line.

    A line that names its namespace is judged by that table alone, for others say nothing of it. A
    line without a number (every kernel before 6.17, and the initial namespace since) may be any table's.
    """
    limit = observation.kernel_limit or 0
    asked = named_tables(trigger, observation) if trigger.namespace is not None else observation.tables
    if any(is_full(table, limit) for table in asked):
        return Corroboration.CONFIRMED
    out_of_reach = not asked if trigger.namespace is not None else not observation.complete
    if out_of_reach or any(table.dropped is None for table in asked):
        return Corroboration.UNKNOWN
    return Corroboration.CONTRADICTED
