"""The main loop: wait for messages and ticks, and have the controller decide what is due.

One turn takes new kernel messages, decides every episode that is due, looks at the tables when a
tick is due, decides the episodes that this opened, and records the other messages. A turn touches
only /proc, /sys and /run; the recorder's thread waits for disks and logs.
"""

import select
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from conntrackd_guard.core import episode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.episode import Episode
from conntrackd_guard.core.errors import describe
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import MessageKind, Trigger, TriggerKind
from conntrackd_guard.core.usage import HURRIED_TICK_SECONDS
from conntrackd_guard.daemon.controller import Controller
from conntrackd_guard.daemon.dependencies import WAITING_SECONDS, Dependencies

STATUS_SECONDS = 2.0
BUSY_WAKES = 100
"""Wake-ups a second from which the loop rests between reads: a firewall that logs thousands of messages."""
REST_SECONDS = 0.002
PAST_SECONDS = 2.0
"""Messages from before the start are gathered for this long: ring buffer and journal give them in parts."""
FAILED_WAIT_SECONDS = 0.25
"""If the loop can't wait for messages and signals, it looks for both at this interval."""
MOST_FAILED_TURNS = 30
"""In a row, WAITING_SECONDS apart: a minute. Then the watchdog is no longer fed, and the service manager restarts the daemon."""
_MOST_COUNTED, _MOST_NAMED = 1000, 5
"""Namespaces of such messages that are counted, and that a record names."""


