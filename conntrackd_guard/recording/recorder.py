"""The recorder: one worker thread that owns everything durable and everything that is printed.

For each record, in this order: drop-in, history row (with the journal's cursor in the same
transaction), log line; then the intent goes. The loop only appends to a queue and never waits.
Raises are never discarded; equal holds are merged until something changes the state, and beyond a
bound only counted. How far the kernel's lines were taken in travels in the queue, behind all it covers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, assert_never

from conntrackd_guard.core.afterwards import afterwards
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import Hold, Record
from conntrackd_guard.core.records import identity, merges
from conntrackd_guard.core.verification import Drops, End, Verification
from conntrackd_guard.history.database import Position
from conntrackd_guard.recording.question import Question
from conntrackd_guard.recording.worker import Worker

MOST_HOLDS_QUEUED = 1000
"""Different holds kept while the disk stalls (about 10 KB each); more are only counted."""
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0
_TURN_SECONDS = 1.0

T = TypeVar("T")


@dataclass(slots=True)
class Item:
    """A record on its way, and how far it got."""

    record: Record
    policy: Policy
    position: Position | None = None
    times: int = 1
    persisted: bool = False
    stored: bool = False
    logged: bool = False
    last_wall_seconds: float = field(init=False)
    """When it was last decided so."""

    def __post_init__(self) -> None:
        self.last_wall_seconds = self.record.observation.wall_seconds


@dataclass(slots=True)
class Mark:
    """How far the kernel's lines were taken in."""

    position: Position


@dataclass(slots=True)
class LogMessage:
    """A line for the log that is no decision."""

    event: str
    level: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)


