"""The state at start: this boot's history folded, and every write explained that a kill left open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from conntrackd_guard.core import state as states
from conntrackd_guard.core.codec import decode
from conntrackd_guard.core.model import Outcome, OutcomeKind, Policy, Raise, Record, State
from conntrackd_guard.history import Position
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.kernel import Kernel
from conntrackd_guard.host.runfiles import RunFiles
from conntrackd_guard.recorder import Recorder

HISTORY_SECONDS = 5.0
"""How long the start waits for the history; a stalled disk must not keep a full table waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a start knows of the past."""

    state: State
    position: Position | None


def recover(  # noqa: PLR0913, PLR0917 - wiring
    recorder: Recorder, run_files: RunFiles, kernel: Kernel, clock: Clock, boot_id: str, policy: Policy
) -> Recovered:
    """Return the state to begin with; open intents and orders become records."""
    past = recorder.ask(lambda keeper: (*keeper.past(boot_id), keeper.began_anew), HISTORY_SECONDS)
    state, position, known = State(), None, set[str]()
    if past is None or past[2]:
        state = states.lost(clock.boottime(), policy)
        recorder.say(
            "guard.notice",
            "warning",
            "This boot's history can't be read: pace starts with half the allowance spent.",
        )
    else:
        records, position, _ = past
        for record in records:
            state = states.advance(state, record)
        known = {record.key for record in records}
    limit = kernel.limit_in_force()
    for record in [*_explained(run_files, kernel, recorder), *_orders(run_files, recorder)]:
        if record.key in known:  # the kill came after the row was written
            recorder.resume(record, policy)
            run_files.drop_order(record.key)
            continue
        state = states.advance(state, record)
        recorder.submit(record, policy)
        run_files.drop_order(record.key)
    recorder.ask(lambda keeper: keeper.let_go(limit), 0.0)
    return Recovered(state=state, position=position)


def _explained(run_files: RunFiles, kernel: Kernel, recorder: Recorder) -> list[Record]:
    """Return the open intents as records, oldest first, each closed by what the kernel shows now."""
    reached = kernel.limit()
    explained = []
    for key, content in reversed(run_files.intents()):
        record = _decoded(content)
        if record is None or not isinstance(record.decision, Raise):
            recorder.say("guard.error", "error", f"The intent {key} can't be read; the write it noted is unknown.")
            run_files.drop_intent(key)
            continue
        target, before = record.decision.target, record.observation.limit
        if kernel.rehearsing:
            outcome = Outcome(kind=OutcomeKind.REHEARSED, limit_after=target, detail="completed")
        elif reached == target:
            outcome = Outcome(kind=OutcomeKind.APPLIED, limit_after=target, detail="completed: found in force at start")
            reached = before  # an older intent led up to here
        elif reached == before:
            detail = "not applied: the guard ended before the write"
            outcome = Outcome(kind=OutcomeKind.NOT_APPLIED, limit_after=reached, detail=detail)
        else:
            detail = f"unknown: the limit at start is neither {before} nor {target}"
            outcome = Outcome(kind=OutcomeKind.UNKNOWN, limit_after=None, detail=detail)
        explained.append(replace(record, outcome=outcome))
    return explained[::-1]


def _orders(run_files: RunFiles, recorder: Recorder) -> list[Record]:
    """Return the orders given while no guard ran."""
    found = []
    for key, content in run_files.orders():
        record = _decoded(content)
        if record is None:
            recorder.say("guard.error", "error", f"The order {key} can't be read and is left out.")
            run_files.drop_order(key)
        else:
            found.append(record)
    return found


def _decoded(content: dict[str, Any] | None) -> Record | None:
    try:
        return decode(Record, content)
    except ValueError:
        return None
