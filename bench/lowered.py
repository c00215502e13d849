"""Part of row `reaction`: another program has lowered the limit under a full table, and the guard hasn't noticed yet.

A restart of kube-proxy does that. The contender had raised the limit before, as on a host that needed it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from testbed.scratch_namespace import ScratchNamespace

from bench.contenders import Contender, Running, run
from bench.ground import Ground, progress, wait_for
from bench.overflow import overflow

_LIMIT = 4096
_REST_SECONDS = 11.0
"""After a raise: an episode closes after 10 s, and tables are read more often until then."""
_YARDSTICK_REST_SECONDS = 1.2
_DROP_AFTER_SECONDS = 0.15
"""From the lowering to the packet. A tick reads the tables every 250 ms; the lowering follows one immediately."""
_MOST_ATTEMPTS = 3
"""Multiple of the requested trials: those with a tick in between are not counted."""


def first_lowerings(ground: Ground, contender: Contender, trials: int) -> list[float]:
    """Return the milliseconds from packet to raised limit, each of a new guard, on its first lowering."""
    times: list[float] = []
    for _ in range(trials):
        times += lowerings(ground, contender, 1)
    return times


def lowerings(ground: Ground, contender: Contender, trials: int) -> list[float]:
    """Return the milliseconds from packet to raised limit of up to `trials` lowerings under one guard."""
    times: list[float] = []
    with ground.scratch() as namespace:
        ground.limit_guard.set_limit(_LIMIT)
        with run(ground, contender, namespace) as running:
            ground.limit_guard.set_limit(_LIMIT)  # a yardstick may have answered old messages
            ground.flows(namespace, 0, _LIMIT)
            if overflow(ground, namespace) is None:
                progress(f"reaction: {contender.name} did not raise the limit at first")
                return []
            for _ in range(trials * _MOST_ATTEMPTS):
                if len(times) < trials:
                    times += _trial(ground, running, namespace)
    return times


def _trial(ground: Ground, running: Running, namespace: ScratchNamespace) -> Iterator[float]:
    """Yield the milliseconds of one lowering; nothing where the trial doesn't count."""
    is_guard = running.contender.settings is not None
    ground.flush(namespace)
    ground.flows(namespace, 0, _LIMIT)
    time.sleep(_REST_SECONDS if is_guard else _YARDSTICK_REST_SECONDS)
    if is_guard:
        before = _waits(running)
        wait_for(lambda: _waits(running) != before, "a tick of the guard", look_seconds=0.001)
    ground.limit_guard.set_limit(_LIMIT)
    before = _waits(running)
    time.sleep(_DROP_AFTER_SECONDS)
    ticked = is_guard and _waits(running) != before  # by now; the packet follows within 30 ms
    took = overflow(ground, namespace)
    if ticked or took is None:
        progress(f"reaction: a trial is not counted: {'a tick came before the packet' if ticked else 'no raise'}")
    else:
        yield took


def _waits(running: Running) -> int:
    """Return how often the first thread has gone to sleep."""
    pid = running.process.pid
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text("ascii")
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith("voluntary_ctxt_switches"))
