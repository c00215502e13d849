"""`guard notify`: run the operator's command for each queued decision, until the queue is empty.

A decision leaves the queue when the command succeeds, or after a day of failures, which is logged as an error. This
process waits between retries: if it ended while decisions are queued, systemd's path unit would start it again at once.
"""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import NoDecision, NotifySpool

TIME_LIMIT_SECONDS = 30.0
"""Judgement: mail servers greet up to 20 s late to deter spam, web hooks answer within a few."""
FIRST_RETRY_SECONDS = 10.0
MAX_RETRY_SECONDS = 3600.0
"""Judgement: doubled from 10 s, a day has 32 tries: soon after a short fault, and a readable log after a long one."""
GIVE_UP_SECONDS = 24 * 3600.0
"""Judgement: after a day a notification is no news; the log and the history still have the decision."""
_POLL_SECONDS = 2.0
"""How often the queue is read for new decisions between retries."""
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""The command's whole environment."""


@dataclass(slots=True)
class _Retries:
    """Times of one file, CLOCK_BOOTTIME: a wall clock that is set at boot would end the day at once."""

    since_seconds: float
    next_seconds: float
    wait_seconds: float = FIRST_RETRY_SECONDS


class Messenger:
    """Empties the queue. `command` returns the current words of the setting, None if it is `none`."""

    def __init__(
        self,
        spool: NotifySpool,
        command: Callable[[], tuple[str, ...] | None],
        log: Log,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._spool, self._command, self._log, self._clock, self._sleep = spool, command, log, clock, sleep
        self._retries: dict[str, _Retries] = {}
        self._stuck: set[str] = set()
        """Files that can't be moved or removed: not tried again, and waited for, as systemd would start this at once."""

    def work(self) -> None:
        """Return when the queue is empty. Raises HostError if it can't be read, NotPermitted and what `command` raises."""
        while files := self._spool.files():
            self._log.flush()
            now = self._clock.boottime()
            self._retries = {file: self._retries.get(file) or _Retries(now, now) for file in files}
            self._stuck &= set(files)
            due = [file for file in files if self._retries[file].next_seconds <= now and file not in self._stuck]
            for file in due:
                try:
                    self._deliver(file)
                except HostError as error:
                    self._stuck.add(file)
                    self._emit("error", str(error))
            if not due:
                self._sleep(_POLL_SECONDS)

    def _deliver(self, file: str) -> None:
        """Try one file: remove it once it is delivered or given up, or schedule its next try."""
        try:
            queued = self._spool.read(file)
        except NoDecision as error:
            aside = self._spool.set_aside(file)
            self._emit("error", f"{printable(file)} is not a decision ({error}). Moved to {aside}.")
            return
        if queued is None:
            return
        command = self._command()
        failure = "" if command is None else _run(command, queued.content)
        now, retries, decision = self._clock.boottime(), self._retries[file], f"Decision {queued.name}"
        if failure and now - retries.since_seconds < GIVE_UP_SECONDS:
            wait = format_duration(retries.wait_seconds)
            self._emit("warning", f"{decision} not delivered: {failure}. Next try in {wait}.")
            retries.next_seconds = now + retries.wait_seconds
            retries.wait_seconds = min(2 * retries.wait_seconds, MAX_RETRY_SECONDS)
            return
        self._spool.drop(file)
        if command is None:
            self._emit("warning", f"{decision} not delivered: `notify` is none now.")
        elif failure:
            span = format_duration(GIVE_UP_SECONDS)
            self._emit("error", f"{decision} not delivered for {span}, giving up: {failure}. {queued.sentence}")
        else:
            self._emit("info", f"{decision} delivered.")

    def _emit(self, level: str, message: str) -> None:
        self._log.emit("guard.info" if level == "info" else "guard.error", level, message, subject="notify")


def _run(words: tuple[str, ...], content: bytes) -> str:
    """Run the command with `content` on stdin and return its failure, "" after exit code 0.

    Its output goes where this process's goes, in its unit to the journal. Its unit also kills what it leaves behind.
    """
    try:
        done = subprocess.run(words, input=content, env=_ENVIRONMENT, cwd="/", timeout=TIME_LIMIT_SECONDS, check=False)
    except OSError as error:
        return printable(f"can't run {words[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return f"the command was killed after {TIME_LIMIT_SECONDS:g} s"
    if done.returncode < 0:
        return f"the command was killed by signal {-done.returncode}"
    return f"the command failed with exit code {done.returncode}" if done.returncode else ""
