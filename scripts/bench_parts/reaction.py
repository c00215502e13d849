"""Row `reaction`: from the packet that a full table drops to the raised limit."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

from scratch_namespace import ScratchNamespace

from bench_parts.contenders import C_ON_LINE, FOLLOWER, PIPE, Contender, guard, named, run
from bench_parts.ground import Ground, say
from bench_parts.table import Row

_LIMIT = 4096
"""Small, so that filling the table takes milliseconds."""
_REST_SECONDS = 12.0
"""Between two trials of a guard: its episode closes after 10 s, and an open one would raise before the packet drops."""
_YARDSTICK_REST_SECONDS = 1.2
"""The kernel passes ten lines in 5 s; a yardstick prints one a trial."""
_LATEST_SECONDS = 5.0
_NOT_DROPPED, _NOT_RAISED = 1, 3  # exit codes of overflow.c
_WITHIN_MS = 1.0
_P95_MS = 5.0
_JOURNAL_MS = 600.0

_FAST = guard("guard", pressure=False, standoff=0)
_FROZEN = replace(_FAST, name="guard, journald stopped", journald_stopped=True)
_JOURNAL = replace(_FAST, name="guard by journal alone", hide_ring_buffer=True)


def reaction(ground: Ground, trials: int, who: str) -> Iterator[Row]:
    """Yield one row a contender named like `who`: median, 95th percentile and worst of `trials`."""
    floor = 0.0
    for contender in named((C_ON_LINE, _FAST, _FROZEN, _JOURNAL, FOLLOWER, PIPE), who):
        say(f"reaction: {contender.name}, {trials} trials")
        times = sorted(_times(ground, contender, trials))
        if not times:
            yield Row(what="reaction", who=contender.name, figure=f"no raise within {_LATEST_SECONDS:.0f} s", met=False)
            continue
        median, p95 = statistics.median(times), times[-(-len(times) * 95 // 100) - 1]
        floor = floor or median
        target, met = _target(contender, median, p95, floor)
        missing = f", {trials - len(times)} of {trials} without a figure" if len(times) < trials else ""
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


def _times(ground: Ground, contender: Contender, trials: int) -> Iterator[float]:
    """Yield the milliseconds of every trial that ended with a raise."""
    with ground.scratch() as namespace:
        ground.keeper.set_limit(_LIMIT)
        with run(ground, contender, namespace):
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
