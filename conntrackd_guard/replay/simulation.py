"""Drive the daemon's loop through a time series.

Between two samples the entries are taken to move evenly, and so are the drops. A full table shows no growth: what its
recorded limit refused is unknown beyond the drops that were counted, so results that depend on it are floors.

Where nothing can happen no turn is made: the daemon's own gate, and its own test of a table that is stable, say where.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from conntrackd_guard.core import usage
from conntrackd_guard.core.budget import budget_bytes, bytes_per_entry, min_available_bytes
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.limits import is_unlimited
from conntrackd_guard.core.model import Hold, OutcomeKind, PersistedLimit, Raise, Record
from conntrackd_guard.core.records import fingerprint
from conntrackd_guard.replay.model import HostInput, HostResult, Message, Sample, Step
from conntrackd_guard.replay.simulated_host import SimulatedHost
from conntrackd_guard.replay.tally import Tally

LEAD_SECONDS = 1.0
"""Before a moment that matters, readings at the daemon's interval: growth is measured over the last second."""
MOST_REPEATED = 4
"""Decisions in a row that give the same hold; further ones are made at samples only."""
GAP_SECONDS = 600.0
GAPS = 3.0
"""Samples further apart than the first, and this many times as far as those before, have a gap between them: nothing is
known of that time, and the table is as the sample after it shows."""


@dataclass(slots=True)
class _Moment:
    """A sample without holes."""

    at: float
    entries: int
    limit: int
    drops: int | None


def simulate(host: HostInput, policy: Policy) -> HostResult:
    """Return the row of a host whose evidence is a time series."""
    simulation = Simulation(host, policy)
    messages = iter(host.messages)
    message = next(messages, None)
    for sample in host.samples:
        while message is not None and message.wall_seconds <= sample.wall_seconds:
            simulation.expect(message)
            message = next(messages, None)
        simulation.take(sample)
    return simulation.result()


