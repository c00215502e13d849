"""The daemon's status: one document, from which every view has its figures and its judgement of health."""

from typing import Any

from conntrackd_guard.core import health
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.episode import Episode, Episodes
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.health import OWNERS_UNKNOWN, START_HELPER
from conntrackd_guard.core.model import Pause, State
from conntrackd_guard.core.records import ACTIONABLE
from conntrackd_guard.core.state import conflicts
from conntrackd_guard.daemon.dependencies import Dependencies
from conntrackd_guard.daemon.status_line import status_line
from conntrackd_guard.host.conntrack.limit import refusal_text
from conntrackd_guard.host.conntrack.observer import rested

_NEED_SECONDS = 2.0
"""An episode is open for ten seconds after the need; this long, the interval of publishing, it is called one."""
_READ_SECONDS = 60.0
"""Interval for reading what decisions read, so that a host which needs none learns of a figure that can't be read."""


class Publisher:
    """Publishes the status under /run and to the service manager."""

    def __init__(self, parts: Dependencies) -> None:
        self._p = parts
        self._since_seconds = parts.clock.wall()
        self._read_at = parts.clock.boottime() + _READ_SECONDS  # the start has just read it
        self._owners = ""
        """Who read the owners of namespaces at the last time."""
        self._logged = False
        """Whether the log has it that the limit can't be written."""

    def publish(  # noqa: PLR0913 - what only the controller knows
        self,
        limit: int | None,
        policy: Policy,
        state: State,
        episodes: Episodes,
        *,
        over_budget: bool,
        memory_exceeded: bool,
        long_chains: dict[str, int] | None,
    ) -> None:
        """Publish the status. Raises HostError if it can't be written."""
        now, wall = self._p.clock.boottime(), self._p.clock.wall()
        if now >= self._read_at:
            self._p.observer.observe()
            self._read_at = max(now + _READ_SECONDS, rested(now, self._p.clock.boottime()))
        pause, refusal = self._p.runtime_dir.pause(now), state.refusal
        owners = "guard" if self._p.owners is None else "nobody" if self._p.owners.is_missing else "helper"
        if owners == "nobody" and self._owners != owners:
            self._p.recorder.log("guard.info", "warning", f"{OWNERS_UNKNOWN}. {START_HELPER}")
        self._owners = owners
        needs = [known for known in episodes.values() if now - known.needed_seconds <= _NEED_SECONDS]
        document = {
            "version": 1,
            "pid": self._p.runtime_dir.pid,
            "root": self._p.runtime_dir.root,
            "since": self._since_seconds,
            "at": wall,
            "boottime_seconds": now,  # by which readers measure its age
            "mode": self._p.mode.value,
            "limit": limit,
            "policy": encode(policy),
            "sources": self._p.log_sources.report(),
            "recorder": self._p.recorder.report(),
            "paused": None if pause is None else paused(pause, wall - now),
            "conflict": 0 < policy.conflict_limit <= conflicts(state, now),
            "over_budget": over_budget,
            "memory_exceeded": memory_exceeded,
            "long_chains": long_chains,
            "not_writable": self._refused(),
            "write_refused": refusal_text(refusal.errno) if refusal is not None and refusal.limit == limit else None,
            "needs": len(needs),
            "unmet": [self._unmet(need) for need in needs if need.reason in ACTIONABLE],
            "owners_read_by": owners,
            "unread": list(self._p.observer.unread),
            "memory_unknown": self._p.observer.memory.unknown,
            "memory_total_bytes": self._p.observer.memory.total_bytes,  # for a guard that can't read it
        }
        blocking = health.blocking(health.of_document(document))
        document["blocked_by"] = blocking[0].code if blocking else None  # for readers that can't judge, such as a shell
        self._p.service.status(status_line(document))
        self._p.runtime_dir.put_status(document)

    def _refused(self) -> dict[str, str] | None:
        """Return why the limit can't be written, None if it can; log when that begins."""
        error = self._p.kernel.not_writable()
        if error is not None and not self._logged:
            self._p.recorder.log("guard.error", "error", f"No raise is possible: {error}")
        self._logged = error is not None
        return None if error is None else not_writable(error)

    def _unmet(self, need: Episode) -> dict[str, str]:
        netns = None if need.namespace is None else self._p.observer.netns(need.namespace)
        table = "a table" if need.namespace is None else f"netns {need.namespace}" if netns is None else netns.label
        return {"table": table, "reason": "" if need.reason is None else need.reason.code}


def not_writable(error: HostError) -> dict[str, str]:
    """Return the document's entry for a limit that can't be written."""
    return {"why": f"{error.path}: {error.cause}", "next_step": error.next_step}


def paused(pause: Pause, boot_wall_seconds: float) -> dict[str, Any]:
    """Return a pause with the wall time of its end, None until resumed."""
    until = None if pause.until_seconds is None else pause.until_seconds + boot_wall_seconds
    return {"by": pause.by, "reason": pause.reason, "until": until}
