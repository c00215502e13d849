"""The state at start: fold this boot's history, and reconcile the writes that a kill left open."""

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from conntrackd_guard.core import state as states
from conntrackd_guard.core.codec import decode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.limits import format_limit
from conntrackd_guard.core.model import Outcome, OutcomeKind, Raise, Record, State
from conntrackd_guard.core.text import printable
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import Kernel
from conntrackd_guard.host.runtime_dir import JsonFolder, RuntimeDir
from conntrackd_guard.recording.items import Past
from conntrackd_guard.recording.recorder import Recorder
from conntrackd_guard.recording.worker import Worker

HISTORY_SECONDS = 5.0
"""The start waits this long for the history: a stalled disk must not delay raises for a full table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The past, as a start knows it."""

    state: State
    past: Future[Past]
    """Done at once, or when the disk answers."""


def recover(  # noqa: PLR0913, PLR0917 - wiring
    recorder: Recorder, runtime_dir: RuntimeDir, kernel: Kernel, clock: Clock, boot_id: str, policy: Policy
) -> Recovered:
    """Return the state to begin with; open intents and overrides become records."""

    def read_past(worker: Worker) -> Past:
        return worker.past(boot_id, clock.boottime)

    future, past = recorder.call(read_past), None
    try:
        past = future.result(HISTORY_SECONDS)
    except (TimeoutError, GuardError):  # the position is needed all the same, once the disk answers
        future = recorder.call(read_past, retry=True)
    now, stored, ahead = clock.boottime(), frozenset[str](), 0
    if past is None or past.state is None:
        state = states.lost(now)
        text = "Can't read this boot's history. Starting with half of the raise rate limit used up."
        recorder.log("guard.info", "warning", text)
    else:
        state, ahead, stored = past.state, past.ahead, past.stored
    persisted = None if past is None else past.persisted
    intents, limit = _reconciled(runtime_dir, kernel, recorder, persisted), kernel.limit_in_force()
    overrides = [_as_found(record, limit) for record in queued_overrides(runtime_dir, recorder)]
    for record in intents + overrides:
        is_stored = record.key in stored  # the kill came after the row was written
        if not is_stored:
            state = states.advance(state, record, now)
            ahead += record.observation.boottime_seconds > now
        recorder.submit(record, policy, is_stored=is_stored)
        runtime_dir.overrides.drop(record.key)
    if ahead:
        text = f"{ahead} decisions of this boot are dated ahead of its clock. They count as made now."
        recorder.log("guard.info", "warning", text)
    return Recovered(state=state, past=future)


def queued_overrides(runtime_dir: RuntimeDir, recorder: Recorder) -> Iterator[Record]:
    """Yield the overrides that commands have queued; one that can't be read is logged and set aside."""
    for key, content in runtime_dir.overrides.all():
        record = _decoded(key, content)
        if record is not None:
            yield record
        else:
            _set_aside(recorder, runtime_dir.overrides, key, "override", "it is ignored")


def _set_aside(recorder: Recorder, folder: JsonFolder, key: str, kind: str, result: str) -> None:
    """Log a file that can't be read and move it out of the way; one that stays there holds up nothing."""
    try:
        where = f"Moved it to {folder.set_aside(key)}."
    except GuardError as error:
        where = str(error)
    recorder.log("guard.error", "error", f"Can't read the {kind} {printable(key)}: {result}. {where}")


def _reconciled(runtime_dir: RuntimeDir, kernel: Kernel, recorder: Recorder, persisted: str | None) -> list[Record]:
    """Return the open intents as records, oldest first, each with the outcome that kernel and drop-in show now.

    `persisted` is the key of the record that wrote the drop-in: that comes after the write and before the row.
    """
    reached = kernel.limit()
    reconciled = []
    for key, content in reversed(runtime_dir.intents.all()):
        record = _decoded(key, content)
        if record is None or not isinstance(record.decision, Raise):
            _set_aside(recorder, runtime_dir.intents, key, "intent", "whether its write happened is unknown")
            continue
        target, before = record.decision.target, record.observation.limit
        if kernel.rehearsing:
            outcome = Outcome(kind=OutcomeKind.REHEARSED, limit_after=target, detail="completed")
        elif reached == target or record.key == persisted:
            found = "in force" if reached == target else f"in the drop-in, and {_shown(reached)} in force"
            outcome = Outcome(kind=OutcomeKind.APPLIED, limit_after=target, detail=f"completed: found {found} at start")
            reached = before  # an older intent led up to here
        else:
            outcome = _missed(record, target, reached, "guard")
        reconciled.append(replace(record, outcome=outcome))
    return reconciled[::-1]


def _as_found(override: Record, limit: int | None) -> Record:
    """Return an override's record with the outcome that the limit in force shows: a revert writes its file before the limit."""
    target = override.outcome.limit_after
    if target is None or target == limit:
        return override
    missed = _missed(override, target, limit, "command")
    if missed.kind is OutcomeKind.NOT_APPLIED:
        missed = replace(missed, detail=f"{missed.detail}. The next boot may start with {target:,} already: repeat it")
    return replace(override, outcome=missed)


def _missed(record: Record, target: int, limit: int | None, writer: str) -> Outcome:
    """Return the outcome of a write of `target` if another limit is in force at start."""
    before = record.observation.limit
    if limit == before:
        detail = f"not applied: the {writer} ended before the write"
        return Outcome(kind=OutcomeKind.NOT_APPLIED, limit_after=limit, detail=detail)
    return Outcome(
        kind=OutcomeKind.UNKNOWN, detail=f"unknown: the limit at start is neither {_shown(before)} nor {target:,}"
    )


def _shown(limit: int | None) -> str:
    return "no limit" if limit is None else format_limit(limit)


def _decoded(key: str, content: dict[str, Any] | None) -> Record | None:
    """Return the record in the file `key`, None for anything else."""
    try:
        record = decode(Record, content)
    except ValueError:
        return None
    return record if record.key == key else None
