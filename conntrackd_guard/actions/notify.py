"""`guard notify`: runs the operator's command for each decision that waits, until none does.

A decision leaves /run when the command took it (exit code 0) or after a day of failures, which is
said as an error: never silently. This process paces itself: were it to end well while something
waits, systemd's path unit would start it again at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.command import run_command
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import NoDecision, NotifySpool, Waiting

TIME_LIMIT_SECONDS = 30.0
"""Judgement: mail servers greet up to 20 s late to deter spam, web hooks answer within a few."""
FIRST_RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 3600.0
"""Judgement: doubled from 10 s, a day has 32 tries: soon after a short fault, and a log that can be read after a long one."""
GIVE_UP_SECONDS = 24 * 3600.0
"""Judgement: who was not told for a day finds it in the log and in the history."""
_LOOK_SECONDS = 2.0
"""While something waits for its next try, how soon a new decision is seen."""


@dataclass(slots=True)
class _Tries:
    """What was tried for one file, CLOCK_BOOTTIME: a wall clock set right at boot would end the day at once."""

    since_seconds: float
    next_seconds: float
    wait_seconds: float = FIRST_RETRY_SECONDS


class Messenger:
    """Empties the folder. `command` gives the words of the setting as they are now, None where it is off."""

    def __init__(
        self,
        notices: NotifySpool,
        command: Callable[[], tuple[str, ...] | None],
        log: Log,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._notices, self._command, self._log, self._clock, self._sleep = notices, command, log, clock, sleep
        self._tries: dict[str, _Tries] = {}

    def work(self) -> None:
        """Return when nothing waits. Raises HostError, NotPermitted and what `command` raises."""
        while files := self._notices.files():
            self._log.flush()
            now = self._clock.boottime()
            self._tries = {file: self._tries.get(file) or _Tries(now, now) for file in files}
            due = [file for file in files if self._tries[file].next_seconds <= now]
            for file in due:
                self._attend(file)
            if not due:
                self._sleep(_LOOK_SECONDS)

    def _attend(self, file: str) -> None:
        """Try one file: it goes, or its next try is set."""
        try:
            waiting = self._notices.read(file)
        except NoDecision as error:
            aside = self._notices.set_aside(file)
            self._say("error", f"What stood in {printable(file)} is no decision ({error}). It was set aside: {aside}.")
            return
        if waiting is None:
            return
        command = self._command()
        if command is None:
            self._notices.drop(file)
            self._say("warning", f"Nobody is told of decision {waiting.name}: the setting `notify` is none by now.")
            return
        ending = run_command(command, waiting.content, TIME_LIMIT_SECONDS)
        said = f" It printed: {ending.output}" if ending.output else ""
        if ending.failure:
            self._put_off(file, waiting, f"The notify command failed: {ending.failure}.{said}")
            return
        self._notices.drop(file)
        self._say("info", f"The notify command took decision {waiting.name}.{said}")

    def _put_off(self, file: str, waiting: Waiting, why: str) -> None:
        """Set the next try after a failure, or give up."""
        now, tries = self._clock.boottime(), self._tries[file]
        if now - tries.since_seconds >= GIVE_UP_SECONDS:
            self._notices.drop(file)
            span = format_duration(GIVE_UP_SECONDS)
            self._say("error", f"Given up after {span}, decision {waiting.name}: {waiting.sentence} {why}")
            return
        wait = format_duration(tries.wait_seconds)
        self._say("warning", f"Decision {waiting.name} waits, next try in {wait}. {why}")
        tries.next_seconds = now + tries.wait_seconds
        tries.wait_seconds = min(2 * tries.wait_seconds, LONGEST_RETRY_SECONDS)

    def _say(self, level: str, message: str) -> None:
        self._log.emit("guard.info" if level == "info" else "guard.error", level, message, subject="notify")
