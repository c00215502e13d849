"""Growth of a table, and the facts that the rules need about one trigger, derived once from one observation. Pure.

A message that names its namespace is judged by that table alone, because other tables prove nothing
about it. A message without a number (every kernel before 6.17, and the initial namespace since) may
be about any table.
"""

from dataclasses import dataclass

from conntrackd_guard.core.configuration import FloodAction, Policy
from conntrackd_guard.core.model import Corroboration, Observation, Table, Trigger, TriggerKind
from conntrackd_guard.core.usage import CONFIRM_USE, GATE_USE, QUIET_SECONDS, RELEASE, U32, URGENT_SECONDS

_WINDOWS_SECONDS = (0.1, 1.0)
"""Growth is the steepest of these: the short one catches a burst, the long one a burst that just paused."""
_SHORTEST_SECONDS = 0.02
"""Two readings closer together than this give no rate."""
_LOOKS_KEPT_SECONDS = 2.0


class Growth:
    """What the looks at one table show: its demand, and what it dropped since the last raise or quiet spell."""

    __slots__ = ("_drop", "_dropped", "_dropped_at", "_early_drop", "_looks", "_refused", "count", "demand_per_second",
                 "dropped", "dropped_since_raise")  # fmt: skip

    def __init__(self) -> None:
        self.count: int | None = None
        """Entries at the last look, None before the first."""
        self.demand_per_second: float | None = None
        self.dropped: int | None = None
        """None while the counter can't be read or there is nothing to compare with."""
        self.dropped_since_raise = 0
        self._drop: int | None = None
        self._early_drop: int | None = None
        self._dropped = 0
        self._refused = 0
        self._dropped_at: float | None = None
        self._looks: list[tuple[float, int]] = []
        """When, and the entries wanted until then: those held, and those refused since the first look."""

    def look(self, now: float, count: int, drop: int | None = None, early_drop: int | None = None) -> None:
        """Take in one look (CLOCK_BOOTTIME). The counters are sums of u32 counters that wrap.

        Demand is Δcount + Δdrop + Δearly_drop a second over the steepest window: a full table grows in
        the counters only. It is None before two looks.
        """
        is_new = self._drop is None and bool(drop)  # packets were dropped, but nobody knows when
        rise = 0 if drop is None or self._drop is None else (drop - self._drop) % U32
        if rise >= U32 // 2:  # another namespace has the number: all its drops are new
            self._dropped = self.dropped_since_raise = drop or 0
            self._dropped_at = now
        elif rise:
            self._dropped, self._dropped_at = self._dropped + rise, now
            self._refused, self.dropped_since_raise = self._refused + rise, self.dropped_since_raise + rise
        elif self._dropped_at is not None and now - self._dropped_at >= QUIET_SECONDS:
            self._dropped, self._dropped_at = 0, None
        rise = 0 if early_drop is None or self._early_drop is None else (early_drop - self._early_drop) % U32
        self._refused += rise if rise < U32 // 2 else 0
        self.dropped = None if drop is None or is_new else self._dropped
        self.count = count
        self._drop = self._drop if drop is None else drop
        self._early_drop = self._early_drop if early_drop is None else early_drop
        self._looks = [look for look in self._looks if now - look[0] <= _LOOKS_KEPT_SECONDS]
        self._looks.append((now, count + self._refused))
        self.demand_per_second = None
        for window in _WINDOWS_SECONDS:
            earliest = now - window - 1e-6
            at, wanted = next(look for look in self._looks if look[0] >= earliest)
            if at == now and len(self._looks) > 1:
                at, wanted = self._looks[-2]
            if now - at >= _SHORTEST_SECONDS:
                rate = (self._looks[-1][1] - wanted) / (now - at)
                self.demand_per_second = max(self.demand_per_second or 0.0, rate)

    def restart(self) -> None:
        """Begin to count drops again: what was dropped until now belongs to the old limit."""
        self._dropped, self.dropped_since_raise, self._dropped_at = 0, 0, None


