"""`guard events`: report decisions as Events of Kubernetes, and the guard's health as a condition of the Node.

It reads the pod's outbox, removes nothing there, and keeps no file: an Event's name is that of its decision, so after a
restart the API server knows which ones it has.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from conntrackd_guard.core import cluster, health
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.errors import GuardError, HostError
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.cluster_api import Answer, ClusterApi
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import NoDecision
from conntrackd_guard.host.outbox import Outbox

FIRST_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 300.0
"""Judgement: doubled from 1 s; a fleet of 5,000 nodes then asks 17 times a second, which an API server refuses easily."""
EVENT_SECONDS = 3600.0
"""For this long after its last change an API server keeps an Event by default (`--event-ttl`). Older decisions are no news."""
HEARTBEAT_SECONDS = 300.0
"""node-problem-detector repeats a condition at this interval too."""
POLL_SECONDS = 2.0
_NO_GRANT = "Check the Role, the ClusterRole, their bindings and the admission policy that the chart has for it."
_ALREADY_EXISTS, _NOT_FOUND = 409, 404
_DENIED = frozenset({401, 403})
_INVALID = frozenset({400, 413, 422})
"""The same request will never be taken."""


class _Refused(Exception):  # noqa: N818 - an answer
    """The API server answered otherwise than hoped for."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.answer = answer


@dataclass(slots=True)
class _Task:
    """Work that is tried again, ever more rarely, and whose failure is logged once."""

    name: str
    work: Callable[[], None]
    due_seconds: float = 0.0
    wait_seconds: float = FIRST_RETRY_SECONDS
    failure: str = ""


@dataclass(slots=True)
class _Series:
    """An Event that later holds of the same kind are counted in."""

    name: str
    written_seconds: float
    count: int = 1


@dataclass(slots=True)
class _Shown:
    """The condition as the API server has it."""

    content: dict[str, str] = field(default_factory=dict)
    since_seconds: float = 0.0
    sent_seconds: float = 0.0
    """CLOCK_BOOTTIME of the last time it was sent."""


