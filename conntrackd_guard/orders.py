"""What an operator orders: revert, pause, resume. Each is recorded as a decision, with who gave it.

Orders run in the command's own process, with or without a running guard. A running guard takes an
order's record into its state from a file under /run, so its limit is never mistaken for a fight.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from conntrackd_guard import __version__
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.errors import AnswerIsNo, GuardError, HostError, NotPermitted
from conntrackd_guard.core.model import (
    Mode,
    Observation,
    Order,
    OrderKind,
    Outcome,
    OutcomeKind,
    Pause,
    Policy,
    Record,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.history import History
from conntrackd_guard.history_rows import Row, rfc3339
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.drop_in import DropIn, Persisted
from conntrackd_guard.host.kernel import Kernel
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runfiles import RunFiles
from conntrackd_guard.observer import Observer
from conntrackd_guard.views.sentence import sentence

REVERT_PAUSE_SECONDS = 3600.0
"""A revert stops raising this long: else the next line would undo it."""
_IN_FLIGHT_SECONDS = 0.1
"""A guard that was past its look at the pause writes within this time; then the revert is checked once more."""
_NO_LOGIN = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a revert would do. `squeezed` are the tables (label, count) that hold more than the target."""

    current: int
    target: int
    original: bool
    """The target is what the limit was before the guard first raised it: nothing is left to persist."""
    squeezed: tuple[tuple[str, int], ...]
    observation: Observation


