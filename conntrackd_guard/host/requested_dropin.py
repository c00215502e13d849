"""The drop-in of a daemon whose sandbox may not write it: conntrackd-guard-persist.service does, at its request."""

import os
import time

from conntrackd_guard.core.errors import GuardError, HostError, Unfinished
from conntrackd_guard.host.dropin_request import DropInRequest
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn

WAIT_SECONDS = 3.0
"""The service takes 0.2 s; a host that is short of CPU during a flood gets the rest. The recorder waits meanwhile."""
PATIENCE_SECONDS = 30.0
"""From then on it is an error, and asked for again. On two emulated cores with other work the service took 8 s."""
_POLL_SECONDS = 0.02
_UNIT = "conntrackd-guard-persist"


class RequestedDropIn(SysctlDropIn):
    """Writes by request where systemd has made the folder read-only for this process, else by itself.

    Methods raise Unfinished while a request may still be carried out: the same call goes on with it.
    """

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths)
        self._asked_us: int | None = None
        """The decision that was asked for and not answered yet."""
        self._asked_at = 0.0
        """When (time.monotonic)."""

    def _settle(self, request: DropInRequest) -> None:
        if not self._is_forbidden():
            super()._settle(request)
            return
        deadline = now = time.monotonic()
        if self._asked_us != request.decided_us:
            if self._lock.is_taken():  # else an earlier request still waits: rows and messages need not wait again
                deadline += WAIT_SECONDS
            self._lock.leave_request(request)
            self._asked_us, self._asked_at = request.decided_us, now
        while self._lock.followed_us() < request.decided_us:
            if answer := self._lock.answer(request.decided_us):
                self._asked_us = None
                raise GuardError(answer)
            if time.monotonic() >= deadline:
                raise self._unanswered()
            time.sleep(_POLL_SECONDS)
        self._asked_us = None
        with self._lock.held():
            self._read_back(request)

    def _withdraw(self, request: DropInRequest) -> None:
        if self._asked_us != request.decided_us:
            super()._withdraw(request)

    def _is_forbidden(self) -> bool:
        """Return whether systemd started this process, in a sandbox that has the folder read-only."""
        if os.environ.get("SYSTEMD_EXEC_PID") != str(os.getpid()):
            return False
        try:
            return bool(os.statvfs(self._paths.drop_in.parent).f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def _unanswered(self) -> GuardError:
        """Return why nothing has come of a request: a stalled disk, or a unit that does not start or does not end."""
        if time.monotonic() - self._asked_at < PATIENCE_SECONDS:
            return Unfinished(str(self._reason(WAIT_SECONDS)))
        self._asked_us = None
        return self._reason(PATIENCE_SECONDS)

    def _reason(self, seconds: float) -> GuardError:
        try:
            with self._lock.held(wait_seconds=0.0):
                pass
        except GuardError as error:
            return error
        wrong = f"{_UNIT}.service {'did not finish' if self._lock.is_taken() else 'did not start'} within {seconds:g} s"
        next_step = (
            f"Install {_UNIT}.path and .service, or unmask them, then `systemctl restart {_UNIT}.path`; "
            f"`systemctl status {_UNIT}` shows more. Until this works, the limit falls back at the next boot; it is tried again."
        )
        return HostError("write", self._paths.drop_in, OSError(None, wrong), next_step)
