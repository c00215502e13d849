"""What `guard doctor` concludes about the guard itself and those it works beside. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Pause, State
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.doctor.verdicts import Check, Verdict
from conntrackd_guard.host.other_writers import Writer

SILENT_SECONDS = 90.0
"""A guard publishes its status every 2 s, and 60 s after it could not."""
STUCK_SECONDS = 10.0
"""The recorder takes milliseconds for a step; a disk that answers at all takes less than this."""
_LOGS = "`journalctl -u conntrackd-guard` says why."


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowerings:
    """How often another writer lowered what the guard had set, and whether the guard has stopped raising for it."""

    count: int
    window_seconds: float
    stopped: bool


def guard(
    live: Mapping[str, Any] | None, age_seconds: float | None, *, running: bool | None, rehearsing: bool
) -> Check:
    """Does a guard run, and what does it say of itself? `age`: of what it says; `rehearsing`: one in dry run is there."""
    if running is None:
        return Check(name="guard", verdict=Verdict.UNKNOWN, evidence="this user can't tell whether it runs")
    if not running:
        beside = ", only one in dry run" if rehearsing else ""
        return Check(
            name="guard",
            verdict=Verdict.WRONG,
            evidence=f"none runs{beside}: nothing is raised",
            next_step=f"`systemctl start conntrackd-guard`; {_LOGS}",
        )
    if live is None or age_seconds is None:
        evidence = "it runs, but has not yet said how it does"
        return Check(name="guard", verdict=Verdict.NOTE, evidence=evidence, next_step=f"Ask again; {_LOGS}")
    who = f"process {live.get('pid')}, mode {live.get('mode')}"
    if age_seconds > SILENT_SECONDS:
        evidence = f"it runs ({who}), but has said nothing for {format_duration(age_seconds)}"
        return Check(
            name="guard",
            verdict=Verdict.WRONG,
            evidence=evidence,
            next_step=f"`systemctl restart conntrackd-guard`; {_LOGS}",
        )
    return _condition(live, who)


def _condition(live: Mapping[str, Any], who: str) -> Check:
    """Conclude from what a guard that is alive says."""
    recorder, sources = live.get("recorder") or {}, live.get("sources") or {}
    trouble = [str(text) for text in recorder.get("trouble") or []]
    steps = ["Raises go on. Cure the cause named; what is owed is then written by itself."] if trouble else []
    stuck = _number(recorder.get("stuck_seconds"))
    if stuck > STUCK_SECONDS:
        trouble.append(f"the recorder has been at one step for {format_duration(stuck)}")
        steps.append("Look at the disk: raises go on meanwhile, and are recorded when it answers.")
    if live.get("over_budget"):
        trouble.append("the limit kept from an earlier boot is in force, and more than this host can bear")
        steps.append("`guard revert --all` goes back; `guard status` has the sum.")
    if trouble:
        evidence = f"it runs ({who}) with trouble: {'; '.join(trouble)}"
        return Check(name="guard", verdict=Verdict.WRONG, evidence=evidence, next_step=" ".join(steps))
    lost = [
        f"{number:,.0f} {what}"
        for key, what in (("lost_lines", "log lines undelivered"), ("lost_holds", "holds not recorded"))
        if (number := _number(recorder.get(key)))
    ]
    if sources.get("ring_buffer") != "following":
        lost.append("; ".join(map(str, sources.get("notes") or ["no ring buffer"])))
    journal = str(sources.get("journal", "absent"))
    if journal.startswith(("absent", "waiting", "stopped")):
        lost.append(f"journal {journal}")
    if lost:
        evidence = f"it runs ({who}): {'; '.join(lost)}"
        return Check(name="guard", verdict=Verdict.NOTE, evidence=evidence, next_step=_LOGS)
    return Check(
        name="guard",
        verdict=Verdict.GOOD,
        evidence=f"it runs ({who}), follows ring buffer and journal, and has no trouble",
    )


def pause(found: Pause | None, now_seconds: float) -> Check:
    """Is raising paused? `now`: CLOCK_BOOTTIME."""
    if found is None:
        return Check(name="pause", verdict=Verdict.GOOD, evidence="raising is not paused")
    reason = f" ({found.reason})" if found.reason else ""
    left = "" if found.until_seconds is None else f", for another {format_duration(found.until_seconds - now_seconds)}"
    return Check(
        name="pause",
        verdict=Verdict.NOTE,
        evidence=f"raising is paused by {found.by}{reason}{left}: a full table drops new connections",
        next_step=f"Remove {found.by} to resume." if found.by.startswith("/etc/") else "`guard resume` ends it.",
    )


def lowerings(state: State, policy: Policy, now_seconds: float) -> Lowerings:
    """Count the fights within the window. `now`: CLOCK_BOOTTIME."""
    count = sum(at > now_seconds - tuning.CONFLICT_WINDOW_SECONDS for at in state.conflict_seconds)
    stopped = bool(policy.conflict_limit) and count >= policy.conflict_limit
    return Lowerings(count=count, window_seconds=tuning.CONFLICT_WINDOW_SECONDS, stopped=stopped)


def other_writers(found: Sequence[Writer], lowered: Lowerings | None, limit: int | None, *, unseen: str) -> Check:
    """Does anyone else write the limit? `lowered`: None where history can't be read; `limit`: the one that should hold.

    `unseen` says what could not be looked at, "" where all was.
    """
    evidence = [writer.evidence for writer in found]
    steps = [writer.next_step for writer in found if writer.next_step]
    wrong = any(writer.number is not None and limit is not None and writer.number != limit for writer in found)
    if lowered is not None and lowered.count:
        wrong = True
        window = format_duration(lowered.window_seconds)
        stopped = ", so it has stopped raising" if lowered.stopped else ""
        evidence.insert(0, f"a limit that the guard had set was lowered {lowered.count} times in {window}{stopped}")
        if not found:
            evidence.append("by whom is unknown")
            steps.append("Find what writes it at those times (`guard history`), and change it there.")
        steps += ["Then `guard resume`."] if lowered.stopped else []
    if evidence:
        return Check(
            name="other_writers",
            verdict=Verdict.WRONG if wrong else Verdict.NOTE,
            evidence="; ".join(evidence),
            next_step=" ".join(dict.fromkeys(steps)),
        )
    if unseen:
        return Check(
            name="other_writers",
            verdict=Verdict.UNKNOWN,
            evidence=f"none found, but {unseen}",
            next_step="Run this as root, and see `history` below.",
        )
    return Check(
        name="other_writers",
        verdict=Verdict.GOOD,
        evidence="no kube-proxy, tuned profile, ufw or start script that sets it, and no fight in this boot's history",
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
