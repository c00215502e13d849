"""Row `reaction`: from the packet that a full table drops to the raised limit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

from testbed.scratch_namespace import ScratchNamespace

from bench.checkout import Checkout
from bench.contenders import C_ON_LINE, FOLLOWER, PIPE, STATE, Contender, guard, named, raises_recorded, run
from bench.ground import Ground, say, wait_for
from bench.standstill import Freezer, file_system_of_its_own
from bench.table import Row

_LIMIT = 4096
"""Small, so that filling the table takes milliseconds."""
_REST_SECONDS = 11.0
"""Between two trials of a guard: its episode closes after 10 s, and an open one would raise before the packet drops."""
_YARDSTICK_REST_SECONDS = 1.2
"""The kernel passes ten lines in 5 s; a yardstick prints one a trial."""
_LATEST_SECONDS = 5.0
_NOT_DROPPED, _NOT_RAISED = 1, 3  # exit codes of overflow.c
_WITHIN_MS = 1.0
_P95_MS = 5.0
_JOURNAL_MS = 600.0

_FAST = guard("guard", raise_early=False, conflict_limit=0)
_FROZEN = replace(_FAST, name="guard, journald stopped", journald_stopped=True)
_STALLED = replace(_FROZEN, name="guard, /var stalled", state_stalled=True)
"""Journald too: where /var stalls it waits in its next write."""
_JOURNAL = replace(_FAST, name="guard by journal alone", hide_ring_buffer=True)


def reaction(ground: Ground, freezer: Freezer, trials: int, who: list[str]) -> Iterator[Row]:
    """Yield one row a contender named like `who`: median, 95th percentile and worst of `trials`."""
    floor = 0.0
    for contender in named((C_ON_LINE, _FAST, _FROZEN, _STALLED, _JOURNAL, FOLLOWER, PIPE), who):
        say(f"reaction: {contender.name}, {trials} trials")
        times, lost = _trials(ground, freezer, contender, trials)
        if not times:
            yield Row(what="reaction", who=contender.name, figure=f"no raise within {_LATEST_SECONDS:.0f} s", met=False)
            continue
        median, p95 = statistics.median(times), times[-(-len(times) * 95 // 100) - 1]
        floor = floor or median
        target, met = _target(contender, median, p95, floor)
        missing = f", {trials - len(times)} of {trials} without a figure" if len(times) < trials else ""
        missing += f", {lost} of them not in history" if lost else ""
        yield Row(
            what="reaction",
            who=contender.name,
            figure=f"median {median:.1f} ms, p95 {p95:.1f}, worst {times[-1]:.1f}{missing}",
            ratio=f"{median / floor:.1f} × C program",
            target=target,
            met=met and not missing if met is not None else None,
        )


def _target(contender: Contender, median: float, p95: float, floor: float) -> tuple[str, bool | None]:
    if contender.settings is None:
        return "", None
    if contender.hide_ring_buffer:
        return f"p95 ≤ {_JOURNAL_MS:.0f} ms", p95 <= _JOURNAL_MS
    target = f"median ≤ C program + {_WITHIN_MS:.0f} ms, p95 ≤ {_P95_MS:.0f} ms"
    return target, median <= floor + _WITHIN_MS and p95 <= _P95_MS


def _trials(ground: Ground, freezer: Freezer, contender: Contender, trials: int) -> tuple[list[float], int]:
    """Return the milliseconds of every trial that ended with a raise, sorted, and how many raises history lacks."""
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(ground.scratch())
        ground.keeper.set_limit(_LIMIT)
        if contender.state_stalled:
            stack.enter_context(file_system_of_its_own(STATE, ground.folder / "state"))
        stack.enter_context(run(ground, contender, namespace))
        with freezer.frozen(STATE) if contender.state_stalled else contextlib.nullcontext():
            times = sorted(_times(ground, contender, namespace, trials))
        return times, 0 if contender.settings is None else _lost(contender.checkout, len(times))


def _times(ground: Ground, contender: Contender, namespace: ScratchNamespace, trials: int) -> Iterator[float]:
    """Yield the milliseconds of every trial that ended with a raise."""
    for trial in range(trials):
        if trial:
            ground.keeper.set_limit(_LIMIT)
            time.sleep(_YARDSTICK_REST_SECONDS if contender.settings is None else _REST_SECONDS)
        ground.flows(namespace, 0, _LIMIT)
        time.sleep(random.uniform(0.1, 0.6))  # another phase of journald's and the guard's ticks each time
        took = _overflow(ground, contender, namespace)
        if took is not None:
            yield took
        ground.flush(namespace)


def _lost(checkout: Checkout, raises: int) -> int:
    """Return how many of the guard's raises are not in its history once it has had the time to write them."""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: raises_recorded(checkout) >= raises, "the raises in history")
    return max(0, raises - raises_recorded(checkout))


def _overflow(ground: Ground, contender: Contender, namespace: ScratchNamespace) -> float | None:
    """Drop one packet; return the milliseconds until the limit has grown, None when it doesn't."""
    if contender.journald_stopped:
        os.kill(ground.journald.pid, signal.SIGSTOP)
    try:
        answer = ground.enter(namespace, str(ground.tool("overflow")), str(_LATEST_SECONDS))
    except subprocess.CalledProcessError as error:
        if error.returncode == _NOT_DROPPED:
            say("reaction: the limit was raised before the packet came (somebody else's line?); the trial is left out")
        elif error.returncode != _NOT_RAISED:
            raise
        return None
    finally:
        os.kill(ground.journald.pid, signal.SIGCONT)
    return float(answer.split()[0]) / 1000
