"""Notify the service manager (sd_notify): ready, status, reloading, stopping, watchdog."""

import contextlib
import os
import time

from systemd import daemon

from conntrackd_guard.core.text import printable

WATCHDOG_SECONDS = 30.0
"""As `WatchdogSec=` of the unit."""


class Service:
    """Does nothing without a service manager (NOTIFY_SOCKET)."""

    def __init__(self) -> None:
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID") in {None, str(os.getpid())}
        self._every = int(microseconds) / 1e6 / 3 if microseconds.isdecimal() and int(microseconds) and ours else None
        self._fed = 0.0
        self._beat = time.monotonic()
        self._within = WATCHDOG_SECONDS if self._every is None else 3 * self._every
        self._status = ""

    def ready(self) -> None:
        """Report that start-up (or a reload) is done."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the line in `systemctl status`; an unchanged one is not sent again."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={printable(text)}")  # a newline would begin another message, such as READY=1

    def reloading(self) -> None:
        """Report that a reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that shutdown begins."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Report that the main loop is alive, at a third of the watchdog's interval."""
        now = self._beat = time.monotonic()
        if self._every is not None and now - self._fed >= self._every:
            self._fed = now
            self._send("WATCHDOG=1")

    def alive(self) -> bool:
        """Return whether the main loop has reported within the watchdog's time; WATCHDOG_SECONDS without one."""
        return time.monotonic() - self._beat < self._within

    def _send(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the service manager is being re-executed
            daemon.notify(text)
