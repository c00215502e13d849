"""What a revert can undo: the raises that led, without a break, to the limit in force."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conntrackd_guard.core.codec import decode
from conntrackd_guard.core.model import Raise, Record, TriggerKind
from conntrackd_guard.history.database import History
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One move of the limit."""

    id: int | None
    """In history; None where the raise is not written there yet."""
    verdict: str
    before: int
    after: int | None
    foreign: bool = False


def revertible_raises(paths: Paths, limit: int) -> list[Step]:
    """Return the raises that led to `limit`, newest first.

    What another writer did in this boot ends the search, and so does a raise that began elsewhere than where the one
    before it ended. Passed over are raises that a revert undid, and other writers of earlier boots: a boot begins with
    what was kept. Raises HostError, or NotPermitted.
    """
    standing: list[Step] = []
    sought, begins = limit, True
    for step in _steps(paths):
        if step.foreign or (step.after != sought and not begins):
            break
        if step.after == sought and step.verdict == "raise":
            standing.append(step)
            sought, begins = step.before, False
        elif step.after == sought:
            begins = True  # a revert to this value: a raise to it comes later in the search
    return standing


def _steps(paths: Paths) -> Iterator[Step]:
    """Yield every move of the limit, newest first: open intents that history has not, then history."""
    boot_id = files.read(paths.boot_id).decode("ascii").strip()
    open_intents = RuntimeDir(paths).intents()  # before history: a row is written before its intent goes
    history = History.existing(paths.history)
    if history is None:
        return
    with history:
        for key, content in reversed(open_intents):
            step = _intended(content)
            if step is not None and history.find_key(key) is None:
                yield step
        for row in history.steps():
            foreign = row.trigger == TriggerKind.OTHER_WRITER and row.boot_id == boot_id
            yield Step(
                id=row.id, verdict=row.verdict, before=row.from_limit or 0, after=row.limit_after, foreign=foreign
            )


def _intended(content: object) -> Step | None:
    """Return the raise that an intent noted, None where it can't be read."""
    try:
        record = decode(Record, content)
    except ValueError:
        return None
    if not isinstance(record.decision, Raise):
        return None
    return Step(id=None, verdict="raise", before=record.observation.limit or 0, after=record.decision.target)
