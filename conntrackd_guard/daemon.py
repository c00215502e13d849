"""The loop: lines and counters in, decisions out. It touches only /proc, /sys and /run.

One turn: take what the sources heard, watch the tables when a tick is due, decide every episode
that is due. Nothing here waits for a disk or a log; the recorder does that.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from conntrackd_guard.applier import LOWERED_RETRIES, Applier, Lowered
from conntrackd_guard.core import budget, episode, pressure
from conntrackd_guard.core.codec import decode
from conntrackd_guard.core.corroboration import corroborate
from conntrackd_guard.core.episode import Episode
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.model import (
    Corroboration,
    Hold,
    HoldReason,
    KernelEvent,
    LineKind,
    Mode,
    Observation,
    Outcome,
    OutcomeKind,
    Policy,
    Raise,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.state import advance
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.kernel import Kernel
from conntrackd_guard.host.runfiles import RunFiles
from conntrackd_guard.host.service import Service
from conntrackd_guard.intake import Intake
from conntrackd_guard.observer import Observer
from conntrackd_guard.recorder import Recorder

STATUS_SECONDS = 2.0
MEMORY_SECONDS = 1.0
"""How often what is held is compared with budget and reserve while tables are being read."""
WAITING_SECONDS = 2.0
"""The tick while this kernel tracks no connections."""
FLOOD_WAKES = 100
"""Wake-ups a second from which the loop rests between reads: a firewall that logs thousands of lines."""
REST_SECONDS = 0.002


@dataclass(slots=True, kw_only=True)
class Parts:
    """What the loop works with."""

    mode: Mode
    kernel: Kernel
    observer: Observer
    applier: Applier
    recorder: Recorder
    run_files: RunFiles
    intake: Intake
    clock: Clock
    service: Service


class Guard:
    """The daemon. `run` returns when told to stop."""

    def __init__(self, parts: Parts, policy: Policy, state: State, signals: Callable[[], frozenset[str]]) -> None:
        self._p = parts
        self._policy = policy
        self._state = state
        self._signals = signals
        self._episodes: dict[int | None, Episode] = {}
        self._limit = parts.kernel.limit_in_force()
        self._tick_at = self._status_at = self._memory_at = 0.0
        self._memory_broken = False
        self._keys = 0
        self._wakes: tuple[int, int] = (0, 0)
        self._failures = 0
        self._last = ""
        self.since_seconds = parts.clock.wall()

    def run(self, wake_descriptor: int, reload: Callable[[], Policy | None]) -> None:
        """Work until a signal says stop. `wake_descriptor` becomes readable on a signal."""
        poller = select.poll()
        poller.register(wake_descriptor, select.POLLIN)
        for descriptor in self._p.intake.descriptors():
            poller.register(descriptor, select.POLLIN)
        self.turn()
        while True:
            woken = {descriptor for descriptor, _ in poller.poll(self._wait_ms())}
            if wake_descriptor in woken:
                told = self._signals()
                if "stop" in told:
                    return
                if "reload" in told:
                    self._policy = reload() or self._policy
            self._rest(woken)
            self.turn(heard=bool(woken))
            self._p.service.watchdog()

    def turn(self, *, heard: bool = True) -> None:
        """One turn; `heard`: a source may have lines. An error of the host is said, and ends the turn only."""
        try:
            if heard:
                self._take_lines()
            if self._p.clock.boottime() >= self._tick_at:
                self._watch()
            self._decide_due()
            self._failures = 0
        except GuardError as error:
            self._failures += 1
            if self._failures == 1:
                self._p.recorder.say("guard.error", "error", str(error))
            self._tick_at = self._p.clock.boottime() + WAITING_SECONDS
        if self._p.clock.boottime() >= self._status_at:
            self._publish()

    def _wait_ms(self) -> float:
        now = self._p.clock.boottime()
        due = [e.due_seconds for e in self._episodes.values() if e.due_seconds is not None]
        return max(0.0, min([self._tick_at, self._status_at, *due]) - now) * 1000 + 0.5  # poll rounds down

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
        """Open or refresh episodes by live lines; record the others, merged, as what they are."""
        others: dict[tuple[LineKind, int | None, bool], tuple[KernelEvent, int]] = {}
        now = self._p.clock.boottime()
        for event, live in self._p.intake.take():
            namespace = event.line.namespace
            if live and event.line.kind is LineKind.TABLE_FULL:
                self._episodes[namespace] = episode.heard(self._episodes.get(namespace), event, now)
            else:
                name = (event.line.kind, namespace, live)
                others[name] = (event, others[name][1] + 1 if name in others else 1)
        for (kind, namespace, live), (event, lines) in others.items():
            self._decide(
                Trigger(
                    kind=TriggerKind.KERNEL_LINE,
                    line=kind,
                    namespace=namespace,
                    message=event.line.message,
                    live=live,
                    lines=lines,
                    stamp_us=event.stamp_us,
                )
            )
        if not any(e.lines for e in self._episodes.values()):
            self._p.recorder.note_position(self._p.intake.position())

    # -- watching ------------------------------------------------------------------------------

    def _watch(self) -> None:
        """One tick: other writers, the tables that may be near the limit, and what they hold."""
        now = self._p.clock.boottime()
        self._look_for_other_writers()
        limit = self._p.kernel.limit()
        self._tick_at = now + pressure.TICK_SECONDS
        if not limit:
            self._tick_at = now + WAITING_SECONDS
            return
        tables = self._p.observer.watch(limit, attentive=bool(self._episodes))
        hurried = [pressure.seconds_to_full(t.count, limit, t.demand_per_second) for t in tables]
        if min(hurried, default=pressure.HURRY_SECONDS) < pressure.HURRY_SECONDS or self._just_raised(now):
            self._tick_at = now + pressure.HURRIED_TICK_SECONDS
        for table in tables:
            self._judge(table, limit, now)
        self._close_episodes(now)
        if tables and now >= self._memory_at:
            self._memory_at = now + MEMORY_SECONDS
            self._check_memory()

    def _just_raised(self, now: float) -> bool:
        """A step made without a measured demand can fill within `settle`: look closely meanwhile."""
        last = self._state.last_raise_seconds
        return bool(self._episodes) and last is not None and now - last < self._policy.settle_seconds

    def _judge(self, table: Table, limit: int, now: float) -> None:
        """Open or refresh the episode of a table that needs more."""
        policy = self._policy
        for name in {table.namespace, None} & self._episodes.keys():
            opened = self._episodes[name]
            by_line = opened.event is not None and not policy.pressure
            if by_line and self._is_full(opened, table):
                self._episodes[name] = episode.pressed(opened, name, now, urgent=True)
        known = self._episodes.get(table.namespace)
        demand = table.demand_per_second
        already = known is not None
        if policy.pressure and pressure.presses(table.count, limit, demand, policy, already=already):
            urgent = bool(table.dropped) or not pressure.is_stable(table.count, limit, demand)
            self._episodes[table.namespace] = episode.pressed(known, table.namespace, now, urgent=urgent)

    def _is_full(self, known: Episode, table: Table) -> bool:
        seen = Observation(
            boottime_seconds=0.0, wall_seconds=0.0, boot_id="", limit=None, kernel_limit=self._limit, tables=(table,)
        )
        return corroborate(known.trigger(pressure=False), seen) is Corroboration.CONFIRMED

    def _close_episodes(self, now: float) -> None:
        for name in [name for name, known in self._episodes.items() if episode.is_over(known, now)]:
            del self._episodes[name]

    def _take_orders(self) -> None:
        """Take orders into the state: whoever gave them has recorded them."""
        for key, content in self._p.run_files.orders():
            try:
                record = decode(Record, content)
            except ValueError:
                self._p.recorder.say("guard.error", "error", f"The order {key} can't be read and is left out.")
            else:
                self._state = advance(self._state, record)
                if record.outcome.limit_after is not None:
                    self._limit = record.outcome.limit_after
            self._p.run_files.drop_order(key)

    def _look_for_other_writers(self) -> None:
        """Notice a limit that neither the guard nor an order set."""
        limit = self._p.kernel.limit_in_force()
        if limit == self._limit:
            return
        self._take_orders()
        before, self._limit = self._limit, limit
        if limit == before:
            return
        if limit is None or before is None:
            what = (
                "tracks no connections any more" if limit is None else f"tracks connections now, with limit {limit:,}"
            )
            self._p.recorder.say("guard.notice", "info", f"This kernel {what}.")
            return
        self._decide(Trigger(kind=TriggerKind.OTHER_WRITER, was=before))
        now = self._p.clock.boottime()
        self._episodes = {name: episode.limit_changed(known, now) for name, known in self._episodes.items()}

    def _check_memory(self) -> None:
        """Say once that what is held breaks budget or reserve, until it no longer does."""
        broken = budget.is_broken(self._p.observer.observe(), self._policy) is not None
        if broken and not self._memory_broken:
            self._decide(Trigger(kind=TriggerKind.MEMORY))
        self._memory_broken = broken

    # -- deciding ------------------------------------------------------------------------------

    def _decide_due(self) -> None:
        now = self._p.clock.boottime()
        for name, known in list(self._episodes.items()):
            if known.due_seconds is not None and known.due_seconds <= now:
                trigger = known.trigger(pressure=self._policy.pressure)
                decision = self._decide(trigger, quietly_eased=known.reason is None)
                self._episodes[name] = episode.decided(known, decision)

    def _decide(self, trigger: Trigger, *, quietly_eased: bool = False) -> Raise | Hold:
        """Observe, decide, apply, record; return the decision as it ended."""
        for attempt in range(LOWERED_RETRIES + 1):
            record = self._decide_once(trigger, last=attempt == LOWERED_RETRIES)
            if record is not None:
                break
        else:
            raise AssertionError("the last attempt always ends in a record")
        decision = record.decision
        if not (quietly_eased and isinstance(decision, Hold) and decision.reason is HoldReason.EASED):
            self._finish(record)
        if isinstance(decision, Raise) and record.outcome.kind is OutcomeKind.REJECTED and self._state.refusal:
            return Hold(reason=HoldReason.WRITE_REFUSED, retry_seconds=self._state.refusal.until_seconds)
        return decision if isinstance(decision, Raise | Hold) else Hold(reason=HoldReason.EASED)

    def _decide_once(self, trigger: Trigger, *, last: bool) -> Record | None:
        """One attempt; None where the limit was lowered while deciding and there are attempts left."""
        unplaced = trigger.live and trigger.lines > 0 and trigger.namespace is None
        wanted = () if trigger.namespace is None or not trigger.live else (trigger.namespace,)
        observation = self._p.observer.observe(namespaces=wanted, rescan=unplaced)
        decision = decide(trigger, observation, self._state, self._policy)
        self._keys += 1
        planned = Record(
            key=f"{int(observation.boottime_seconds * 1e6)}-{os.getpid()}-{self._keys}",
            mode=self._p.mode,
            trigger=trigger,
            observation=observation,
            state=self._state,
            decision=decision,
            outcome=Outcome(kind=OutcomeKind.NONE),
        )
        if not isinstance(decision, Raise):
            return planned
        done = self._p.applier.apply(planned, decision)
        if not isinstance(done, Lowered):
            return done
        self._look_for_other_writers()
        retry = Hold(
            reason=HoldReason.CHANGED_UNDER_US, retry_seconds=observation.boottime_seconds + pressure.TICK_SECONDS
        )
        return replace(planned, decision=retry) if last else None

    def _finish(self, record: Record) -> None:
        """Take a record into the state and hand it to the recorder."""
        self._state = advance(self._state, record)
        if isinstance(record.decision, Raise) and record.outcome.limit_after is not None:
            if not self._p.kernel.rehearsing:
                self._limit = record.outcome.limit_after
            self._p.observer.rebase()
        self._p.recorder.submit(record, self._policy, self._p.intake.position(), times=max(1, record.trigger.lines))
        self._status_at = 0.0

    # -- telling -------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Publish what `guard status` and `systemctl status` show of the running guard."""
        now = self._p.clock.boottime()
        self._take_orders()
        self._status_at = now + STATUS_SECONDS
        pause = self._p.run_files.pause(now)
        report = self._p.recorder.report()
        fights = [at for at in self._state.fight_seconds if at > now - self._policy.standoff_window_seconds]
        content: dict[str, Any] = {
            "version": 1,
            "pid": os.getpid(),
            "since": self.since_seconds,
            "mode": self._p.mode.value,
            "limit": self._limit,
            "sources": self._p.intake.report(),
            "recorder": report,
            "paused": None if pause is None else {"by": pause.by, "reason": pause.reason},
            "standoff": bool(self._policy.standoff) and len(fights) >= self._policy.standoff,
            "episodes": len(self._episodes),
        }
        try:
            self._p.run_files.put_status(content)
        except GuardError as error:
            self._p.recorder.say("guard.error", "error", str(error))
            self._status_at = now + 60.0
        text = "waiting for conntrack" if self._limit is None else f"limit {self._limit:,}"
        if pause is not None:
            text += f", paused by {pause.by}"
        if report["trouble"]:
            text += f", {len(report['trouble'])} trouble(s): see `guard status`"
        self._p.service.status(f"{self._p.mode.value}: {text}")
