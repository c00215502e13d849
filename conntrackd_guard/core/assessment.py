"""The facts that the rules need about one trigger, derived once from one observation. Pure.

A message that names its namespace is judged by that table alone, because other tables prove nothing
about it. A message without a number (every kernel before 6.17, and the initial namespace since) may
be about any table.
"""

from __future__ import annotations

from dataclasses import dataclass

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Corroboration, Observation, Table, Trigger, TriggerKind
from conntrackd_guard.core.usage import is_full, presses


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """One trigger, the host at that moment, and what the tables show about it."""

    trigger: Trigger
    observation: Observation
    corroboration: Corroboration
    concerned: tuple[Table, ...]
    """Tables that a kernel message is about: the named one, else every one that is full or drops packets."""
    needy: tuple[Table, ...]
    """Tables to raise for: the concerned ones, those over the threshold, and those about to be full.

    At start the initial namespace's table alone.
    """
    trusted: tuple[Table, ...]
    """The needy tables whose need counts: without those of user namespaces, unless the policy trusts them."""
    is_pressing: bool
    """A table is over the threshold or about to be full."""
    is_dropping: bool
    """A needy table is full or drops packets now."""
    flooded: bool | None
    """Whether a flood fills all trusted tables; None if that matters (`on_flood`) and a sample is missing."""


def assess(trigger: Trigger, observation: Observation, policy: Policy) -> Assessment:
    """Return the facts about `trigger`. One pass over the tables."""
    limit, in_force, number = observation.limit or 0, observation.kernel_limit or 0, trigger.namespace
    by_message, at_start = trigger.kind is TriggerKind.KERNEL_MESSAGE, trigger.persisted is not None
    episode = number if trigger.kind is TriggerKind.FILLING_UP else None  # its table has the hysteresis
    concerned, needy, judged = [], [], []
    is_pressing = is_dropping = False
    for table in observation.tables:
        is_named = table.placed and table.namespace == number
        is_about = by_message and (is_full(table, in_force) if number is None else is_named)
        pressing = presses(table.count, limit, table.demand_per_second, policy, already=table.namespace == episode)
        if number is None or is_named:
            judged.append(table)
        if is_about:
            concerned.append(table)
        if table.initial if at_start else is_about or pressing:
            needy.append(table)
            is_dropping = is_dropping or table.count >= limit or bool(table.dropped)
        is_pressing = is_pressing or pressing
    truth = _corroborate(observation, judged, named=number is not None) if by_message else Corroboration.CONFIRMED
    trusted = tuple(table for table in needy if policy.trust_user_namespaces or not table.user_owned)
    # Samples of other tables prove nothing about a table that can't be judged.
    is_sampled = not at_start and truth is not Corroboration.UNKNOWN
    return Assessment(
        trigger=trigger,
        observation=observation,
        corroboration=truth,
        concerned=tuple(concerned),
        needy=tuple(needy),
        trusted=trusted,
        is_pressing=is_pressing,
        is_dropping=is_dropping,
        flooded=_flooded(trusted, policy) if is_sampled else False,
    )


def _corroborate(observation: Observation, judged: list[Table], *, named: bool) -> Corroboration:
    """Return what the `judged` tables show about a message; `named`: it names its namespace."""
    if any(is_full(table, observation.kernel_limit or 0) for table in judged):
        return Corroboration.CONFIRMED
    out_of_reach = not judged if named else not observation.complete
    if out_of_reach or any(table.dropped is None for table in judged):
        return Corroboration.UNKNOWN
    return Corroboration.CONTRADICTED


def _flooded(trusted: tuple[Table, ...], policy: Policy) -> bool | None:
    """Return whether a flood fills all of them; None if that matters and a sample is missing."""
    samples = {table.flooded for table in trusted}
    if not policy.on_flood.restricts or not samples or False in samples:
        return False
    return None if None in samples else True
