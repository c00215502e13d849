"""What a revert can undo: the raises that led, without a break, to the limit in force."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from conntrackd_guard.core.codec import decode, encode
from conntrackd_guard.core.model import Raise, Record, TriggerKind
from conntrackd_guard.history.database import History
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir


class Step(NamedTuple):
    """One change of the limit."""

    id: int | None
    """In history; None if the raise is not written yet."""
    verdict: str
    before: int
    after: int | None
    foreign: bool = False
    buckets: tuple[int, int] | None = None
    """Before and after, if a raise changed the hash buckets."""


def revertible_raises(paths: Paths, limit: int) -> list[Step]:
    """Return the raises that led to `limit`, newest first.

    The search ends at a change by another program in this boot (in any, if the boot id can't be read), and at a raise that
    it ended. It skips raises that a revert undid, and other programs in earlier boots: a boot starts with the persisted
    limit. Raises HostError, or NotPermitted.
    """
    found: list[Step] = []
    wanted, begins = limit, True
    for step in _steps(paths):
        if step.foreign or (step.after != wanted and not begins):
            break
        if step.after == wanted and step.verdict == "raise":
            found.append(step)
            wanted, begins = step.before, False
        elif step.after == wanted:
            begins = True  # a revert to this value: a raise to it comes later in the search
    return found


def buckets_before(undone: list[Step], buckets: int | None) -> int | None:
    """Return the hash buckets from before the raises `undone`, newest first.

    None if none of them changed the buckets, or if another program did since: `buckets` are those in force.
    """
    changes = [step.buckets for step in undone if step.buckets is not None]
    return changes[-1][0] if changes and changes[0][1] == buckets else None


def _steps(paths: Paths) -> Iterator[Step]:
    """Yield every change of the limit, newest first: open intents without a row, then history."""
    boot_id = files.read_boot_id(paths.boot_id)
    open_intents = RuntimeDir(paths).intents.all()  # before history: a row is written before its intent is deleted
    history = History.existing(paths.history)
    if history is None:
        return
    with history:
        for key, content in reversed(open_intents):
            with suppress(ValueError):  # one that can't be read is for the next start to report
                record = decode(Record, content)
                if isinstance(record.decision, Raise) and history.find_key(key) is None:
                    buckets = _buckets(encode(record.decision.arithmetic))
                    yield Step(None, "raise", record.observation.limit or 0, record.decision.target, buckets=buckets)
        for row in history.steps():
            foreign = row.trigger == TriggerKind.OTHER_WRITER and boot_id in {"", row.boot_id}
            buckets = _buckets(row.arithmetic or {})
            yield Step(row.id, row.verdict, row.from_limit or 0, row.limit_after, foreign=foreign, buckets=buckets)


def _buckets(arithmetic: dict[str, Any]) -> tuple[int, int] | None:
    before, after = arithmetic.get("buckets"), arithmetic.get("buckets_target")
    return (int(before), int(after)) if before and after else None
