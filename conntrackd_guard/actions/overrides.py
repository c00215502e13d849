"""What an operator orders: revert, pause, resume. Each is recorded as a decision, with who gave it.

Overrides run in the command's own process, with or without a running guard. A running guard takes an
order's record into its state from a file under /run, so its limit is never mistaken for a fight.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace

from conntrackd_guard.actions.revertible import Step, revertible_raises
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.errors import AnswerIsNo, GuardError, HostError
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.model import (
    Observation,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Pause,
    Record,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.records import condense
from conntrackd_guard.history.database import History
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import Kernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.host.sysctl_dropin import DropIn, Persisted

REVERT_PAUSE_SECONDS = 3600.0
"""A revert stops raising this long: else the next line would undo it."""
_IN_FLIGHT_SECONDS = 0.1
"""A guard that was past its look at the pause writes within this time; then the revert is checked once more."""
_NO_LOGIN = 0xFFFFFFFF
_NAMED = 10
"""Raises named to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a revert would do. `squeezed` are the tables (label, count) that hold more than the target."""

    current: int
    target: int
    original: bool
    """The target is what the limit was before the guard first raised it: nothing is left to persist."""
    squeezed: tuple[tuple[str, int], ...]
    paused: Pause | None
    """A pause ordered before that lasts longer than the revert's own: it stays as it is."""
    observation: Observation


