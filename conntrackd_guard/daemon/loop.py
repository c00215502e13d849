"""The loop: lines and counters in, decisions out. It touches only /proc, /sys and /run.

One turn: take what the sources heard, decide every episode that is due, watch the tables when a tick is
due and decide what that opened, record the other lines. Nothing here waits for a disk or a log; the recorder does that.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable

from conntrackd_guard.core import budget, episode, usage
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.corroboration import is_full
from conntrackd_guard.core.episode import Episode
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.model import KernelEvent, MessageKind, State, Table, Trigger, TriggerKind
from conntrackd_guard.daemon.controller import Controller, Dependencies
from conntrackd_guard.daemon.status_file import status_file, status_line

STATUS_SECONDS = 2.0
MEMORY_SECONDS = 1.0
"""How often what is held is compared with budget and reserve while tables are being read."""
WAITING_SECONDS = 2.0
"""The tick while this kernel tracks no connections."""
FLOOD_WAKES = 100
"""Wake-ups a second from which the loop rests between reads: a firewall that logs thousands of lines."""
REST_SECONDS = 0.002
LINE_LOOK_MS = 1
"""While a line may come the ring buffer is asked this often: the kernel wakes its readers with the printing processor's
next timer tick, up to 4 ms late (HZ=250), and connections are refused meanwhile. Looking costs 3 % of a core."""


class Guard:
    """The daemon. `run` returns when told to stop."""

    def __init__(
        self, parts: Dependencies, policy: Policy, state: State, signals: Callable[[], frozenset[str]]
    ) -> None:
        self._p = parts
        self._controller = Controller(parts, policy, state)
        self._signals = signals
        self._episodes: dict[int | None, Episode] = {}
        self._others: dict[tuple[MessageKind, int | None, bool], tuple[KernelEvent, int]] = {}
        """Lines that nothing is raised for, as (newest, how many), until they are recorded."""
        self._tick_at = self._status_at = self._memory_at = self._blind_until = 0.0
        self._memory_broken = False
        self._expects_line = False
        self._wakes: tuple[int, int] = (0, 0)
        self._failing = False
        self.since_seconds = parts.clock.wall()

    def run(self, wake_descriptor: int, reload: Callable[[], Policy | None]) -> None:
        """Work until a signal says stop. `wake_descriptor` becomes readable on a signal."""
        self.start()
        while True:
            poller = select.poll()
            for descriptor in (wake_descriptor, *self._p.log_sources.descriptors()):
                poller.register(descriptor, select.POLLIN)
            woken = {descriptor for descriptor, _ in self._news(poller)}
            if wake_descriptor in woken:
                told = self._signals()
                if "stop" in told:
                    return
                if "reload" in told:
                    self._controller.take_policy(reload() or self._controller.policy)
            self._rest(woken)
            self.turn(heard=bool(woken))
            self._p.service.watchdog()

    def start(self) -> None:
        """Take up what changed while no guard ran: another writer's limit, then one that the boot has lost."""
        try:
            self._look_for_other_writers()
            self._controller.restore()
        except (GuardError, OSError, RuntimeError) as error:
            self._p.recorder.log("guard.error", "error", f"The limit of the last boot was not compared: {error}")
        self.turn()

    def turn(self, *, heard: bool = True) -> None:
        """One turn; `heard`: a source may have lines. An error of the host is said, and ends the turn only.

        What is due then is tried again after WAITING_SECONDS; lines are taken meanwhile, and open episodes.
        """
        try:
            if heard:
                self._take_lines()
            now = self._p.clock.boottime()
            if now >= self._blind_until:
                tables: tuple[Table, ...] = ()
                self._decide_due()  # a line's episode is due at once, and packets drop: it comes before the look
                if now >= self._tick_at:
                    tables = self._watch()
                    self._failing = False
                    self._decide_due()
                self._record_others()
                self._controller.look_for_floods(tables)
            if self._p.clock.boottime() >= self._status_at:
                self._publish()
        except (GuardError, OSError, RuntimeError) as error:  # out of descriptors, out of threads: the host's trouble
            if not self._failing:
                self._p.recorder.log("guard.error", "error", f"{error}; it is tried again every {WAITING_SECONDS:g} s.")
            self._failing, self._expects_line = True, False
            self._blind_until = self._p.clock.boottime() + WAITING_SECONDS
            self._status_at = max(self._status_at, self._blind_until)

    def _news(self, poller: select.poll) -> list[tuple[int, int]]:
        """Wait for news, or until something is due."""
        while True:
            left = self._wait_ms()
            most = LINE_LOOK_MS if self._expects_line else left
            news = poller.poll(min(left, most))
            if news or left <= most:
                return news

    def _wait_ms(self) -> float:
        now = self._p.clock.boottime()
        due = [e.due_seconds for e in self._episodes.values() if e.due_seconds is not None]
        next_at = max(self._blind_until, min([self._tick_at, *due]))
        return max(0.0, min(next_at, self._status_at) - now) * 1000 + 0.5  # poll rounds down

    def _rest(self, woken: set[int]) -> None:
        """Above FLOOD_WAKES a second, rest a little so that one read takes several lines."""
        if not woken:
            return
        second, count = self._wakes
        now = int(time.monotonic())
        self._wakes = (now, count + 1 if now == second else count // 2 if count > FLOOD_WAKES else 0)
        if self._wakes[1] > FLOOD_WAKES:
            time.sleep(REST_SECONDS)

    # -- lines ---------------------------------------------------------------------------------

    def _take_lines(self) -> None:
        """Open or refresh episodes by live lines, and put the others aside."""
        heard: dict[tuple[MessageKind, int | None, bool], tuple[KernelEvent, int]] = {}
        for event, live in self._p.log_sources.take():
            name = (event.message.kind, event.message.namespace, live)
            heard[name] = (event, heard[name][1] + 1 if name in heard else 1)
        now = self._p.clock.boottime()
        for name, (event, lines) in heard.items():
            kind, namespace, live = name
            if live and kind is MessageKind.TABLE_FULL:
                self._episodes[namespace] = episode.heard(self._episodes.get(namespace), event, lines, now)
            else:
                self._others[name] = (event, lines + self._others.get(name, (event, 0))[1])

    def _record_others(self) -> None:
        """Record the lines that nothing is raised for, merged, as what they are; then how far was taken in."""
        while self._others:
            name, (event, lines) = next(iter(self._others.items()))
            kind, namespace, live = name
            trigger = Trigger(
                kind=TriggerKind.KERNEL_MESSAGE,
                message_kind=kind,
                namespace=namespace,
                message=event.message.text,
                live=live,
                message_count=lines,
                stamp_us=event.stamp_us,
            )
            self._controller.decide(trigger, covers=self._all_decided(others=1))
            del self._others[name]
        if self._all_decided():
            self._p.recorder.note_position(self._p.log_sources.position())

    def _all_decided(self, *but: int | None, others: int = 0) -> bool:
        """Return whether no line waits for a decision but those of the episodes `but`, and of so many `others`."""
        waits = any(known.lines for name, known in self._episodes.items() if name not in but)
        return not waits and len(self._others) <= others

    # -- watching ------------------------------------------------------------------------------

    def _watch(self) -> tuple[Table, ...]:
        """One tick: other writers, the tables that may be near the limit (returned), and what they hold."""
        now = self._p.clock.boottime()
        self._look_for_other_writers()
        limit = self._p.kernel.limit()
        self._tick_at = now + usage.TICK_SECONDS
        self._expects_line = False
        if not limit:
            self._tick_at = now + WAITING_SECONDS
            self._close_episodes(now)
            return ()
        wall, series_collector = self._p.clock.wall(), self._p.recorder.series_collector
        tables, hurry = self._p.observer.watch(attentive=bool(self._episodes) or series_collector.is_due(wall))
        left = min((usage.seconds_to_full(t.count, limit, t.demand_per_second) for t in tables), default=math.inf)
        if hurry or left < usage.HURRY_SECONDS or self._just_raised(now):
            self._tick_at = now + usage.HURRIED_TICK_SECONDS
        self._controller.saw(tables, now)
        series_collector.note(tables, self._p.observer.present, limit, wall)
        for table in tables:
            self._judge(table, limit, now)
        self._close_episodes(now)
        policy = self._controller.policy
        by_line_alone = policy.kernel_message and not policy.raise_early and self._p.log_sources.has_ring_buffer
        is_near = left <= usage.URGENT_SECONDS or any(t.count >= usage.EVICTING_USE * limit for t in tables)
        self._expects_line = by_line_alone and is_near and not self._episodes  # an episode is looked at by itself
        if tables and now >= self._memory_at:
            self._memory_at = now + MEMORY_SECONDS
            self._check_memory()
        return tables

    def _just_raised(self, now: float) -> bool:
        """A step made without a measured demand can fill within `cooldown`: look closely meanwhile."""
        last = self._controller.state.last_raise_seconds
        return bool(self._episodes) and last is not None and now - last < self._controller.policy.cooldown_seconds

    def _judge(self, table: Table, limit: int, now: float) -> None:
        """Open or refresh the episode of a table that needs more."""
        policy = self._controller.policy
        for name in {table.namespace, None} & self._episodes.keys():
            opened = self._episodes[name]
            by_line = opened.event is not None and not policy.raise_early and (name is None or table.placed)
            if by_line and is_full(table, self._controller.limit or 0):
                self._episodes[name] = episode.pressed(opened, name, now, urgent=True)
        known = self._episodes.get(table.namespace)
        demand = table.demand_per_second
        already = known is not None
        if policy.raise_early and usage.presses(table.count, limit, demand, policy, already=already):
            urgent = not usage.is_stable(table.count, limit, demand)
            self._episodes[table.namespace] = episode.pressed(known, table.namespace, now, urgent=urgent)

    def _close_episodes(self, now: float) -> None:
        for name in [name for name, known in self._episodes.items() if episode.is_over(known, now)]:
            del self._episodes[name]

    def _check_memory(self) -> None:
        """Say once that what is held breaks budget or reserve, until it no longer does."""
        broken = budget.is_broken(self._p.observer.observe(), self._controller.policy) is not None
        if broken and not self._memory_broken:
            self._controller.decide(Trigger(kind=TriggerKind.MEMORY))
        self._memory_broken = broken

    # -- deciding ------------------------------------------------------------------------------

    def _decide_due(self) -> None:
        """Decide every episode that is due, by the limit as it is now: a line may come before the tick that sees it."""
        now = self._p.clock.boottime()
        if any(known.due_seconds is not None and known.due_seconds <= now for known in self._episodes.values()):
            self._look_for_other_writers()
        for name, known in list(self._episodes.items()):
            if known.due_seconds is not None and known.due_seconds <= now:
                trigger = known.trigger(raise_early=self._controller.policy.raise_early)
                decision = self._controller.decide(
                    trigger, quietly_eased=known.reason is None, covers=self._all_decided(name)
                )
                self._episodes[name] = episode.decided(known, decision)
                self._status_at = 0.0

    def _look_for_other_writers(self) -> None:
        if self._controller.look_for_other_writers():
            now = self._p.clock.boottime()
            self._episodes = {name: episode.limit_changed(known, now) for name, known in self._episodes.items()}
            self._status_at = 0.0

    # -- telling -------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Publish what `guard status` and `systemctl status` show of the running guard."""
        now = self._p.clock.boottime()
        self._controller.take_orders()
        self._status_at = now + STATUS_SECONDS
        document = status_file(
            mode=self._p.mode,
            since_seconds=self.since_seconds,
            wall_seconds=self._p.clock.wall(),
            boottime_seconds=now,
            limit=self._controller.limit,
            policy=self._controller.policy,
            state=self._controller.state,
            pause=self._p.runtime_dir.pause(now),
            sources=self._p.log_sources.report(),
            recorder=self._p.recorder.report(),
            over_budget=self._controller.over_budget,
            episodes=len(self._episodes),
        )
        try:
            self._p.runtime_dir.put_status(document)
        except GuardError as error:
            self._p.recorder.log("guard.error", "error", str(error))
            self._status_at = now + 60.0
        self._p.service.status(status_line(document))
