"""Operator overrides: revert, pause, resume. Each is recorded as a decision, with who gave it.

They run in the command's own process, with or without a running daemon. The daemon reads an override's record from a
file under /run into its state, so it does not mistake the new limit for a conflict.
"""

import contextlib
import os
import pwd
import time
from dataclasses import dataclass, replace
from typing import Any

from conntrackd_guard.actions.revertible import Step, buckets_before, revertible_raises
from conntrackd_guard.core import chains
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.errors import AnswerIsNo, GuardError, HostError
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.limits import format_limit, is_unlimited
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
from conntrackd_guard.host import disk
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import Kernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.dropin_request import Persisted
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn

REVERT_PAUSE_SECONDS = 3600.0
"""A revert pauses raising for this long: else the next message would undo it."""
_IN_FLIGHT_SECONDS = 0.1
"""A daemon that read no pause just before writes its raise within this time; then the revert checks once more."""
_BY_HAND = (
    "Until it does, `guard pause`, then `sysctl -w net.netfilter.nf_conntrack_max=N` set the limit for this boot."
)
_NO_LOGIN = 0xFFFFFFFF
_ARTICLES = {"hold": "a", "override": "an"}
_NAMED = 10
"""Raises listed to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a revert would do. `squeezed`: the tables (label, count) with more entries than the target."""

    current: int
    target: int
    buckets: int | None
    """The hash buckets from before the raises; None if those in force stay."""
    buckets_to_keep: int | None
    """Those that remain raised for the next boot."""
    original: bool
    """The target is the limit from before the first raise: nothing is left to persist."""
    squeezed: tuple[tuple[str, int], ...]
    paused: Pause | None
    """An earlier pause that lasts longer than the revert's own, and stays."""
    observation: Observation


