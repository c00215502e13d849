"""The recorder: a queue, and one thread that owns everything durable and everything that is logged.

The main loop only appends to the queue and never waits. Raises are never dropped. Equal holds are merged until something
changes the state; beyond a bound they are only counted. A position travels in the queue behind all that it covers.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar, assert_never

from conntrackd_guard.core import explain
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.model import Hold, Record
from conntrackd_guard.core.records import MOST_NAMED, fingerprint, merges, users_namespaces
from conntrackd_guard.core.verification import Drops, End, Verification
from conntrackd_guard.history.database import Position
from conntrackd_guard.recording.items import Call, Entry, Item, LogMessage
from conntrackd_guard.recording.worker import Worker

MOST_HOLDS_QUEUED = 1000
"""Different holds kept while the disk stalls (about 10 KB each); more are only counted."""
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0
_TURN_SECONDS = 1.0

T = TypeVar("T")


class Recorder:
    """Queue and thread. Every method but `close` returns at once."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.series_collector = worker.series_collector
        """Takes what the main loop reads, for the time series."""
        self.restarts = worker.restarts
        """Lowerings that turned out to be restarts, for the main loop to take."""
        self._queue: deque[Entry] = deque()
        self._joinable: dict[str, Item] = {}
        """Holds in the queue that an equal one may still join, with those that did, by fingerprint."""
        self._holds = 0
        self._noted: Position | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._busy_since: float | None = None
        self._all_done = False
        self.lost_holds = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(
        self,
        record: Record,
        policy: Policy,
        position: Position | None = None,
        *,
        times: int = 1,
        is_stored: bool = False,
    ) -> None:
        """Record a decision; equal holds that still wait become one. With `is_stored`, an earlier run wrote its row."""
        last = record.observation.wall_seconds
        item = Item(
            record=record,
            policy=policy,
            position=position,
            times=times,
            last_wall_seconds=last,
            namespaces=users_namespaces(record),
            is_stored=is_stored,
        )
        with self._changed:
            if isinstance(record.decision, Hold):
                name = fingerprint(record)
                if (waiting := self._joinable.get(name)) is not None:
                    named = tuple(dict.fromkeys([*waiting.namespaces, *item.namespaces]))[: MOST_NAMED + 1]
                    self._joinable[name] = replace(
                        waiting, joined=waiting.joined + times, last_wall_seconds=last, namespaces=named
                    )
                    head, *behind = (
                        self._queue
                    )  # which may be at work; a position behind it would pass for one that covers this
                    self._queue = deque([head, *(entry for entry in behind if not isinstance(entry, Position))])
                    self._noted = None  # even an equal one has to come after them
                    self.note_position(position)  # not the first one's: others that wait are covered too
                    return
                if self._holds >= MOST_HOLDS_QUEUED:
                    self.lost_holds += times
                    return
                self._holds += 1
                self._joinable[name] = item
            if not merges(record):
                self._joinable.clear()  # nothing joins what waits before it, and nothing joins it
            is_owed = self._noted is None  # to a hold that joined another: no record's own position covers it
            self._append(item)
            if is_owed:
                self.note_position(position)
            self._noted = position

    def log(self, event: str, level: str, message: str, **fields: Any) -> None:
        """Log a message that is no decision."""
        self._append(LogMessage(event, level, message, fields))

    def note_position(self, position: Position | None) -> None:
        """Remember how far the kernel's messages were read, once all handed over before is written.

        The position replaces one that waits at the queue's end, and wakes nobody.
        """
        with self._changed:
            if position is None or position == self._noted:
                return
            self._noted = position
            if len(self._queue) > 1 and isinstance(self._queue[-1], Position):  # the only one may be at work
                self._queue.pop()
            self._queue.append(position)

    def record_verification(self, found: Verification) -> None:
        """Store a raise's verification after its row, and log that of an incident's last raise: it ends the incident."""
        self.call(lambda worker: worker.history_writer.history().add_verification(found), retry=True)
        if found.end is not End.WATCHED:
            return
        continuing = found.drops is Drops.CONTINUING
        event, level = ("guard.drops_continue", "warning") if continuing else ("guard.info", "info")
        self.log(event, level, explain.verification(found), **encode(found))

    def call(self, work: Callable[[Worker], T], *, retry: bool = False) -> Future[T]:
        """Run `work` on the recorder's thread. With `retry`, keep trying until the host allows it."""
        call = Call(work, Future(), retry)
        self._append(call)
        return call.future

    def close(self, seconds: float) -> bool:
        """Finish the queue and stop the thread; return whether all was done within `seconds`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        return self._all_done

    def report(self) -> dict[str, Any]:
        """Return the recorder's part of the status."""
        since, errors = self._busy_since, [*dict.fromkeys(self._worker.errors.values())]
        if self._thread.ident is not None and not self._thread.is_alive() and not self._stopping:
            errors.append("The recorder has ended: nothing is recorded, logged or persisted until a restart.")
        with self._changed:
            backlog = sum(not isinstance(entry, Position) for entry in self._queue)
        return {
            "backlog": backlog,
            "stuck_seconds": 0.0 if since is None else round(time.monotonic() - since, 1),
            "lost_holds": self.lost_holds,
            "lost_lines": self._worker.log.lost,
            "trouble": errors,
        }

    def _append(self, entry: Entry) -> None:
        with self._changed:
            self._queue.append(entry)
            self._changed.notify()

    def _run(self) -> None:
        """Take the queue's head, do it, and only then remove it."""
        wait = _FIRST_RETRY_SECONDS
        while True:
            head = self._head()
            if head is None and self._stopping:
                self._all_done = self._step("end", self._worker.finish)
                return
            finished = self._step("recorder", self._do, head)
            self._step("upkeep", self._worker.run_periodic)
            if finished:
                wait = _FIRST_RETRY_SECONDS
                with self._changed:
                    if head is not None:
                        self._queue.popleft()
                    self._holds -= isinstance(head, Item) and isinstance(head.record.decision, Hold)
                continue
            if self._stopping:  # the next start recovers rows by the intents
                self._do_without_history()
                self._step("end", self._worker.finish_without_history)
                return
            self._continue_without_history(wait)
            wait = min(2 * wait, _LONGEST_RETRY_SECONDS)

    def _head(self) -> Entry | None:
        """Wait for the queue's head and return it; a hold takes along those that joined it."""
        with self._changed:
            if not self._queue and not self._stopping:
                self._changed.wait(_TURN_SECONDS)
            head = self._queue[0] if self._queue else None
            if isinstance(head, Item):
                name = fingerprint(head.record)
                joined = self._joinable.get(name)
                if joined is not None and joined.record is head.record:
                    self._queue[0] = head = self._joinable.pop(name)
            return head

    def _continue_without_history(self, seconds: float) -> None:
        """Until the head is retried, do what needs no history."""
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            waiting = self._do_without_history()
            self._step("upkeep", self._worker.run_periodic)
            with self._changed:
                if len(self._queue) == waiting:
                    self._changed.wait(min(left, _TURN_SECONDS))

    def _do_without_history(self) -> int:
        """Write the drop-ins and log messages of what waits behind the head; return how many entries then wait, with it."""
        with self._changed:
            behind = list(self._queue)[1:]
        for entry in behind:
            if isinstance(entry, Item):
                self._step("recorder", self._worker.process_without_history, entry)
            elif isinstance(entry, LogMessage):
                self._step("recorder", self._do, entry)
                with self._changed:
                    self._queue.remove(entry)
        return 1 + sum(not isinstance(entry, LogMessage) for entry in behind)

    def _step(self, subject: str, work: Callable[..., object], *arguments: object) -> bool:
        """Do one step; return False where it has to be retried. An error is logged, never fatal."""
        self._busy_since = time.monotonic()
        try:
            return self._worker.attempt(subject, work, *arguments)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any one record
            self._worker.report_failure(subject, error)
            return True
        finally:
            self._busy_since = None

    def _do(self, head: Entry | None) -> bool:
        match head:
            case Item():
                return self._worker.process(head)
            case Position():
                self._worker.note_position(head)
            case LogMessage(event, level, message, fields):
                self._worker.log.emit(event, level, message, **fields)
            case Call():
                return self._worker.attempt("history", self._answer, head) or not head.retry
            case None:
                pass
            case _:
                assert_never(head)
        return True

    def _answer(self, call: Call) -> None:
        """Do a call's work and resolve its future, with an error unless that is retried. Raises the error."""
        try:
            call.future.set_result(call.work(self._worker))
        except Exception as error:
            if not (call.retry and isinstance(error, GuardError)):
                call.future.set_exception(error)
            raise
