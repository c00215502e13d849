"""The guard's health, judged once from one document. Pure.

`guard status`, `systemctl status`, `guard run --check`, `guard doctor`, the metrics and the alerts show this judgement
and no other. The document is the status that the daemon publishes; whoever reads it adds whether the daemon answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.units import format_duration

SILENT_SECONDS = 10.0
"""The daemon publishes its status every 2 s. If five are missing it hangs, or was stopped (SIGSTOP)."""
STUCK_SECONDS = 10.0
"""A step of the recorder takes milliseconds, and less than this on any disk that works."""
READABLE = ("following", "read ")
"""Prefixes of the state of a readable source of kernel messages."""
OWNERS_UNKNOWN = (
    "Nothing reads who owns a network namespace (neither conntrackd-guard-namespaces.service nor a pod's container `owners` "
    "is connected): no table in a namespace other than the initial one is raised for, unless root has named it in /run/netns"
)
START_HELPER = "`systemctl start conntrackd-guard-namespaces`; see its journal, or in a pod the log of `owners`."
_LABELS = {reason.code: reason.label for reason in HoldReason}


class Level(StrEnum):
    """How the guard is, as JSON and metrics have it. The order is that of severity."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It raises with less than it should have, or an operator has paused it."""
    ACTION_REQUIRED = "action_required"
    """Until somebody acts, a need for a raise stays unanswered, or decisions are not recorded."""
    DOWN = "down"
    """No guard answers."""

    @property
    def is_bad(self) -> bool:
        """Whether somebody has to act: exit code 3."""
        return self in {type(self).ACTION_REQUIRED, type(self).DOWN}

    @property
    def severity(self) -> int:
        """Its place in the order: 0 is healthy."""
        return [*type(self)].index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One condition that is not as it should be."""

    level: Level
    code: str
    """A stable word for scripts."""
    text: str
    """What is wrong. May contain text from files and the kernel: not safe to print."""
    next_step: str = ""

    @property
    def sentence(self) -> str:
        """Return what is wrong, then the next step; the text of an error ends with a full stop of its own."""
        return f"{self.text.removesuffix('.')}. {self.next_step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The judgement and its reasons, the gravest first."""

    level: Level
    reasons: tuple[Reason, ...] = ()

    @classmethod
    def of(cls, reasons: Sequence[Reason]) -> Self:
        """Return the health that the gravest of these reasons makes."""
        ordered = tuple(sorted(reasons, key=lambda reason: -reason.level.severity))
        return cls(level=ordered[0].level if ordered else Level.HEALTHY, reasons=ordered)


def of_host(document: Mapping[str, Any] | None, *, running: bool | None, now_seconds: float, mode: Mode) -> Health:
    """Return the health as another process sees it. `document`: the daemon's status, None before it published one.

    `running` is None if this user can't see whether it runs; `now_seconds` is CLOCK_BOOTTIME.
    """
    if running is False:
        start = "systemctl start conntrackd-guard" if mode is Mode.ACT else "sudo guard run --dry-run"
        text = "no guard is running: nothing is raised" if mode is Mode.ACT else "no dry run is running"
        return Health.of([Reason(level=Level.DOWN, code="not_running", text=text, next_step=f"`{start}`.")])
    if document is None:
        text = (
            "it can't be seen whether the guard runs" if running is None else "the guard has not published a status yet"
        )
        step = "Run this as root." if running is None else "Try again in some seconds."
        return Health.of([Reason(level=Level.DEGRADED, code="unseen", text=text, next_step=step)])
    silent = silent_seconds(document, now_seconds)
    if silent > SILENT_SECONDS:
        text = f"the guard has not answered for {format_duration(silent)}"
        step = "`systemctl restart conntrackd-guard`; see `journalctl -u conntrackd-guard`."
        return Health.of([Reason(level=Level.DOWN, code="silent", text=text, next_step=step)])
    return of_document(document)


def silent_seconds(document: Mapping[str, Any] | None, now_seconds: float) -> float:
    """Return the age of a published status, 0 without one. `now_seconds` is CLOCK_BOOTTIME."""
    at = (document or {}).get("boottime_seconds")
    return max(0.0, now_seconds - at) if isinstance(at, int | float) else 0.0


def of_document(document: Mapping[str, Any]) -> Health:
    """Return the health of the daemon that published this document. A field that is missing reports nothing wrong."""
    return Health.of([*_actions(document), *_losses(document)])