class Recorder:
    """Queue and worker. Every method but `close` returns at once; that one says how long it waits."""

    def __init__(self, keeper: Worker) -> None:
        self._keeper = keeper
        self.series_collector = keeper.series_collector
        """Takes what the loop sees for the time series."""
        self._queue: deque[Item | LogMessage | Mark | Question[Any]] = deque()
        self._waiting_holds: dict[str, Item] = {}
        """Those that an equal hold may still join."""
        self._holds = 0
        self._noted: Position | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._busy_since: float | None = None
        self._all_done = False
        self.lost_holds = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        """Begin to work the queue."""
        self._thread.start()

    def submit(self, record: Record, policy: Policy, position: Position | None = None, *, times: int = 1) -> None:
        """Take a record over; equal holds that still wait become one."""
        item = Item(record, policy, position, times)
        with self._changed:
            if isinstance(record.decision, Hold) and not self._takes_hold(item):
                return
            if not merges(record):
                self._waiting_holds.clear()  # nothing joins what waits before it, and nothing joins it
            self._noted = position or self._noted
            self._append(item)

    def resume(self, record: Record, policy: Policy) -> None:
        """Take over a record whose row is written already, for what may still be owed after it."""
        with self._changed:
            self._append(Item(record, policy, stored=True, logged=True))

    def say(self, event: str, level: str, message: str, **fields: Any) -> None:
        """Have a line logged that is no decision."""
        with self._changed:
            self._append(LogMessage(event, level, message, fields))

    def note_position(self, position: Position | None) -> None:
        """Have it remembered how far the kernel's lines were taken in, once all handed over before is written."""
        if position is not None:
            with self._changed:
                self._mark(position)

    def verification(self, found: Verification) -> None:
        """Have it kept what came of a raise, behind that raise's row; drops that go on are said at once."""
        self.question(lambda keeper: keeper.verification(found), retry=True)
        if found.drops is Drops.CONTINUING and found.end is End.WATCHED:
            told = f"The raise to {found.limit:,}: {afterwards(found)}"
            self.say("guard.drops_continue", "warning", told, **encode(found))

    def question(self, work: Callable[[Worker], T], *, retry: bool = False) -> Question[T]:
        """Have the worker do `work` in its turn; with `insist` all behind it waits until it is done."""
        question = Question(work, retry=retry)
        with self._changed:
            self._append(question)
        return question

    def close(self, seconds: float) -> bool:
        """Work off the queue and stop; return whether all was done within `seconds`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        return self._all_done

    def report(self) -> dict[str, Any]:
        """Return what status shows of the recorder."""
        since, trouble = self._busy_since, self._keeper.trouble()
        if self._thread.ident is not None and not self._thread.is_alive() and not self._stopping:
            trouble.append("The recorder has ended: nothing is recorded, logged or persisted until a restart.")
        with self._changed:
            backlog = sum(not isinstance(entry, Mark) for entry in self._queue)
        return {
            "backlog": backlog,
            "stuck_seconds": 0.0 if since is None else round(time.monotonic() - since, 1),
            "lost_holds": self.lost_holds,
            "lost_lines": self._keeper.lost_lines(),
            "trouble": trouble,
        }

    def _append(self, entry: Item | LogMessage | Mark | Question[Any]) -> None:
        self._queue.append(entry)
        self._changed.notify()

    def _takes_hold(self, item: Item) -> bool:
        """Return whether a hold gets a place of its own: it joins an equal one that waits, or is one too many."""
        name = identity(item.record)
        waiting = self._waiting_holds.get(name)
        if waiting is not None:
            waiting.times += item.times
            waiting.last_wall_seconds = item.last_wall_seconds
            if item.position is not None:
                self._mark(item.position)  # not its own: others that wait are covered too
            return False
        if self._holds >= MOST_HOLDS_QUEUED:
            self.lost_holds += item.times
            return False
        self._holds += 1
        self._waiting_holds[name] = item
        return True

    def _mark(self, position: Position) -> None:
        """Put a new position at the queue's end, in the place of one that waits there. It wakes nobody."""
        if position == self._noted:
            return
        self._noted = position
        last = self._queue[-1] if len(self._queue) > 1 else None  # the only one may be at work
        if isinstance(last, Mark):
            last.position = position
        else:
            self._queue.append(Mark(position))

    def _run(self) -> None:
        """Take the queue's head, do it, and only then remove it."""
        wait = _FIRST_RETRY_SECONDS
        while True:
            with self._changed:
                if not self._queue and not self._stopping:
                    self._changed.wait(_TURN_SECONDS)
                head = self._queue[0] if self._queue else None
                if isinstance(head, Item) and self._waiting_holds.get(identity(head.record)) is head:
                    del self._waiting_holds[identity(head.record)]
            if head is None and self._stopping:
                self._all_done = self._step("end", self._keeper.finish)
                return
            finished = self._step("recorder", self._do, head)
            self._step("upkeep", self._keeper.run_periodic)
            if finished:
                wait = _FIRST_RETRY_SECONDS
                self._remove(head)
                continue
            if self._stopping:
                return  # what is left is explained at the next start by the intents
            self._go_on_without_history(wait)
            wait = min(2 * wait, _LONGEST_RETRY_SECONDS)

    def _remove(self, head: object) -> None:
        with self._changed:
            if head is not None:
                self._queue.popleft()
            self._holds -= isinstance(head, Item) and isinstance(head.record.decision, Hold)

    def _go_on_without_history(self, seconds: float) -> None:
        """Until the head is tried again, don't keep back what needs no history: drop-ins and log lines."""
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            with self._changed:
                behind = list(self._queue)[1:]
            for entry in behind:
                if isinstance(entry, Item):
                    self._step("recorder", self._keeper.process_without_history, entry)
                elif isinstance(entry, LogMessage):
                    self._step("recorder", self._do, entry)
                    with self._changed:
                        self._queue.remove(entry)
            self._step("upkeep", self._keeper.run_periodic)
            with self._changed:
                if len(self._queue) == 1 + sum(not isinstance(entry, LogMessage) for entry in behind):
                    self._changed.wait(min(left, _TURN_SECONDS))

    def _step(self, subject: str, work: Callable[..., bool | None], *arguments: object) -> bool:
        """Do one step; return False where it is to be tried again. An error is said, never fatal."""
        self._busy_since = time.monotonic()
        try:
            return self._keeper.attempt(subject, work, *arguments)
        except Exception as error:  # noqa: BLE001 - the worker must outlive any one record
            self._keeper.report_failure(subject, error)
            return True
        finally:
            self._busy_since = None

    def _do(self, head: Item | LogMessage | Mark | Question[Any] | None) -> bool:
        match head:
            case Item():
                return self._keeper.keep(head)
            case Mark(position):
                self._keeper.note(position)
            case LogMessage():
                self._keeper.say(head.event, head.level, head.message, **head.fields)
            case Question():
                return self._keeper.attempt("history", head.put_to, self._keeper) or not head.retry
            case None:
                pass
            case _:
                assert_never(head)
        return True
