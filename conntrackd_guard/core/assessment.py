"""Growth of a table, and the facts that the rules need about one trigger, derived once from one observation. Pure.

A message that names its namespace is judged by that table alone, because other tables prove nothing
about it. A message without a number (every kernel before 6.17, and the initial namespace since) may
be about any table.
"""

import math
from dataclasses import dataclass

from conntrackd_guard.core.configuration import FloodAction, Policy
from conntrackd_guard.core.model import Corroboration, Observation, Table, Trigger, TriggerKind
from conntrackd_guard.core.usage import (
    CONFIRM_USE,
    GATE_USE,
    NEAR_USE,
    QUIET_SECONDS,
    RELEASE,
    SUSTAINED_SECONDS,
    U32,
    URGENT_SECONDS,
    is_stable,
)

_WINDOW_SECONDS = 1.0
"""The longest time that demand is measured over, so that a burst that just paused still counts."""
_SHORTEST_SECONDS = 0.02
"""Two readings closer together than this give no rate."""
_LOOKS_KEPT_SECONDS = 2.0
_STEEPER = 2.0
"""Growth since the last look stands apart from demand if it is this many times as steep."""


class Growth:
    """What the looks at one table show: its demand, and the drops that show that it is full."""

    __slots__ = ("_drop", "_dropped_at", "_early_drop", "_limit", "_looks", "_refused", "_was_near", "burst_per_second",
                 "burst_seconds", "count", "demand_per_second", "demand_seconds", "dropped", "dropped_since_raise")  # fmt: skip

    def __init__(self) -> None:
        self.count: int | None = None
        """Entries at the last look, None before the first."""
        self.demand_per_second: float | None = None
        """Growth that lasted: the steepest of the last second without its steepest short interval. None before two."""
        self.demand_seconds: float | None = None
        """The time that it was measured over."""
        self.burst_per_second: float | None = None
        """Growth since the last look, if that is far steeper: it may be over already."""
        self.burst_seconds: float | None = None
        self.dropped = 0
        """Drops while the table stands near the limit: 0 after any change of that limit, and after a quiet spell."""
        self.dropped_since_raise = 0
        """The same without an end by quiet, and ended by a rehearsed raise too: what a dry run adds to the count."""
        self._drop: int | None = None
        self._early_drop: int | None = None
        self._dropped_at = 0.0
        self._limit: int | None = None
        self._was_near = False
        self._refused = 0
        self._looks: list[tuple[float, int]] = []
        """When, and the entries wanted until then: those held, and those refused since the first look."""

    def look(  # noqa: C901 - one call, because packets may drop until it returns
        self, now: float, count: int, drop: int | None = None, early_drop: int | None = None, limit: int | None = None
    ) -> None:
        """Take in one look (CLOCK_BOOTTIME). The counters are sums of u32 counters that wrap; `limit` is in force.

        Entries are wanted by the count, and near the limit by drops and evictions: a full table grows in these only.
        Another limit ends what earlier drops show, but no demand: a burst across a raise is one burst.
        """
        rise = 0 if drop is None or self._drop is None else (drop - self._drop) % U32
        rise = rise if rise < U32 // 2 else 0  # a counter that fell is another namespace's, under the same number
        evicted = 0 if early_drop is None or self._early_drop is None else (early_drop - self._early_drop) % U32
        evicted = evicted if evicted < U32 // 2 else 0
        is_near = limit is not None and 0 < NEAR_USE * limit <= count
        if is_near or self._was_near:
            self._refused += rise + evicted
        looks = [look for look in self._looks if now - look[0] <= _LOOKS_KEPT_SECONDS]
        if not is_near or limit != self._limit:
            self.dropped = self.dropped_since_raise = 0
        elif rise and looks:  # after a longer time nobody knows when
            self.dropped, self.dropped_since_raise = self.dropped + rise, self.dropped_since_raise + rise
            self._dropped_at = now
        elif now - self._dropped_at >= QUIET_SECONDS:
            self.dropped = 0
        self.count, self._limit, self._was_near = count, limit, is_near
        self._drop = self._drop if drop is None else drop
        self._early_drop = self._early_drop if early_drop is None else early_drop
        wanted = count + self._refused
        self._looks = [*looks, (now, wanted)]
        self.demand_per_second = self.demand_seconds = self.burst_per_second = self.burst_seconds = None
        at, until, seconds, grown, steepest, spike = now, wanted, 0.0, 0, -math.inf, (0, 0.0)
        for began, before in reversed(looks):
            length, growth = at - began, until - before
            if length < _SHORTEST_SECONDS:
                continue
            if seconds and seconds + length > _WINDOW_SECONDS:
                break
            if not seconds:
                self.burst_per_second, self.burst_seconds = growth / length, length
            at, until, seconds, grown = began, before, seconds + length, grown + growth
            if length < SUSTAINED_SECONDS and growth / length > steepest:
                steepest, spike = growth / length, (growth, length)
            if seconds > spike[1]:  # one short interval may be a burst, so the steepest of them counts for nothing
                rate = max(0.0, (grown - spike[0]) / (seconds - spike[1]))
                if self.demand_per_second is None or rate > self.demand_per_second:
                    self.demand_per_second, self.demand_seconds = rate, seconds
        if (self.burst_per_second or 0.0) <= _STEEPER * (self.demand_per_second or 0.0):
            self.burst_per_second = self.burst_seconds = None

    def restart(self) -> None:
        """Begin to count drops again: what was dropped until now belongs to the old limit."""
        self.dropped = self.dropped_since_raise = 0