class Overrides:
    """Carries overrides out on one host. Methods raise GuardError with what to do next."""

    def __init__(self, paths: Paths, kernel: Kernel, drop_in: SysctlDropIn, policy: Policy) -> None:
        self._paths, self._kernel, self._drop_in, self._policy = paths, kernel, drop_in, policy
        self._clock = Clock()
        self._runtime_dir = RuntimeDir(paths)
        self.moved = list[str]()
        """Messages about what stood in the place of the guard's files."""
        self._observer = Observer(paths, kernel, self._clock, self._runtime_dir)

    def pause(self, seconds: float | None, reason: str) -> Record:
        """Stop raising, for `seconds` or until resumed."""
        self.moved += self._runtime_dir.prepare()
        until = None if seconds is None else self._clock.boottime() + seconds
        override = Override(kind=OverrideKind.PAUSE, until_seconds=until, reason=reason, **_who())
        self._runtime_dir.put_pause(Pause(by="guard pause", reason=reason, until_seconds=until))
        return self._record(override)

    def resume(self) -> tuple[Record, Pause | None]:
        """End a pause and a conflict; return the record, and the pause that a fleet file still demands."""
        self.moved += self._runtime_dir.prepare()
        self._runtime_dir.drop_pause()
        record = self._record(Override(kind=OverrideKind.RESUME, reason="", **_who()))
        return record, self._runtime_dir.pause(self._clock.boottime())

    def plan(self, row_id: int | None, *, whole: bool) -> Plan:
        """Return what reverting decision `row_id` (None: the last raise; `whole`: all of them) would do."""
        current = self._kernel.limit_in_force()
        if current is None:
            raise AnswerIsNo("The kernel has no limit to revert: it tracks no connections.")
        if is_unlimited(current):
            raise AnswerIsNo(
                f"The limit is {format_limit(current)}: no raise led to it, and any number would lower it."
            )
        raises = disk.answer(lambda: self._raises(current, row_id), "read", self._paths.history, _BY_HAND)
        if not raises:
            raise AnswerIsNo(
                f"Nothing to revert: no raise of the guard led to the limit of {current:,}. `guard history` shows "
                "what did; `sysctl -w net.netfilter.nf_conntrack_max=N` sets another."
            )
        last = raises[-1] if whole else _chosen(raises, row_id)
        target, undone = last.before, raises[: raises.index(last) + 1]
        observation, now = self._observer.observe(rescan=True), self._clock.boottime()
        buckets = buckets_before(undone, observation.buckets)
        if (chains.average(chains.alive(observation), buckets) or 0.0) > chains.CHAIN_HOLD:
            buckets = None  # packets would be lost without a message
        pause = self._runtime_dir.operator_pause(now)
        lasts = pause is not None and (pause.until_seconds is None or pause.until_seconds >= now + REVERT_PAUSE_SECONDS)
        return Plan(
            current=current,
            target=target,
            buckets=buckets,
            buckets_to_keep=next((step.buckets[1] for step in raises[len(undone) :] if step.buckets is not None), None),
            original=target == raises[-1].before,
            squeezed=tuple((t.label, t.count) for t in observation.tables if t.count > target),
            paused=pause if lasts else None,
            observation=observation,
        )

    def _raises(self, current: int, row_id: int | None) -> list[Step]:
        """Return the raises that led to the current limit, newest first; check that `row_id` is a raise."""
        if row_id is not None:
            self._expect_raise(row_id)
        return revertible_raises(self._paths, current)

    def _expect_raise(self, row_id: int) -> None:
        """Raise AnswerIsNo if the history has no decision with that id, or another one than a raise."""
        history, step = History.existing(self._paths.history), "`guard history --verdict raise` lists the raises."
        if history is None:
            return
        with history:
            row = history.row(row_id)
        if row is None:
            raise AnswerIsNo(f"There is no decision {row_id}. {step}")
        if row.verdict != "raise":
            raise AnswerIsNo(f"Decision {row_id} is no raise but {_ARTICLES[row.verdict]} {row.verdict}. {step}")

    def revert(self, plan: Plan, reason: str) -> Record:
        """Carry a plan out: pause, drop-in, limit, read back, history. After a failure pauses and drop-in are as before.

        The drop-in comes first: after a kill the next boot does not undo the revert, and it can be repeated.
        """
        self.moved += self._runtime_dir.prepare()
        now = self._clock.boottime()
        why = reason or "the limit was reverted"
        own = Pause(by="guard revert", reason=why, until_seconds=now + REVERT_PAUSE_SECONDS)
        earlier = self._runtime_dir.operator_pause(now)
        until = (plan.paused or own).until_seconds
        override = Override(
            kind=OverrideKind.REVERT,
            target=plan.target,
            buckets_target=plan.buckets,
            until_seconds=until,
            reason=reason,
            **_who(),
        )
        planned = self._planned(override, plan.observation, OutcomeKind.NONE)
        applied = Outcome(kind=OutcomeKind.APPLIED, limit_after=plan.target)
        try:
            if plan.paused is None:
                self._runtime_dir.put_pause(own)
            self._runtime_dir.overrides.put(planned.key, replace(planned, outcome=applied))
            decided = self._clock.boottime()  # after the pause: a raise that read none was decided earlier
            after, detail = self._write(planned, plan, decided)
            time.sleep(_IN_FLIGHT_SECONDS)
            if self._kernel.limit_in_force() != plan.target:  # a raise came between
                after, detail = self._write(planned, plan, decided)
        except HostError as error:
            with contextlib.suppress(HostError):  # /run itself may be what fails
                self._runtime_dir.overrides.drop(planned.key)
                if plan.paused is None:
                    if earlier is None:
                        self._runtime_dir.drop_pause()
                    else:
                        self._runtime_dir.put_pause(earlier)
            failed = Outcome(kind=OutcomeKind.REJECTED, errno=error.errno, detail=str(error))
            self._store(replace(planned, outcome=failed))
            raise
        return self._store(replace(planned, outcome=replace(applied, limit_after=after, detail=detail)))

    def _write(self, planned: Record, plan: Plan, decided: float) -> tuple[int, str]:
        """Write drop-in, limit and buckets; return the limit read back, and which of the others could not be written.

        An unlimited limit stays: another program has set it since the plan was made.
        """
        now = self._kernel.limit_in_force()
        if now is not None and is_unlimited(now):
            error = OSError(None, f"the limit has become {format_limit(now)}")
            raise HostError(f"write {plan.target} to", self._paths.limit, error, "Find out what set it.")
        if (refusal := self._kernel.not_writable()) is not None:
            raise refusal
        kept, failed = self._kept(planned), []
        if behind := self._persist(self._wanted(planned, plan, kept), decided):
            failed.append(behind)
        try:
            after = self._kernel.set_limit(plan.target)
        except HostError:
            self._persist(kept, self._clock.boottime())
            raise
        if plan.buckets is not None:
            try:
                self._kernel.set_buckets(plan.buckets)
            except HostError as error:
                failed.append(f"The hash buckets stay as they are: {error}")
        return after, " ".join(failed)

    def _kept(self, planned: Record) -> Persisted | None:
        """Return the content of the drop-in before a revert; None without one, or if it can't be read."""
        with contextlib.suppress(HostError):
            if (kept := self._drop_in.persisted()) is not None:
                return replace(
                    Persisted.from_record(planned, kept.limit),
                    buckets=kept.buckets,
                    memory_total_bytes=kept.memory_total_bytes,
                    budget_bytes=kept.budget_bytes,
                )
        return None

    @staticmethod
    def _wanted(planned: Record, plan: Plan, kept: Persisted | None) -> Persisted | None:
        """Return the content of the drop-in after a revert; None for no drop-in."""
        if kept is None or plan.original:
            return None
        return replace(Persisted.from_record(planned, plan.target), buckets=plan.buckets_to_keep)

    def _persist(self, wanted: Persisted | None, decided: float) -> str:
        """Have the drop-in follow; return why it does not yet. A stalled disk must not keep the limit up."""
        try:
            disk.answer(lambda: self._drop_in.override(wanted, decided), "write", self._paths.drop_in, disk.AT_ITS_END)
        except GuardError as error:
            return f"The drop-in does not follow yet: {error}"
        return ""

    def _record(self, override: Override) -> Record:
        """Record an override that wrote no limit, and leave it for a running daemon."""
        record = self._planned(override, self._observer.observe(), OutcomeKind.APPLIED)
        self._runtime_dir.overrides.put(record.key, record)
        return self._store(record)

    def _planned(self, override: Override, observation: Observation, outcome: OutcomeKind) -> Record:
        return Record(
            key=f"{int(observation.boottime_seconds * 1e6)}-{os.getpid()}-{override.kind}",
            mode=Mode.ACT,
            trigger=Trigger(kind=TriggerKind.OVERRIDE, message_count=0),
            observation=condense(observation, None, self._policy),
            state=State(),
            decision=override,
            outcome=Outcome(kind=outcome),
        )

    def _store(self, record: Record) -> Record:
        """Write an override to history; if that fails, the override stands, and the returned record has why in its detail."""

        def write() -> None:
            with History(self._paths.history, mode="writer") as history:
                text, release = sentence(record, self._policy), os.uname().release
                history.add(record, policy=self._policy, sentence=text, kernel_release=release, is_final=True)

        try:
            disk.answer(write, "write to", self._paths.history, disk.AT_ITS_END)
        except GuardError as error:
            detail = "; ".join(filter(None, [record.outcome.detail, f"not in history yet: {error}"]))
            return replace(record, outcome=replace(record.outcome, detail=detail))
        return record


def _chosen(raises: list[Step], row_id: int | None) -> Step:
    """Return the raise with that id, or the last; `raises` are the revertible ones, newest first."""
    if row_id is None:
        return raises[0]
    named = next((step for step in raises if step.id == row_id), None)
    if named is None:
        ids = ", ".join(str(step.id) for step in raises[:_NAMED] if step.id is not None)
        raise AnswerIsNo(f"Decision {row_id} is no raise that led to the present limit. Those that did: {ids}.")
    return named


def _who() -> dict[str, Any]:
    """Return who runs the command: the user, and the login behind sudo where the kernel audits logins, with their names."""
    uid, login = os.getuid(), None
    with contextlib.suppress(OSError, ValueError), open("/proc/self/loginuid", encoding="ascii") as file:
        login = int(file.read())
    login = None if login == _NO_LOGIN else login
    return {"uid": uid, "user": _name(uid), "login_uid": login, "login": "" if login is None else _name(login)}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