def is_full(table: Table, kernel_limit: int) -> bool:
    """Return whether a table is at the limit in force, or dropped since the last raise or quiet spell."""
    return table.count >= CONFIRM_USE * kernel_limit or bool(table.dropped)


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
    """Who is charged: `full` tables at the target, the `others` (count, alive) and the `small` at twice their count."""

    full: int = 0
    full_held: int = 0
    others: tuple[tuple[int, int], ...] = ()
    small: int = 0


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
    charges: Charges
    in_use: int
    """Entries in all tables."""
    largest_count: int
    is_pressing: bool
    """A table is over the threshold or about to be full."""
    is_dropping: bool
    """A needy table is full or drops packets now."""
    flooded: bool | None
    """Whether a flood fills all trusted tables; None if that matters (`on_flood`) and a sample is missing."""


def assess(trigger: Trigger, observation: Observation, policy: Policy) -> Assessment:
    """Return the facts about `trigger`. One pass over the tables: packets may drop until it is done."""
    limit, number, at_start = observation.limit or 0, trigger.namespace, trigger.persisted is not None
    by_message, filling_up = trigger.kind is TriggerKind.KERNEL_MESSAGE, trigger.kind is TriggerKind.FILLING_UP
    episode = number if filling_up else None  # its table has the hysteresis
    full_count, charged_count = CONFIRM_USE * (observation.kernel_limit or 0), policy.threshold * limit
    concerned, needy, others = [], [], []
    is_judged = number is None
    is_unknown = number is None and (not observation.complete or bool(observation.impossible))
    is_confirmed = is_pressing = is_dropping = False
    in_use, largest, full, full_held = observation.small_entries, 0, 0, 0
    for table in observation.tables:
        count, alive = table.count, table.count if table.held is None else table.held
        is_full = count >= full_count or bool(table.dropped)
        is_named = table.placed and table.namespace == number
        pressing = presses(count, limit, table.demand_per_second, policy, already=table.namespace == episode)
        is_pressing = is_pressing or pressing
        in_use, largest = in_use + count, max(largest, count)
        if number is None or is_named:
            is_judged, is_confirmed = True, is_confirmed or is_full
            is_unknown = is_unknown or table.dropped is None
        is_concerned = by_message and (is_full if number is None else is_named)
        is_needy = table.initial if at_start else is_concerned or pressing
        if is_concerned:
            concerned.append(table)
        if is_needy:
            needy.append(table)
            is_dropping = is_dropping or count >= limit or bool(table.dropped)
        if is_needy or count >= charged_count:
            full, full_held = full + 1, full_held + alive
        else:
            others.append((count, alive))
    truth = Corroboration.CONFIRMED
    if by_message and not is_confirmed:
        truth = Corroboration.UNKNOWN if is_unknown or not is_judged else Corroboration.CONTRADICTED
    # The table that can't be judged may be one of the unread.
    full += max(observation.unread_tables, truth is Corroboration.UNKNOWN or (at_start and not needy))
    trusted = tuple(table for table in needy if policy.trust_user_namespaces or not table.user_owned)
    flooded: bool | None = False
    is_need = filling_up or (
        by_message and truth is not Corroboration.UNKNOWN
    )  # samples say nothing about unknown tables
    if is_need and policy.on_flood.action is not FloodAction.RAISE:
        samples = {table.flooded for table in trusted}
        flooded = False if not samples or False in samples else None if None in samples else True
    return Assessment(
        trigger=trigger,
        observation=observation,
        corroboration=truth,
        concerned=tuple(concerned),
        needy=tuple(needy),
        trusted=trusted,
        charges=Charges(full=full, full_held=full_held, others=tuple(others), small=observation.small_entries),
        in_use=in_use,
        largest_count=largest,
        is_pressing=is_pressing,
        is_dropping=is_dropping,
        flooded=flooded,
    )