class Reporter:
    """Reports one node. `instance` names this reporter, such as the pod."""

    def __init__(  # noqa: PLR0913 - wiring
        self, outbox: Outbox, api: ClusterApi, log: Log, clock: Clock, *, node: str, instance: str
    ) -> None:
        self._outbox, self._api, self._log, self._clock = outbox, api, log, clock
        self._node, self._instance = node, instance
        self._tasks = (_Task("condition", self._send_condition), _Task("events", self._send_events))
        self._done: set[str] = set()
        """Files of the outbox that are reported, or never will be."""
        self._series: dict[tuple[str, object], _Series] = {}
        self._shown = _Shown()
        self._started_seconds = clock.boottime()

    def work(self, stopped: Callable[[], bool], sleep: Callable[[float], None] = time.sleep) -> None:
        """Report until `stopped`; then show that nobody reports any more, if the API server answers at once."""
        while not stopped():
            self.turn()
            sleep(POLL_SECONDS)
        if self._shown.content:
            try:
                self._patch_condition(cluster.stopped())
            except (HostError, _Refused) as error:
                self._log.emit("guard.error", "warning", f"The condition stays as it is: {error}", subject="condition")

    def turn(self) -> None:
        """Do what is due. Each task has its own pace: without the right to one, the other goes on."""
        self._log.flush()
        for task in self._tasks:
            if self._clock.boottime() < task.due_seconds:
                continue
            try:
                task.work()
            except _Refused as refused:
                hint = f" {_NO_GRANT}" if refused.answer.status in _DENIED else ""
                self._retry(task, f"The API server refused: {refused}.{hint}", refused.answer.retry_after_seconds)
            except GuardError as error:  # no answer, or an outbox that can't be read
                self._retry(task, str(error), None)
            else:
                if task.failure:
                    self._emit("info", task.name, "The API server takes requests again.")
                task.wait_seconds, task.failure = FIRST_RETRY_SECONDS, ""

    def _retry(self, task: _Task, failure: str, after_seconds: float | None) -> None:
        """Try a task again later: no sooner than the API server wants, and not with all nodes at once."""
        wait = min(max(task.wait_seconds, after_seconds or 0.0), MAX_RETRY_SECONDS)
        task.due_seconds = self._clock.boottime() + wait * random.uniform(1.0, 1.5)  # noqa: S311 - no secret
        task.wait_seconds = min(2 * task.wait_seconds, MAX_RETRY_SECONDS)
        if failure != task.failure:
            task.failure = failure
            self._emit("warning", task.name, failure)

    def _send_condition(self) -> None:
        """Send the condition if it changed, or for a sign of life. Raises HostError, _Refused."""
        now, document = self._clock.boottime(), self._outbox.status()
        if document is None and now - self._started_seconds <= health.SILENT_SECONDS:
            return  # the guard starts beside this
        found = health.of_host(document, running=None, now_seconds=now, mode=Mode.ACT)
        wanted = cluster.condition(found)
        if wanted != self._shown.content or now - self._shown.sent_seconds >= HEARTBEAT_SECONDS:
            self._patch_condition(wanted)

    def _patch_condition(self, wanted: dict[str, str]) -> None:
        now, wall = self._clock.boottime(), self._clock.wall()
        same = wanted["status"] == self._shown.content.get("status")
        since = self._shown.since_seconds if same else wall
        times = {"lastHeartbeatTime": cluster.whole_time(wall), "lastTransitionTime": cluster.whole_time(since)}
        path = f"/api/v1/nodes/{self._node}/status"
        answer = self._api.patch(path, {"status": {"conditions": [wanted | times]}}, by_key=True)
        if not answer.is_done:
            raise _Refused(answer)
        self._shown = _Shown(wanted, since, now)

    def _send_events(self) -> None:
        """Send what is new in the outbox, the oldest first, for POLL_SECONDS at most. Raises GuardError, _Refused."""
        files, began = self._outbox.decisions.files(), self._clock.boottime()
        self._done &= set(files)
        for file in files:
            if file in self._done:
                continue
            if self._clock.boottime() - began > POLL_SECONDS:
                return  # the condition and SIGTERM wait for no slow server
            try:
                self._send_event(file)
            except (NoDecision, ValueError) as error:
                self._emit("error", "events", f"{printable(file)} is not a decision ({error}). No Event for it.")
            except _Refused as refused:
                if refused.answer.status not in _INVALID:
                    raise
                self._emit("error", "events", f"No Event for {printable(file)}: the API server answered {refused}.")
            self._done.add(file)

    def _send_event(self, file: str) -> None:
        """Send one decision. Raises NoDecision, ValueError, HostError, _Refused."""
        queued = self._outbox.decisions.read(file)
        if queued is None:  # displaced in the meantime
            return
        decision = queued.decision
        event = cluster.event(decision, file.removesuffix(".json"), self._node, self._instance)
        age = self._clock.wall() - cluster.seconds(decision.get("at"))
        if age > EVENT_SECONDS:
            if self._tasks[1].failure:  # else an earlier run has reported it
                text = f"Decision {queued.name} is {format_duration(age)} old, giving up: no Event for it. {queued.sentence}"
                self._emit("error", "events", text)
            return
        kind = (str(event["reason"]), decision.get("namespace"))
        if event["action"] == "Hold" and self._is_counted(kind, event):
            return
        answer = self._api.create(cluster.EVENTS, event)
        if not answer.is_done and answer.status != _ALREADY_EXISTS:
            raise _Refused(answer)
        if event["action"] == "Hold":
            self._series[kind] = _Series(event["metadata"]["name"], self._clock.boottime())

    def _is_counted(self, kind: tuple[str, object], event: dict[str, Any]) -> bool:
        """Count a hold in the Event of an equal one; return whether there is one. Raises HostError, _Refused."""
        now = self._clock.boottime()
        self._series = {key: one for key, one in self._series.items() if now - one.written_seconds < EVENT_SECONDS}
        series = self._series.get(kind)
        if series is None:
            return False
        counted = {"count": series.count + 1, "lastObservedTime": event["eventTime"]}
        answer = self._api.patch(f"{cluster.EVENTS}/{series.name}", {"series": counted})
        if answer.status == _NOT_FOUND:  # it has expired, or somebody deleted it
            del self._series[kind]
            return False
        if not answer.is_done:
            raise _Refused(answer)
        series.count, series.written_seconds = series.count + 1, now
        return True

    def _emit(self, level: str, subject: str, message: str) -> None:
        self._log.emit("guard.info" if level == "info" else "guard.error", level, message, subject=subject)