class Loop:
    """The daemon's main loop. `run` returns when a signal asks to stop."""

    def __init__(self, parts: Dependencies, controller: Controller, signals: Callable[[], frozenset[str]]) -> None:
        self._log_sources, self._recorder = parts.log_sources, parts.recorder
        self._clock, self._service, self._debug = parts.clock, parts.service, parts.debug
        self._controller = controller
        self._signals = signals
        self._episodes: dict[int | None, Episode] = {}
        self._new: dict[int | None, Trigger] = {}
        """"Table full" messages of namespaces that no decision has answered yet."""
        self._others: dict[tuple[MessageKind, int | None, bool], Trigger] = {}
        """Messages that are only recorded, until they are; those from before the start as one of each kind."""
        self._past: dict[MessageKind, Counter[int]] = {}
        """The namespaces of those from before the start."""
        self._past_at = 0.0
        """When those are recorded."""
        self._tick_at = self._status_at = self._blind_until = 0.0
        self._wakes: tuple[int, int] = (0, 0)
        self._failed_turns = 0
        """Since the last tick that succeeded."""
        self._unpublished = self._unread = self._deaf = False
        """The status could not be written, messages could not be taken, and the loop could not wait, the last time."""

    def run(self, wake_descriptor: int, reload: Callable[[], Policy | None]) -> None:
        """Work until a signal asks to stop. `wake_descriptor` becomes readable on a signal."""
        self.start()
        while True:
            woken = self._wait(wake_descriptor)
            signals = self._signals() if wake_descriptor in woken else frozenset()
            if "stop" in signals:
                self._past_at = 0.0
                self.turn(readable=False)
                return
            if "reload" in signals:
                self._reload(reload)
            if woken:
                self._rest()
            self.turn(readable=bool(woken))
            if self._failed_turns < MOST_FAILED_TURNS:
                self._service.watchdog()

    def start(self) -> None:
        """Compare the limit with the last run's and the persisted one, then do a first turn."""
        try:
            self._controller.start()
        except Exception as error:  # noqa: BLE001 - the loop goes on without the comparison
            self._log_error(f"Can't compare the limit with the persisted one: {describe(error)}")
        self.turn()

    def turn(self, *, readable: bool = True) -> None:
        """Do one turn; `readable`: a source may have messages. An error, whatever its kind, is logged and ends the turn only.

        After an error, decisions and ticks wait for WAITING_SECONDS; messages are still taken, if not they were the reason.
        """
        ticked = False
        try:
            if readable or self._log_sources.is_behind():
                self._unread = True
                self._take_messages()
                self._unread = False
            now = self._clock.boottime()
            if now >= self._blind_until:
                for namespace in [*self._new]:  # packets are dropped: nothing comes before this
                    message = self._new[namespace]
                    decision = self._controller.decide(message, covers=partial(self._all_decided, namespace))
                    self._episodes[namespace] = episode.on_message(
                        self._episodes.get(namespace), self._new.pop(namespace), decision, now
                    )
                    self._look_again(now)
                self._decide_due()
                if now >= self._tick_at:
                    self._episodes, self._tick_at = self._controller.tick(self._episodes)
                    ticked = True
                    self._decide_due()
                self._record_others()
            if self._debug is not None:
                self._debug.episodes(self._episodes)
            if now >= self._status_at:
                self._status_at = now + STATUS_SECONDS
                self._publish()
            self._failed_turns = 0 if ticked else self._failed_turns
        except Exception as error:  # noqa: BLE001 - out of descriptors, threads or memory, or a fault of this program
            self._back_off(error)

    def _back_off(self, error: Exception) -> None:
        """Log the first error of a row; have decisions and ticks wait."""
        self._failed_turns += 1
        self._blind_until = self._clock.boottime() + WAITING_SECONDS
        self._status_at = max(self._status_at, self._blind_until)
        if self._failed_turns == 1:
            self._log_error(f"{describe(error)}. Retrying every {WAITING_SECONDS:g} s.")
        elif self._failed_turns == MOST_FAILED_TURNS:
            self._log_error(
                f"{describe(error)}. Failed {MOST_FAILED_TURNS} times in a row: leaving it to the watchdog."
            )
        elif self._debug is not None:
            self._debug.failure(error)

    def _log_error(self, text: str) -> None:
        with suppress(MemoryError):
            self._recorder.log("guard.error", "error", text)

    def _wait(self, wake_descriptor: int) -> set[int]:
        """Wait for a signal, a message or what is due next; return the descriptors that may be readable."""
        descriptors = [wake_descriptor]
        try:
            if not self._unread or self._clock.boottime() >= self._blind_until:
                descriptors += self._log_sources.descriptors()
            poller = select.poll()
            for descriptor in descriptors:
                poller.register(descriptor, select.POLLIN)
            woken = {descriptor for descriptor, _ in poller.poll(self._wait_ms())}
        except Exception as error:  # noqa: BLE001 - poll(2) fails without memory
            if not self._deaf:
                self._log_error(f"{describe(error)}. Looking for messages every {FAILED_WAIT_SECONDS:g} s.")
            self._deaf = True
            time.sleep(FAILED_WAIT_SECONDS)
            return {*descriptors}
        self._deaf = False
        return woken

    def _reload(self, reload: Callable[[], Policy | None]) -> None:
        try:
            self._controller.policy = reload() or self._controller.policy
        except Exception as error:  # noqa: BLE001 - the old settings stay in effect
            self._log_error(f"Settings not reloaded, the old ones stay in effect: {describe(error)}")

    def due(self) -> float | None:
        """Return when the first open episode is decided again (CLOCK_BOOTTIME), None if none waits for a time."""
        return min((one.due_seconds for one in self._episodes.values() if one.due_seconds is not None), default=None)

    def is_needed(self) -> bool:
        """Return whether an episode is open."""
        return bool(self._episodes)

    def _wait_ms(self) -> float:
        now, due = self._clock.boottime(), self.due()
        next_at = max(self._blind_until, self._tick_at if due is None else min(self._tick_at, due))
        return max(0.0, next_at - now) * 1000 + 0.5  # poll rounds down; a status is published after a tick

    def _rest(self) -> None:
        """Above BUSY_WAKES a second, rest so that one read takes several messages."""
        second, count = self._wakes
        now = int(time.monotonic())
        self._wakes = (now, count + 1 if now == second else count // 2 if count > BUSY_WAKES else 0)
        if self._wakes[1] > BUSY_WAKES:
            time.sleep(REST_SECONDS)

    def _take_messages(self) -> None:
        """Take new messages: the newest of each kind and namespace, with the number of all."""
        now = self._clock.boottime()
        for event, is_new in self._log_sources.take():
            kind, namespace = event.message.kind, event.message.namespace
            if not is_new:
                self._count_past(kind, namespace, now)
                namespace = None
            key, is_urgent = (kind, namespace, is_new), is_new and kind is MessageKind.TABLE_FULL
            before = self._new.get(namespace) if is_urgent else self._others.get(key)
            known = self._episodes.get(namespace)
            trigger = Trigger(
                kind=TriggerKind.KERNEL_MESSAGE,
                message_kind=kind,
                namespace=namespace,
                message=event.message.text,
                live=is_new,
                message_count=1 if before is None else before.message_count + 1,
                message_seconds=now if is_new else None,
                stamp_us=event.stamp_us,
                judged=known is not None and known.reason is HoldReason.UNTRUSTED_NAMESPACE,
            )
            if is_urgent:
                self._new[namespace] = trigger
            else:
                self._others[key] = trigger

    def _count_past(self, kind: MessageKind, namespace: int | None, now: float) -> None:
        """Count a message from before the start by its namespace."""
        if not self._past:
            self._past_at = now + PAST_SECONDS
        counted = self._past.setdefault(kind, Counter())
        if namespace is not None and (namespace in counted or len(counted) < _MOST_COUNTED):
            counted[namespace] += 1

    def _decide_due(self) -> None:
        """Decide every episode that is due."""
        now = self._clock.boottime()
        for name, known in list(self._episodes.items()):
            if known.due_seconds is not None and known.due_seconds <= now:
                self._episodes[name] = self._controller.answer(known, covers=partial(self._all_decided, name))
                self._look_again(now)

    def _look_again(self, now: float) -> None:
        """After a decision, publish the status, and look at the tables soon: a raise may have been too small."""
        self._status_at, self._tick_at = 0.0, min(self._tick_at, now + HURRIED_TICK_SECONDS)

    def _record_others(self) -> None:
        """Record the messages that raise nothing; then save the position in the log."""
        now = self._clock.boottime()
        for name in [key for key, trigger in self._others.items() if trigger.live or now >= self._past_at]:
            trigger, kind = self._others[name], name[0]
            if not trigger.live:
                wall, counted = self._log_sources.past_wall_seconds.get(kind), self._past[kind]
                most = tuple(counted.most_common(_MOST_NAMED))
                more = len(counted) - len(most)
                trigger = replace(trigger, message_wall_seconds=wall, namespaces=most, more_namespaces=more)
            self._controller.decide(trigger, covers=partial(self._all_decided, others=1))
            del self._others[name]
            if not trigger.live:
                del self._past[kind]
        if self._all_decided():
            self._recorder.note_position(self._log_sources.position())

    def _all_decided(self, *but: int | None, others: int = 0) -> bool:
        """Return whether only the messages about the namespaces `but`, and `others` more, wait for a decision."""
        return not self._new.keys() - set(but) and len(self._others) <= others

    def _publish(self) -> None:
        """Publish the status for `guard status` and for the service manager; log once that it can't be written."""
        try:
            self._controller.publish(self._episodes)
        except Exception as error:  # noqa: BLE001 - nothing but the status depends on it
            if not self._unpublished:
                self._log_error(describe(error))
            self._unpublished = True
        else:
            self._unpublished = False
