"""Verdicts of `guard doctor` on the guard itself and on other programs that set the limit. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from conntrackd_guard.core import tuning
from conntrackd_guard.core.model import Pause, State
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.doctor.verdicts import Check, good, note, unknown, wrong
from conntrackd_guard.host.other_writers import Writer

SILENT_SECONDS = 90.0
"""A guard publishes its status every 2 s, or every 60 s after a failed write."""
STUCK_SECONDS = 10.0
"""A step of the recorder takes milliseconds, and less than this on any disk that works."""
_LOGS = "See `journalctl -u conntrackd-guard`."


def guard(live: Mapping[str, Any] | None, age_seconds: float | None, *, running: bool | None, dry_run: bool) -> Check:
    """Check the running guard by its status, which is `age_seconds` old. `dry_run`: whether a dry run is running."""
    if running is None:
        return unknown("this user can't see whether it runs")
    if not running:
        beside = " (only a dry run is)" if dry_run else ""
        return wrong(f"not running{beside}: nothing is raised", f"`systemctl start conntrackd-guard`. {_LOGS}")
    if live is None or age_seconds is None:
        return note("running, but without a status yet", f"Try again. {_LOGS}")
    who = f"pid {live.get('pid')}, mode {live.get('mode')}"
    if age_seconds > SILENT_SECONDS:
        evidence = f"running ({who}) but unresponsive for {format_duration(age_seconds)}"
        return wrong(evidence, f"`systemctl restart conntrackd-guard`. {_LOGS}")
    return _condition(live, f"running ({who})")


def _condition(live: Mapping[str, Any], running: str) -> Check:
    """Judge the status of a responsive guard."""
    recorder, sources = live.get("recorder") or {}, live.get("sources") or {}
    problems = [str(text) for text in recorder.get("trouble") or []]
    steps = ["Raises go on. Fix the cause; pending records are then written."] if problems else []
    stuck = _number(recorder.get("stuck_seconds"))
    if stuck > STUCK_SECONDS:
        problems.append(f"the recorder has been stuck for {format_duration(stuck)}")
        steps.append("Check the disk. Raises go on, and are recorded once it responds.")
    if live.get("over_budget"):
        problems.append("the persisted limit is active, but a full table would exceed this host's memory budget")
        steps.append("`guard revert --all` undoes the raises; `guard status` shows the calculation.")
    if problems:
        return wrong(f"{running}: {'; '.join(problems)}", " ".join(steps))
    notes = [
        f"{number:,.0f} {what}"
        for key, what in (("lost_lines", "log messages not delivered"), ("lost_holds", "holds not recorded"))
        if (number := _number(recorder.get(key)))
    ]
    if sources.get("ring_buffer") != "following":
        notes.append("; ".join(map(str, sources.get("notes") or ["no ring buffer"])))
    journal = str(sources.get("journal", "absent"))
    if journal.startswith(("absent", "not ", "stopped")):
        notes.append(f"journal {journal}")
    if notes:
        return note(f"{running}: {'; '.join(notes)}", _LOGS)
    return good(f"{running}, follows ring buffer and journal")


def pause(found: Pause | None, now_seconds: float) -> Check:
    """Check that raising is not paused. `now_seconds` is CLOCK_BOOTTIME."""
    if found is None:
        return good("raising is not paused")
    reason = f" ({found.reason})" if found.reason else ""
    left = "" if found.until_seconds is None else f" for {format_duration(found.until_seconds - now_seconds)} more"
    evidence = f"raising is paused by {found.by}{reason}{left}: a full table drops new connections"
    step = f"To resume, remove {found.by}." if found.by.startswith("/etc/") else "To resume: `guard resume`."
    return note(evidence, step)


def conflicts(state: State, now_seconds: float) -> int:
    """Return the number of conflicts within the window. `now_seconds` is CLOCK_BOOTTIME."""
    return sum(at > now_seconds - tuning.CONFLICT_WINDOW_SECONDS for at in state.conflict_seconds)


def other_writers(
    found: Sequence[Writer], lowered: int | None, limit: int | None, *, conflict_limit: int, unseen: str
) -> Check:
    """Check that no other program sets another limit than `limit`.

    `lowered` counts the conflicts, None if the history can't be read; `unseen` names what could not be checked.
    """
    evidence = [writer.evidence for writer in found]
    steps = [writer.next_step for writer in found if writer.next_step]
    failed = any(writer.number is not None and limit is not None and writer.number != limit for writer in found)
    if lowered:
        failed = True
        raising_stopped = 0 < conflict_limit <= lowered
        window = format_duration(tuning.CONFLICT_WINDOW_SECONDS)
        stopped = ", so the guard has stopped raising" if raising_stopped else ""
        evidence.insert(0, f"the guard's limit was lowered {lowered} times in {window}{stopped}")
        if not found:
            evidence.append("by an unknown program")
            steps.append("Find the program that sets it at those times (`guard history`), and change it there.")
        if raising_stopped:
            steps.append("Then `guard resume`.")
    if evidence:
        text, step = "; ".join(evidence), " ".join(dict.fromkeys(steps))
        return wrong(text, step) if failed else note(text, step)
    if unseen:
        return unknown(f"none found, but {unseen}", "Run this as root, and see the check `history`.")
    return good("no kube-proxy, tuned, ufw or start script sets the limit; no conflict in this boot")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