def blocking(found: Health) -> list[Reason]:
    """Return the reasons for which nothing is raised until they end, the gravest first."""
    # Decisions that can't be recorded hold up no raise.
    return [
        reason
        for reason in found.reasons
        if (reason.level is Level.ACTION_REQUIRED and reason.code != "recorder") or reason.code == "paused"
    ]


def _actions(document: Mapping[str, Any]) -> Iterator[Reason]:
    """Yield what stays as it is until somebody acts."""

    def reason(code: str, text: str, step: str) -> Reason:
        return Reason(level=Level.ACTION_REQUIRED, code=code, text=text, next_step=step)

    if refused := _mapping(document, "not_writable"):
        yield reason("not_writable", f"can't write {refused.get('why')}", str(refused.get("next_step")))
    elif why := document.get("write_refused"):
        yield reason("write_refused", f"the kernel refused to write the limit: {why}", "`guard doctor` has more.")
    if document.get("conflict"):
        text = "raising is off, another program keeps lowering the limit"
        yield reason("conflict", text, "`guard doctor` looks for it; change it there, then `guard resume`.")
    if document.get("over_budget"):
        text = "the limit is too high for this host's memory: a full table would exceed the memory budget"
        yield reason("over_budget", text, "`guard revert --all` restores the original limit.")
    if document.get("memory_exceeded"):
        text = "the tables exceed the memory budget, or too little memory is available"
        yield reason(
            "memory_exceeded", text, "Raises that don't fit wait until that ends; `guard status` has the figures."
        )
    if unknown := document.get("memory_unknown"):
        text = f"memory is unknown, so nothing is raised: {unknown}"
        yield reason("memory_unknown", text, "Find out what hides or changes that file; `guard doctor` has more.")
    for need in _list(document, "unmet"):
        code, table = (str(need.get(key)) for key in ("reason", "table")) if isinstance(need, Mapping) else ("", "")
        label = _LABELS.get(code, code)
        yield reason(code, f"{table} is full, and can't be raised further ({label})", "`guard history` has the cure.")
    for text in _list(_mapping(document, "recorder"), "trouble"):
        yield reason("recorder", str(text), "Raises go on. Fix the cause; pending records are then written.")


def _losses(document: Mapping[str, Any]) -> Iterator[Reason]:
    """Yield what the daemon works without."""
    recorder, sources, pause = (_mapping(document, key) for key in ("recorder", "sources", "paused"))

    def reason(code: str, text: str, step: str) -> Reason:
        return Reason(level=Level.DEGRADED, code=code, text=text, next_step=step)

    if pause:
        by = str(pause.get("by"))
        step = f"Remove {by} to resume." if by.startswith("/") else "`guard resume` ends it."
        yield reason("paused", f"raising is paused by {by}{_until(pause.get('until'))}", step)
    if chains := _mapping(document, "long_chains"):
        code, text = "long_chains", "hash chains are so long that the kernel may drop packets"
        if lost := chains.get("lost"):
            code, text = "chain_drops", f"the kernel drops packets for long hash chains ({lost} so far)"
        yield reason(code, text, "`guard history` has the command that adds hash buckets.")
    stuck = recorder.get("stuck_seconds")
    if isinstance(stuck, int | float) and stuck > STUCK_SECONDS:
        text = f"the recorder has been stuck for {format_duration(stuck)}"
        yield reason("recorder_stuck", text, "Check the disk. Raises go on, and are recorded once it responds.")
    if sources and not any(str(sources.get(name)).startswith(READABLE) for name in ("ring_buffer", "journal")):
        notes = "; ".join(map(str, _list(sources, "notes"))) or "no ring buffer and no journal"
        yield reason("no_messages", f"kernel messages can't be read: {notes}", "The counters alone are watched.")
    if document.get("owners_read_by") == "nobody":
        yield reason("owners_unknown", f"{OWNERS_UNKNOWN[0].lower()}{OWNERS_UNKNOWN[1:]}", START_HELPER)
    for text in _list(document, "unread"):
        yield reason("unread", f"not read: {text}", "`guard doctor` has more.")


def _until(wall_seconds: object) -> str:
    """Return the end of a pause in words, in UTC: `guard` processes may run in several time zones."""
    if not isinstance(wall_seconds, int | float):
        return " until resumed"
    with suppress(OverflowError, ValueError, OSError):
        return f" until {datetime.fromtimestamp(wall_seconds, UTC):%Y-%m-%d %H:%M} UTC"
    return ""


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    return found if isinstance(found, Mapping) else {}


def _list(document: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = document.get(key)
    return found if isinstance(found, list | tuple) else ()
