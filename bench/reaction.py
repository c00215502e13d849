"""Row `reaction`: from the packet that a full table drops to the raised limit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from testbed.scratch_namespace import ScratchNamespace

from bench.checkout import Checkout
from bench.contenders import C_ON_MESSAGE, FOLLOWER, PIPE, STATE, Contender, guard, named, raises_recorded, run
from bench.ground import Ground, progress, wait_for
from bench.lowered import first_lowerings, lowerings
from bench.overflow import LATEST_SECONDS, overflow
from bench.pod import in_container
from bench.standstill import Freezer, file_system_of_its_own
from bench.table import Row
from bench.turns import compare, in_turns, with_others

_LIMIT = 4096
"""Small, so that filling the table takes milliseconds."""
_REST_SECONDS = 11.0
"""Between two trials of a guard: an episode closes after 10 s, and an open one would raise before the packet."""
_YARDSTICK_REST_SECONDS = 1.2
"""The kernel passes ten messages in 5 s; a yardstick causes one a trial."""
_WITHIN_MS = 1.0
_P95_MS = 5.0
_P95_WITHIN_MS = 1.5
_RECORD_WITHIN_MS = 0.5
_JOURNAL_MS = 600.0

_FAST = guard("guard", raise_early=False, conflict_limit=0)
_FROZEN = replace(_FAST, name="guard, journald stopped", journald_stopped=True)
_STALLED = replace(_FROZEN, name="guard, /var stalled", state_stalled=True)
"""Journald too: while /var stalls, it is blocked in its next write."""
_JOURNAL = replace(_FAST, name="guard by journal alone", hide_ring_buffer=True)
_IN_CONTAINER = in_container(raise_early=False, conflict_limit=0)
"""It has no ring buffer either."""
_FIRST_CONFLICT = guard("guard, default conflict_limit", raise_early=False)
"""It counts the lowering, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Milliseconds of the trials that ended with a raise, sorted."""

    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Return the middle of the times."""
        return statistics.median(self.times)

    @property
    def p95(self) -> float:
        """Return the 95th percentile of the times."""
        return self.times[-(-len(self.times) * 95 // 100) - 1]


_Target = Callable[[Contender, Result, dict[str, Result]], tuple[str, bool | None]]


@dataclass(slots=True, kw_only=True)
class Reaction:
    """The options of the row, and what it needs."""

    ground: Ground
    freezer: Freezer
    trials: int
    rounds: int
    who: list[str]
    others: Sequence[Checkout]
    rsyslog: Contender | None
    lost: Counter[str] = field(default_factory=Counter)
    """Raises that a guard's history lacks, by its name."""

    def rows(self) -> Iterator[Row]:
        """Yield one row for each contender: median, 95th percentile and worst of the trials."""
        yield from self._full()
        yield from self._lowered()

    def _full(self) -> Iterator[Row]:
        found: dict[str, Result] = {}
        contenders = (C_ON_MESSAGE, _FAST, _FROZEN, _STALLED, FOLLOWER, _JOURNAL, *_IN_CONTAINER, PIPE)
        for contender in named(contenders, self.who):
            yield from self._measure("reaction", contender, self._trials, found, _full_target)

    def _lowered(self) -> Iterator[Row]:
        what, found = "reaction, limit lowered 150 ms before", dict[str, Result]()
        yardsticks = (C_ON_MESSAGE, *((self.rsyslog,) if self.rsyslog else ()))
        for contender in named((*yardsticks, _FAST, _FIRST_CONFLICT), self.who):
            once = contender is _FIRST_CONFLICT

            def measure(contender: Contender, number: int, *, once: bool = once) -> list[float]:
                return (first_lowerings if once else lowerings)(self.ground, contender, number)

            yield from self._measure(what, contender, measure, found, _lowered_target)

    def _measure(
        self,
        what: str,
        contender: Contender,
        measure: Callable[[Contender, int], Iterable[float]],
        found: dict[str, Result],
        target: _Target,
    ) -> Iterator[Row]:
        """Yield the rows of a contender and of its like in other checkouts, and add them to the results `found` so far."""
        group = with_others(contender, self.others)
        progress(f"{what}: {contender.name}, {self.trials} trials")
        for name, times in in_turns(group, self.trials, self.rounds, measure).items():
            if times:
                found[name] = Result(times=sorted(times))
        floor = {"C program": found[C_ON_MESSAGE.name].median} if C_ON_MESSAGE.name in found else {}
        if _has_no_ring_buffer(contender):
            floor |= {one.name: found[one.name].median for one in (FOLLOWER, _JOURNAL) if one.name in found}
            floor.pop(contender.name, None)
        rivals = {one.name: found[one.name].median for one in group[1:] if one.name in found}
        for one in group:
            if one.name not in found:
                yield Row(what=what, who=one.name, figure=f"no raise within {LATEST_SECONDS:.0f} s", met=False)
                continue
            result, is_ours = found[one.name], one is contender
            missing = self._missing(one, result)
            wanted, met = target(one, result, found) if is_ours else ("", None)
            yield Row(
                what=what,
                who=one.name,
                figure=f"median {result.median:.1f} ms, p95 {result.p95:.1f}, worst {result.times[-1]:.1f}{missing}",
                ratio=compare(result.median, floor | rivals if is_ours else floor),
                target=wanted,
                met=met and not missing if met is not None else None,
            )

    def _missing(self, contender: Contender, result: Result) -> str:
        """Return what the trials or the history lack, in words."""
        without, lost = self.trials - len(result.times), self.lost[contender.name]
        text = f", {without} of {self.trials} without a figure" if without else ""
        return text + (f", {lost} of them not in history" if lost else "")

    def _trials(self, contender: Contender, trials: int) -> list[float]:
        """Return the milliseconds of every trial that ended with a raise."""
        with contextlib.ExitStack() as stack:
            namespace = stack.enter_context(self.ground.scratch())
            self.ground.limit_guard.set_limit(_LIMIT)
            if contender.state_stalled:
                stack.enter_context(file_system_of_its_own(STATE, self.ground.folder / "state"))
            stack.enter_context(run(self.ground, contender, namespace))
            with self.freezer.frozen(STATE) if contender.state_stalled else contextlib.nullcontext():
                times = list(self._times(contender, namespace, trials))
            if contender.settings is not None:
                self.lost[contender.name] += _lost(contender.checkout, len(times))
            return times

    def _times(self, contender: Contender, namespace: ScratchNamespace, trials: int) -> Iterator[float]:
        for trial in range(trials):
            if trial:
                self.ground.limit_guard.set_limit(_LIMIT)
                time.sleep(_YARDSTICK_REST_SECONDS if contender.settings is None else _REST_SECONDS)
            self.ground.flows(namespace, 0, _LIMIT)
            time.sleep(random.uniform(0.1, 0.6))  # another phase of journald's and the guard's ticks each time
            if contender.journald_stopped:
                os.kill(self.ground.journald.pid, signal.SIGSTOP)
            try:
                took = overflow(self.ground, namespace)
            finally:
                os.kill(self.ground.journald.pid, signal.SIGCONT)
            if took is not None:
                yield took
            self.ground.flush(namespace)


def _has_no_ring_buffer(contender: Contender) -> bool:
    return contender.hide_ring_buffer or contender in _IN_CONTAINER


def _full_target(contender: Contender, result: Result, found: dict[str, Result]) -> tuple[str, bool | None]:
    if contender.settings is None:
        return "", None
    if _has_no_ring_buffer(contender):
        return f"p95 ≤ {_JOURNAL_MS:.0f} ms", result.p95 <= _JOURNAL_MS
    if C_ON_MESSAGE.name not in found:
        return "", None
    target = f"median ≤ C program + {_WITHIN_MS:.0f} ms, p95 ≤ {_P95_MS:.0f} ms"
    return target, result.median <= found[C_ON_MESSAGE.name].median + _WITHIN_MS and result.p95 <= _P95_MS


def _lowered_target(contender: Contender, result: Result, found: dict[str, Result]) -> tuple[str, bool | None]:
    if contender is _FAST and C_ON_MESSAGE.name in found:
        floor = found[C_ON_MESSAGE.name]
        target = f"median ≤ C program + {_WITHIN_MS:.0f} ms, p95 ≤ C program + {_P95_WITHIN_MS} ms"
        return target, result.median <= floor.median + _WITHIN_MS and result.p95 <= floor.p95 + _P95_WITHIN_MS
    if contender is _FIRST_CONFLICT and _FAST.name in found:
        target = f"median within {_RECORD_WITHIN_MS} ms of {_FAST.name}"
        return target, result.median <= found[_FAST.name].median + _RECORD_WITHIN_MS
    return "", None


def _lost(checkout: Checkout, raises: int) -> int:
    """Return how many of the guard's raises are not in its history once it had time to write them."""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: raises_recorded(checkout) >= raises, "the raises in history")
    return max(0, raises - raises_recorded(checkout))