def is_full(table: Table, kernel_limit: int, policy: Policy) -> bool:
    """Return whether a table is full now: near the limit in force, or over the threshold with drops at that limit."""
    if table.count >= max(CONFIRM_USE, policy.threshold) * kernel_limit:
        return True
    return bool(table.dropped) and table.count >= policy.threshold * kernel_limit


def presses(count: int, limit: int, demand: float | None, policy: Policy, *, already: bool = False) -> bool:
    """Return whether a table is over the threshold, or about to be full; `already` applies the hysteresis.

    A nearly empty table is never about to be full: the growth of a moment is no forecast for most of a table.
    """
    threshold = policy.threshold - RELEASE if already else policy.threshold
    if count >= threshold * limit:
        return True
    return count >= GATE_USE * limit and bool(demand) and limit - count <= URGENT_SECONDS * (demand or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charges:
    """Who is charged: `full` tables at the target, the others at twice their count, `hidden` entries at what they are.

    `others` and `untrusted` have (count, alive) of each table, `small` and `small_untrusted` the sums of condensed ones.
    """

    full: int = 0
    full_held: int = 0
    others: tuple[tuple[int, int], ...] = ()
    small: int = 0
    untrusted: tuple[tuple[int, int], ...] = ()
    """For these no raise is made, so they are charged at what they hold even if full (see `core.budget`)."""
    small_untrusted: int = 0
    hidden: int = 0
    """Those that known tables which can't be read have no room for: these are among `full`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """One trigger, the host at that moment, and what the tables show about it."""

    trigger: Trigger
    observation: Observation
    corroboration: Corroboration
    concerned: tuple[Table, ...]
    """Tables that a kernel message is about: the named one, else every one that is full or drops packets."""
    needy: tuple[Table, ...]
    """Tables to raise for: the concerned ones, and those over the threshold or about to be full that aren't stable.

    At start, and below `min_limit`, the initial namespace's table alone.
    """
    trusted: tuple[Table, ...]
    """The needy tables whose need counts: without those of user namespaces, unless the policy trusts them."""
    charges: Charges
    in_use: int
    """Entries in all namespaces."""
    largest_count: int
    """Of the tables whose need counts: no user chooses a step."""
    is_pressing: bool
    """A table is over the threshold or about to be full."""
    is_dropping: bool
    """A trusted table is full or drops packets now."""
    flooded: bool | None
    """Whether a flood fills all trusted tables; None if that matters (`on_flood`) and a sample is missing."""


def assess(trigger: Trigger, observation: Observation, policy: Policy) -> Assessment:
    """Return the facts about `trigger`. One pass over the tables: packets may drop until it is done."""
    limit, number = observation.limit or 0, trigger.namespace
    at_start = trigger.persisted is not None or trigger.kind is TriggerKind.MINIMUM
    by_message, filling_up = trigger.kind is TriggerKind.KERNEL_MESSAGE, trigger.kind is TriggerKind.FILLING_UP
    episode = number if filling_up else None  # its table has the hysteresis
    full_count = max(CONFIRM_USE, policy.threshold) * (observation.kernel_limit or 0)
    dropped_count, charged_count = policy.threshold * (observation.kernel_limit or 0), policy.threshold * limit
    concerned, needy, trusted, others, untrusted = [], [], [], [], []
    is_judged = number is None
    is_unknown = number is None and (not observation.complete or bool(observation.impossible))
    is_confirmed = is_pressing = is_dropping = False
    in_use, largest, full, full_held = observation.small_entries + observation.hidden_entries, 0, 0, 0
    for table in observation.tables:
        count, alive = table.count, table.count if table.held is None else table.held
        is_full = count >= full_count or (bool(table.dropped) and count >= dropped_count)  # as the function does
        drops = bool(table.dropped) and count >= charged_count
        is_named = table.placed and table.namespace == number
        pressing = presses(count, limit, table.demand_per_second, policy, already=table.namespace == episode)
        is_pressing = is_pressing or pressing
        in_use += count
        if number is None or is_named:
            is_judged, is_confirmed = True, is_confirmed or is_full
        is_concerned = by_message and (is_full if number is None else is_named)
        is_charged = table.initial if at_start else is_concerned or pressing
        if is_concerned:
            concerned.append(table)
        if is_charged and (at_start or is_concerned or drops or not is_stable(count, limit, table.demand_per_second)):
            needy.append(table)
            if policy.trust_user_namespaces or not table.user_owned:
                trusted.append(table)
                is_dropping = is_dropping or count >= limit or drops
        if table.user_owned and not policy.trust_user_namespaces:
            untrusted.append((count, alive))
            continue
        largest = max(largest, count)
        if is_charged or count >= charged_count:
            full, full_held = full + 1, full_held + alive
        else:
            others.append((count, alive))
    truth = Corroboration.CONFIRMED
    if by_message and not is_confirmed:
        truth = Corroboration.UNKNOWN if is_unknown or not is_judged else Corroboration.CONTRADICTED
    # The table that can't be judged may be one of the unread.
    full += max(observation.unread_tables, truth is Corroboration.UNKNOWN or (at_start and not needy))
    flooded: bool | None = False
    is_need = filling_up or (by_message and truth is not Corroboration.UNKNOWN)  # no sample is of an unknown table
    if is_need and policy.on_flood.action is not FloodAction.RAISE:
        samples = {table.flooded for table in trusted}
        flooded = False if not samples or False in samples else None if None in samples else True
    small_untrusted = 0 if policy.trust_user_namespaces else observation.small_user_owned_entries
    return Assessment(
        trigger=trigger,
        observation=observation,
        corroboration=truth,
        concerned=tuple(concerned),
        needy=tuple(needy),
        trusted=tuple(trusted),
        charges=Charges(
            full=full,
            full_held=full_held,
            others=tuple(others),
            small=observation.small_entries - small_untrusted,
            untrusted=tuple(untrusted),
            small_untrusted=small_untrusted,
            hidden=max(0, observation.hidden_entries - observation.unread_tables * limit),
        ),
        in_use=in_use,
        largest_count=largest,
        is_pressing=is_pressing,
        is_dropping=is_dropping,
        flooded=flooded,
    )
