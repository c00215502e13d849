"""Row `crowd`: what thousands of network namespaces cost: CPU while the guard watches them, and the time of one decision."""

from __future__ import annotations

import contextlib
import gc
import itertools
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from testbed.scratch_namespace import ScratchNamespace

from bench.checkout import THIS, Checkout
from bench.contenders import Contender, guard, run
from bench.ground import Ground, memory_available_mib, progress
from bench.table import Row
from bench.turns import compare, with_others
from conntrackd_guard.core.configuration import FloodAction, FloodResponse, Policy
from conntrackd_guard.core.model import MessageKind, Observation, State, Table, Trigger, TriggerKind
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.records import condense

NAMESPACES = 12_000
_FEW = 100
_LEAST_SECONDS = 180
"""For all namespaces."""
_MIB_EACH = 0.5
"""Kernel memory of a namespace and the process that keeps it (measured: 0.43)."""
_SPARE_MIB = 4 * 1024
_MAKING_SECONDS = 300
"""Making 12,000 takes more than 90 s on two cores."""
_OPEN_SHARE = 0.35
"""Use of the limit by one table: the watch reads tables from 30 % on."""
_MOST_PERCENT = 2.0
_TABLES = 2_000
_RUNS = 9
_MOST_FACTOR = 2.5
"""A decision about twice as many tables takes twice as long; the rest is noise."""
_LIMIT = 8_192


def crowd(ground: Ground, number: int, seconds: float, others: Sequence[Checkout]) -> Iterator[Row]:
    """Yield the guard's share of one core beside `number` real namespaces, and beside a few; then the decisions' times.

    Each namespace is real and kept by a process. Where memory or _MAKING_SECONDS end before, the row has as many as there
    are. The tables of all but one are empty: reading one costs the same, whatever it holds.
    """
    affordable = int(max(0, memory_available_mib() - _SPARE_MIB) / _MIB_EACH)
    ground.limit_guard.set_limit(ground.limit_guard.saved_limit)
    few: dict[str, float] = {}
    for wanted in (_FEW, min(number, affordable)):
        with ground.scratch() as full, _namespaces(ground, wanted) as made:
            ground.flows(full, 0, int(_OPEN_SHARE * ground.limit_guard.saved_limit))
            uses = {
                contender.name: _use(ground, contender, full, made, seconds)
                for contender in with_others(guard("guard"), others)
            }
        for name, (percent, resident, lasted) in uses.items():
            is_judged = name == THIS.label("guard") and wanted != _FEW
            rivals = {f"{_FEW} namespaces": few[name]} if name in few else {}
            if is_judged:
                rivals |= {other: use[0] for other, use in uses.items() if other != name}
            few.setdefault(name, percent)
            yield Row(
                what=f"watching {made:,} namespaces, one table at {_OPEN_SHARE:.0%} of the limit",
                who=name,
                figure=f"{percent:.2f} % of a core over {lasted:.0f} s, {resident:.1f} MiB resident",
                ratio=compare(percent, rivals),
                target=f"≤ {_MOST_PERCENT:.0f} %" if is_judged else "",
                met=percent <= _MOST_PERCENT if is_judged else None,
            )
    yield from _decisions()


def _use(
    ground: Ground, contender: Contender, full: ScratchNamespace, namespaces: int, seconds: float
) -> tuple[float, float, float]:
    """Return the guard's share of a core in per cent, its resident MiB, and the seconds measured.

    These are enough for a scan and a reading of all tables, which rest long between.
    """
    seconds = max(seconds, _LEAST_SECONDS * namespaces / NAMESPACES)
    progress(f"crowd: {contender.name}, {namespaces:,} namespaces, {seconds:.0f} s")
    with run(ground, contender, full) as running:
        time.sleep(_settle_seconds(namespaces))
        start, began = running.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        percent = (running.cpu_seconds() - start) / (time.monotonic() - began) * 100
        return percent, running.memory_kib()[0] / 1024, seconds


def _settle_seconds(namespaces: int) -> float:
    """Return the time for the start, whose scan and reading of all tables happen once."""
    return 10 + namespaces / 1_000


@contextlib.contextmanager
def _namespaces(ground: Ground, number: int) -> Iterator[int]:
    """Keep up to `number` network namespaces, and give how many there are."""
    command = [str(ground.tool("namespaces")), str(number), str(_MAKING_SECONDS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        assert maker.stdin is not None and maker.stdout is not None  # noqa: S101, PT018  requested as pipes
        yield int(maker.stdout.readline())
        maker.stdin.close()


def _decisions() -> Iterator[Row]:
    """Yield the time of one decision about users' tables that dropped packets, beside a full table of root's."""
    message = Trigger(kind=TriggerKind.KERNEL_MESSAGE, message_kind=MessageKind.TABLE_FULL, message_count=1)
    for policy, what in (
        (Policy(), "users' tables"),
        (Policy(trust_user_namespaces=True, on_flood=FloodResponse(action=FloodAction.HOLD)), "trusted tables"),
    ):
        times = {}
        for number in (_TABLES, 2 * _TABLES):
            seen = _host(number)
            times[number] = min(_decision_ms(message, seen, policy) for _ in range(_RUNS))
        ratio = times[2 * _TABLES] / times[_TABLES]
        yield Row(
            what=f"one decision about {_TABLES:,} {what} that dropped packets",
            who="guard",
            figure=f"{times[_TABLES]:.1f} ms",
            ratio=f"{ratio:.2f} × for twice as many",
            target=f"≤ {_MOST_FACTOR} × for twice as many",
            met=ratio <= _MOST_FACTOR,
        )


def _decision_ms(message: Trigger, seen: Observation, policy: Policy) -> float:
    gc.collect()
    gc.disable()  # a collection looks at every table here, and at none in the guard
    try:
        began = time.process_time()
        decide(message, condense(seen, None, policy), State(), policy)
        return (time.process_time() - began) * 1000
    finally:
        gc.enable()


def _host(number: int) -> Observation:
    """Return a host with a full table, and `number` tables of users at 80 to 85 % of the limit that dropped packets."""
    plain = Table(namespace=1, label="initial", initial=True, count=_LIMIT, drop=1, dropped=1)
    counts = itertools.islice(itertools.cycle(range(_LIMIT * 80 // 100, _LIMIT * 85 // 100)), number)
    users = (
        replace(plain, namespace=100 + n, label="user", initial=False, count=count, user_owned=True)
        for n, count in enumerate(counts)
    )
    return Observation(
        boottime_seconds=1_000.0,
        wall_seconds=1.8e9,
        boot_id="bench",
        limit=_LIMIT,
        kernel_limit=_LIMIT,
        tables=(plain, *users),
        buckets=_LIMIT,
        entry_slab_bytes=256,
        memory_total_bytes=24 << 30,
        memory_available_bytes=20 << 30,
    )