class Simulation:
    """One host's series, sample by sample."""

    def __init__(self, host: HostInput, policy: Policy) -> None:
        self._facts, self._policy = host.facts, policy
        self._tally = Tally(host, policy)
        self._tally.episodes = 0
        self._host: SimulatedHost | None = None
        self._before: _Moment | None = None
        self._interval = 0.0
        self._available = host.facts.available_bytes
        self._short: tuple[float, int] | None = None
        """Above so many entries, or with less memory available (bytes), the host is short of memory; None: unknown."""
        if (total := host.facts.total_bytes) is not None:
            each, _ = bytes_per_entry(host.facts.entry_slab_bytes)
            most = budget_bytes(policy, total, host.facts.hugetlb_bytes) / each
            self._short = most, min_available_bytes(policy, total)
        self._messages: list[Message] = []
        self._needed = False
        self._last_hold = ""
        self._is_stable = False
        """The last decision was that the table is stable."""
        self._repeated = 0
        self._spell = 0
        """Drops that the replayed limit had room for, since the recorded table was last below its limit."""
        self._gaps = self._incomplete = self._boots = 0

    def expect(self, message: Message) -> None:
        """Take a kernel message, to be logged before the next sample."""
        self._messages.append(message)

    def take(self, sample: Sample) -> None:
        """Take the next sample."""
        limit = self._facts.limit if sample.limit is None else sample.limit
        if sample.entries is None or limit is None or (self._before and sample.wall_seconds <= self._before.at):
            self._incomplete += 1
            return
        now = _Moment(sample.wall_seconds, sample.entries, limit, sample.drops)
        self._tally.at(now.at)
        self._available = self._available if sample.available_bytes is None else sample.available_bytes
        before, host = self._before, self._host
        if before is None or host is None:
            host = self._boot(now, None)
        elif usage.went_back(before.drops, now.drops):
            self._boots += 1
            kept = PersistedLimit(limit=host.kernel.value, boot_id="simulated")
            host = self._boot(now, kept if kept.limit > now.limit else None)
        else:
            self._pass(host, before, now)
        host.table.available_bytes = self._available
        if before is not None and now.limit != before.limit:
            self._rewrite(host, before, now.limit)
        if self._messages or (self._may_need(host, now, now) and not self._is_settled(host, before, now)):
            self._turn(host, now.at, now.entries)
        self._tally.limit(host.kernel.value)
        self._tally.point((int(now.at), now.entries, now.limit, host.kernel.value))
        self._before = now

    def result(self) -> HostResult:
        """Return the row."""
        tally, host = self._tally, self._host
        self._end_spell()
        if host is not None:
            if self._facts.total_bytes is not None and tally.highest_limit is not None:
                tally.cost(host.table.observe(), tally.highest_limit)
            if self._policy.on_flood.restricts:
                tally.notes.append("No sample shows who filled the table: `on_flood` is replayed without any.")
        if self._incomplete:
            tally.notes.append(f"{self._incomplete:,} samples without entries or limit, or out of order, are left out.")
        if self._gaps:
            tally.notes.append(f"{self._gaps:,} gaps: nothing is known of these times.")
        if self._boots:
            tally.notes.append(f"{self._boots:,} restarts of the counters: taken as boots, with the limit persisted.")
        return tally.result()

    # -- between two samples --------------------------------------------------------------------

    def _boot(self, now: _Moment, kept: PersistedLimit | None) -> SimulatedHost:
        self._end_spell()
        self._needed = self._is_stable = False
        host = self._host = SimulatedHost(
            self._facts, self._policy, self._took, wall_seconds=now.at, limit=now.limit, kept=kept
        )
        if self._before is None:
            self._tally.dropped = self._tally.saved = None if now.drops is None else 0
        host.table.count, host.table.has_drops = now.entries, now.drops is not None
        host.table.available_bytes = self._available
        host.loop.start()
        return host

    def _pass(self, host: SimulatedHost, before: _Moment, now: _Moment) -> None:
        """Pass the time between two samples."""
        length = now.at - before.at
        is_gap = length > max(GAP_SECONDS, GAPS * self._interval) and self._interval > 0
        self._interval = length
        dropped = usage.risen(before.drops, now.drops)
        is_near = max(before.entries, now.entries) >= usage.NEAR_USE * min(before.limit, now.limit)
        if not is_near:
            self._end_spell()
            dropped = 0  # lost races and failed allocations
        if self._tally.dropped is not None:
            self._tally.dropped += dropped
        self._gaps += is_gap
        if is_gap or not (dropped or self._messages or self._may_need(host, before, now)):
            self._save(dropped if host.kernel.value > before.limit else 0, host.kernel.value - before.limit)
            return
        refused, start = 0, host.table.drop
        is_calm = not dropped and not self._messages and _is_calm(before, now, host.kernel.value)
        for at in () if is_calm else self._moments(host, before, now):
            share = (at - before.at) / length
            if host.kernel.value <= before.limit:  # else there was room for what came since
                refused = int(dropped * share)
            host.table.drop = start + refused
            entries = before.entries + round((now.entries - before.entries) * share)
            self._turn(host, at, entries)
        self._save(dropped - refused if host.kernel.value > before.limit else 0, host.kernel.value - before.limit)
        if host.kernel.value <= before.limit:
            host.table.drop = start + dropped

    def _moments(self, host: SimulatedHost, before: _Moment, now: _Moment) -> Iterator[float]:
        """Yield when to do a turn, up to just before the later sample: each follows from what the turns before did."""
        at, slope = before.at, _slope(before, now)
        is_growing = slope > 0 or before.drops != now.drops
        while True:
            until = self._next(host, before, now, at, slope)
            if is_growing and until - at > LEAD_SECONDS + usage.TICK_SECONDS:
                at = until - LEAD_SECONDS
                yield at
            while is_growing and at + usage.TICK_SECONDS < until:
                at += usage.TICK_SECONDS
                yield at
            if until >= now.at:
                return
            at = until
            yield at

    def _next(self, host: SimulatedHost, before: _Moment, now: _Moment, at: float, slope: float) -> float:
        """Return when something may happen next: a level is crossed, a decision is due, a message comes, or the sample."""
        limit, moments = host.kernel.value, [now.at]
        if slope > 0:
            shares = (self._policy.threshold, usage.CONFIRM_USE, usage.BRIM_USE, 1.0)
            levels = [share * limit for share in shares]
            levels += [limit - usage.URGENT_SECONDS * slope, limit - usage.STABLE_SECONDS * slope]
            moments += [before.at + (level - before.entries + 1) / slope for level in levels]
        due = host.loop.due()
        if due is not None and self._repeated < MOST_REPEATED:
            moments.append(due + host.clock.boot_wall_seconds)
        moments += [message.wall_seconds for message in self._messages]
        return min((moment for moment in moments if moment > at + 1e-3), default=now.at)

    def _may_need(self, host: SimulatedHost, before: _Moment, now: _Moment) -> bool:
        """Return whether the daemon may have something to decide between two samples."""
        limit, entries = host.kernel.value, max(before.entries, now.entries)
        if is_unlimited(limit):
            return before.limit != now.limit
        if host.loop.is_needed() or entries >= (self._policy.threshold - usage.RELEASE) * limit:
            return True
        if entries < usage.GATE_USE * limit:
            return False
        return _slope(before, now) * usage.URGENT_SECONDS >= limit - entries or self._memory_is_short(host, entries)

    def _is_settled(self, host: SimulatedHost, before: _Moment | None, now: _Moment) -> bool:
        """Return whether the last decisions were that the table is stable, and one more would say the same."""
        limit = host.kernel.value
        return (
            before is not None
            and self._is_stable
            and self._repeated >= MOST_REPEATED
            and now.limit == before.limit
            and now.drops == before.drops
            and min(before.entries, now.entries) >= self._policy.threshold * limit
            and _is_calm(before, now, limit)
            and not self._memory_is_short(host, now.entries)
        )

    def _memory_is_short(self, host: SimulatedHost, entries: int) -> bool:
        available = host.table.available_bytes
        if self._short is None or available is None:
            return False
        most_entries, least_bytes = self._short
        return entries > most_entries or available < least_bytes

    def _turn(self, host: SimulatedHost, at: float, entries: int) -> None:
        host.clock.now, host.table.count = at - host.clock.boot_wall_seconds, entries
        while self._messages and self._messages[0].wall_seconds <= at:
            message = self._messages.pop(0)
            self._tally.messages += message.count
            host.log.give(message.kind, message.namespace, at)
        host.loop.turn()
        needed = host.loop.is_needed()
        self._tally.episodes = (self._tally.episodes or 0) + (needed and not self._needed)
        self._needed = needed

    def _rewrite(self, host: SimulatedHost, before: _Moment, limit: int) -> None:
        """Have another program set the limit as recorded, unless the replayed limit is as high already."""
        if limit < before.limit or limit > host.kernel.value:
            host.kernel.value = limit
            at, entries = host.clock.wall(), host.table.count
            if at < before.at:  # nothing could happen since that turn, so none was made
                at, entries = before.at, before.entries
            self._turn(host, at, entries)

    # -- what came of it ------------------------------------------------------------------------

    def _save(self, dropped: int, room: int) -> None:
        """Count drops that the replayed limit had room for, at most `room` of one spell: each needs an entry."""
        if self._tally.saved is None or not dropped:
            return
        saved = min(dropped, max(0, room - self._spell))
        self._tally.saved += saved
        self._tally.saved_at_least = self._tally.saved_at_least or saved < dropped
        self._spell += saved

    def _end_spell(self) -> None:
        self._spell = 0

    def _took(self, record: Record, times: int) -> None:  # noqa: ARG002 - messages are counted as they come
        """Take a record of the controller."""
        tally, decision, seen = self._tally, record.decision, record.observation
        if isinstance(decision, Raise) and record.outcome.kind is OutcomeKind.APPLIED:
            self._last_hold, self._repeated, self._is_stable = "", 0, False
            tally.causes[record.trigger.kind.value] += 1
            before, cause = seen.limit or 0, record.trigger.kind.value
            tally.raised(Step(at=seen.wall_seconds, before=before, target=decision.target, cause=cause))
        elif isinstance(decision, Hold):
            self._repeated += 1
            if (mark := fingerprint(record)) != self._last_hold:
                self._last_hold, self._repeated = mark, 0
                self._is_stable = decision.reason is HoldReason.STABLE
                tally.causes[record.trigger.kind.value] += 1
                tally.held(decision.reason, decision.advice)


def _slope(before: _Moment, now: _Moment) -> float:
    """Return the growth between two samples, in entries a second."""
    return (now.entries - before.entries) / (now.at - before.at) if now.at > before.at else 0.0


def _is_calm(before: _Moment, now: _Moment, limit: int) -> bool:
    """Return whether the table was stable all the time between two samples: one look at the later one shows all."""
    return usage.is_stable(max(before.entries, now.entries), limit, max(0.0, _slope(before, now)))