class Overrides:
    """Gives orders on one host. Methods raise GuardError with what to do next."""

    def __init__(self, paths: Paths, kernel: Kernel, drop_in: DropIn, policy: Policy) -> None:
        self._paths, self._kernel, self._drop_in, self._policy = paths, kernel, drop_in, policy
        self._clock = Clock()
        self._run_files = RuntimeDir(paths)
        self._observer = Observer(paths, kernel, self._clock, self._run_files)

    def pause(self, seconds: float | None, reason: str) -> Record:
        """Stop raising, for `seconds` or until resumed."""
        self._run_files.prepare()
        until = None if seconds is None else self._clock.boottime() + seconds
        order = Override(kind=OverrideKind.PAUSE, until_seconds=until, reason=reason, **_who())
        self._run_files.put_pause(Pause(by="guard pause", reason=reason, until_seconds=until))
        return self._record(order, Outcome(kind=OutcomeKind.APPLIED))

    def resume(self, reason: str = "") -> tuple[Record, Pause | None]:
        """End a pause and a stand-off; return the record, and the pause that goes on because a fleet file orders it."""
        self._run_files.prepare()
        self._run_files.drop_pause()
        record = self._record(
            Override(kind=OverrideKind.RESUME, reason=reason, **_who()), Outcome(kind=OutcomeKind.APPLIED)
        )
        return record, self._run_files.pause(self._clock.boottime())

    def plan(self, row_id: int | None, *, whole: bool) -> Plan:
        """Return what reverting decision `row_id` (None: the last raise; `whole`: all of them) would do."""
        current = self._kernel.limit_in_force()
        if not current:
            raise AnswerIsNo("The kernel has no limit to revert (no conntrack, or 0 for unlimited).")
        raises = revertible_raises(self._paths, current)
        if not raises:
            raise AnswerIsNo(
                f"Nothing to revert: no raise of the guard led to the limit of {current:,}. `guard history` tells "
                "what did; `sysctl -w net.netfilter.nf_conntrack_max=N` sets another."
            )
        target = (raises[-1] if whole else _chosen(raises, row_id)).before
        observation = self._observer.observe(rescan=True)
        return Plan(
            current=current,
            target=target,
            original=target == raises[-1].before,
            squeezed=tuple((t.label, t.count) for t in observation.tables if t.count > target),
            paused=self._lasting_pause(),
            observation=observation,
        )

    def revert(self, plan: Plan, reason: str) -> Record:
        """Carry a plan out: pause, write, read back, drop-in, history. Where it fails, the pauses are as before."""
        self._run_files.prepare()
        now = self._clock.boottime()
        own = Pause(
            by="guard revert", reason=reason or "the limit was reverted", until_seconds=now + REVERT_PAUSE_SECONDS
        )
        earlier = self._run_files.operator_pause(now)
        until = (plan.paused or own).until_seconds
        order = Override(kind=OverrideKind.REVERT, target=plan.target, until_seconds=until, reason=reason, **_who())
        planned = self._planned(order, plan.observation)
        applied = Outcome(kind=OutcomeKind.APPLIED, limit_after=plan.target)
        try:
            if plan.paused is None:
                self._run_files.put_pause(own)
            self._run_files.put_override(planned.key, encode(replace(planned, outcome=applied)))
            decided = self._clock.boottime()  # after the pause: a raise that was past it is older
            after, detail = self._write(planned, plan, decided)
        except HostError as error:
            with contextlib.suppress(HostError):  # /run itself may be what fails
                self._run_files.drop_override(planned.key)
                if plan.paused is None:
                    self._put_back(earlier)
            self._keep(
                replace(planned, outcome=Outcome(kind=OutcomeKind.REJECTED, errno=error.errno, detail=str(error)))
            )
            raise
        return self._keep(replace(planned, outcome=replace(applied, limit_after=after, detail=detail)))

    def _write(self, planned: Record, plan: Plan, decided: float) -> tuple[int, str]:
        """Write the limit, the drop-in at once after it, and both again where a raise was on its way.

        Return what is read back, and what of the drop-in failed.
        """
        after, detail = self._kernel.set_limit(plan.target), self._follow(planned, plan, decided)
        time.sleep(_IN_FLIGHT_SECONDS)
        if self._kernel.limit_in_force() != plan.target:
            after, detail = self._kernel.set_limit(plan.target), self._follow(planned, plan, decided)
        return after, detail

    def _lasting_pause(self) -> Pause | None:
        """Return the ordered pause where it lasts longer than a revert's own."""
        now = self._clock.boottime()
        pause = self._run_files.operator_pause(now)
        if pause is None or (pause.until_seconds is not None and pause.until_seconds < now + REVERT_PAUSE_SECONDS):
            return None
        return pause

    def _put_back(self, earlier: Pause | None) -> None:
        """Have the pause that was in force before, or none."""
        if earlier is None:
            self._run_files.drop_pause()
        else:
            self._run_files.put_pause(earlier)

    def _follow(self, planned: Record, plan: Plan, decided: float) -> str:
        """Make the drop-in follow; return what of it failed."""
        try:
            none = plan.original or self._drop_in.limit() is None
            persisted = Persisted.from_record(planned, plan.target, sentence(planned, self._policy))
            self._drop_in.override(None if none else persisted, decided)
        except GuardError as error:
            return f"The limit was reverted; the drop-in was not: {error}"
        return ""

    def _record(self, order: Override, outcome: Outcome) -> Record:
        """Record an order that wrote no limit; a running guard learns of it by its file."""
        record = replace(self._planned(order, self._observer.observe()), outcome=outcome)
        self._run_files.put_override(record.key, encode(record))
        return self._keep(record)

    @staticmethod
    def _planned(order: Override, observation: Observation) -> Record:
        return Record(
            key=f"{int(observation.boottime_seconds * 1e6)}-{os.getpid()}-{order.kind}",
            mode=Mode.ACT,
            trigger=Trigger(kind=TriggerKind.OVERRIDE, message_count=0),
            observation=condense(observation, None),
            state=State(),
            decision=order,
            outcome=Outcome(kind=OutcomeKind.NONE),
        )

    def _keep(self, record: Record) -> Record:
        """Write an order to history; where that fails it stands all the same, and the record returned says so."""
        try:
            with History(self._paths.history, mode="writer") as history:
                history.add(
                    record,
                    policy=self._policy,
                    sentence=sentence(record, self._policy),
                    kernel_release=os.uname().release,
                )
        except GuardError as error:
            detail = "; ".join(filter(None, [record.outcome.detail, f"not in history yet: {error}"]))
            return replace(record, outcome=replace(record.outcome, detail=detail))
        return record


def _chosen(raises: list[Step], row_id: int | None) -> Step:
    """Return the raise with that number, or the last; `raises` are those that stand, newest first."""
    if row_id is None:
        return raises[0]
    named = next((step for step in raises if step.id == row_id), None)
    if named is None:
        ids = ", ".join(str(step.id) for step in raises[:_NAMED] if step.id is not None)
        raise AnswerIsNo(f"Decision {row_id} is no raise that led to the present limit. Those that did: {ids}.")
    return named


def _who() -> dict[str, int | None]:
    """Return who orders: the user id, and the login behind a sudo where the kernel audits logins."""
    login: int | None = None
    with contextlib.suppress(OSError, ValueError), open("/proc/self/loginuid", encoding="ascii") as file:
        login = int(file.read())
    return {"uid": os.getuid(), "login_uid": None if login == _NO_LOGIN else login}