class Orders:
    """Gives orders on one host. Methods raise GuardError with what to do next."""

    def __init__(self, paths: Paths, kernel: Kernel, drop_in: DropIn, policy: Policy) -> None:
        self._paths, self._kernel, self._drop_in, self._policy = paths, kernel, drop_in, policy
        self._clock = Clock()
        self._run_files = RunFiles(paths)
        self._observer = Observer(paths, kernel, self._clock, self._run_files)

    def pause(self, seconds: float | None, reason: str) -> Record:
        """Stop raising, for `seconds` or until resumed."""
        self._run_files.prepare()
        until = None if seconds is None else self._clock.boottime() + seconds
        order = Order(kind=OrderKind.PAUSE, until_seconds=until, reason=reason, **_who())
        self._run_files.put_pause(Pause(by="guard pause", reason=reason, until_seconds=until))
        return self._record(order, Outcome(kind=OutcomeKind.APPLIED))

    def resume(self, reason: str = "") -> tuple[Record, Pause | None]:
        """End a pause and a stand-off; return the record, and the pause that goes on because a fleet file orders it."""
        self._run_files.prepare()
        self._run_files.drop_pause()
        record = self._record(Order(kind=OrderKind.RESUME, reason=reason, **_who()), Outcome(kind=OutcomeKind.APPLIED))
        return record, self._run_files.pause(self._clock.boottime())

    def plan(self, row_id: int | None, *, whole: bool) -> Plan:
        """Return what reverting decision `row_id` (None: the last raise; `whole`: all of them) would do."""
        current = self._kernel.limit_in_force()
        if not current:
            raise AnswerIsNo("The kernel has no limit to revert (no conntrack, or 0 for unlimited).")
        with self._history("reader") as history:
            raises = _standing_raises(history)
        if not raises:
            raise AnswerIsNo("Nothing to revert: history knows no raise that is still standing.")
        target = _target(raises, row_id, current, whole=whole)
        if target >= current:
            raise AnswerIsNo(f"Nothing to revert: the limit is {current:,}, and that decision began at {target:,}.")
        observation = self._observer.observe(rescan=True)
        return Plan(
            current=current,
            target=target,
            original=target <= (raises[0].from_limit or 0),
            squeezed=tuple((t.label, t.count) for t in observation.tables if t.count > target),
            observation=observation,
        )

    def revert(self, plan: Plan, reason: str) -> Record:
        """Carry a plan out: pause, write, read back, drop-in, history."""
        self._run_files.prepare()
        until = self._clock.boottime() + REVERT_PAUSE_SECONDS
        order = Order(kind=OrderKind.REVERT, target=plan.target, until_seconds=until, reason=reason, **_who())
        self._run_files.put_pause(
            Pause(by="guard revert", reason=reason or "the limit was reverted", until_seconds=until)
        )
        planned = self._planned(order, plan.observation)
        applied = Outcome(kind=OutcomeKind.APPLIED, limit_after=plan.target)
        self._run_files.put_order(planned.key, encode(replace(planned, outcome=applied)))
        try:
            after = self._kernel.set_limit(plan.target)
            time.sleep(_IN_FLIGHT_SECONDS)
            if self._kernel.limit_in_force() != plan.target:
                after = self._kernel.set_limit(plan.target)
        except HostError as error:
            self._run_files.drop_order(planned.key)
            self._run_files.drop_pause()
            self._keep(
                replace(planned, outcome=Outcome(kind=OutcomeKind.REJECTED, errno=error.errno, detail=str(error)))
            )
            if os.geteuid() != 0:
                raise NotPermitted(str(error)) from error
            raise
        record = replace(planned, outcome=replace(applied, limit_after=after, detail=self._follow(planned, plan)))
        self._keep(record)
        return record

    def _follow(self, planned: Record, plan: Plan) -> str:
        """Make the drop-in follow; return what of it failed."""
        try:
            if plan.original or self._drop_in.limit() is None:
                self._drop_in.remove()
                return ""
            self._drop_in.put(
                Persisted(
                    limit=plan.target,
                    at=rfc3339(plan.observation.wall_seconds),
                    version=__version__,
                    decision=planned.key,
                    why=sentence(planned),
                    boot_id=plan.observation.boot_id,
                    memory_total_bytes=plan.observation.memory_total_bytes,
                    budget_bytes=0,
                )
            )
        except GuardError as error:
            return f"the limit was reverted, the file was not: {error}"
        return ""

    def _record(self, order: Order, outcome: Outcome) -> Record:
        """Record an order that wrote no limit; a running guard learns of it by its file."""
        record = replace(self._planned(order, self._observer.observe()), outcome=outcome)
        self._run_files.put_order(record.key, encode(record))
        self._keep(record)
        return record

    @staticmethod
    def _planned(order: Order, observation: Observation) -> Record:
        return Record(
            key=f"{int(observation.boottime_seconds * 1e6)}-{os.getpid()}-{order.kind}",
            mode=Mode.ACT,
            trigger=Trigger(kind=TriggerKind.ORDER, lines=0),
            observation=observation,
            state=State(),
            decision=order,
            outcome=Outcome(kind=OutcomeKind.NONE),
        )

    def _keep(self, record: Record) -> None:
        """Write an order to history; it stands all the same where that fails."""
        with self._history("writer") as history:
            history.add(record, policy=self._policy, sentence=sentence(record), kernel_release=os.uname().release)

    @contextlib.contextmanager
    def _history(self, mode: str) -> Iterator[History]:
        history = History(self._paths.history, mode="writer" if mode == "writer" else "reader")
        try:
            yield history
        finally:
            history.close()


def _standing_raises(history: History) -> list[Row]:
    """Return the applied raises since the last revert that went all the way back, oldest first."""
    raises: list[Row] = []
    for row in reversed(list(history.rows())):
        if row.outcome != OutcomeKind.APPLIED:
            continue
        if row.verdict == "raise":
            raises.append(row)
        elif row.reason == OrderKind.REVERT:
            raises = [r for r in raises if (r.from_limit or 0) < (row.to_limit or 0)]
    return raises


def _target(raises: list[Row], row_id: int | None, current: int, *, whole: bool) -> int:
    if whole:
        return raises[0].from_limit or 0
    if row_id is None:
        below = [row for row in raises if (row.from_limit or 0) < current]
        return (below or raises)[-1].from_limit or 0
    named = next((row for row in raises if row.id == row_id), None)
    if named is None:
        raise AnswerIsNo(f"Decision {row_id} is no standing raise. `guard history --verdict raise` lists them.")
    return named.from_limit or 0


def _who() -> dict[str, int | None]:
    """Return who orders: the user id, and the login behind a sudo where the kernel audits logins."""
    login: int | None = None
    with contextlib.suppress(OSError, ValueError), open("/proc/self/loginuid", encoding="ascii") as file:
        login = int(file.read())
    return {"uid": os.getuid(), "login_uid": None if login == _NO_LOGIN else login}
