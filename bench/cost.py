"""Rows `cost` and `events`: CPU and memory of the guard while it watches, and whether its memory grows."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench import noise
from bench.checkout import Checkout
from bench.contenders import Contender, Running, guard, run
from bench.ground import Ground, memory_available_mib, progress
from bench.pod import in_container
from bench.table import Row
from bench.turns import compare, in_turns, with_others

_SETTLE_SECONDS = 65.0
"""By then the guard has done its work of each minute once: the time series, the journal."""
_IDLE_MIB = 26.0
_CONTAINER_MIB = 3.0
"""What the container may add."""
_IN_CONTAINER = in_container()
_MESSAGES_PER_SECOND = 2_000
_SPARE_MIB = 3 * 1024
"""Memory that must be free beside the journal, which is in a tmpfs: a killed run leaves nothing behind."""
_FULL = 4096
_EVENTS_PER_SECOND = 5_000
_FLAT_KIB = 1024
"""A megabyte over the whole run is noise of the allocator; a leak of ten bytes an event shows at 100,000 events."""
_FLOODED_MIB = 64
"""The ring buffer overruns at such a rate, and the journal is read as well: half of the unit's MemoryMax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    what: str
    noise: Callable[[], AbstractContextManager[None]]
    most_percent: float
    most_mib: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What a guard used: per cent of one core, KiB resident, KiB of those its own."""

    percent: float
    resident_kib: int
    own_kib: int


def cost(  # noqa: PLR0913, PLR0917  the options of the row
    ground: Ground, seconds: float, journal_mib: int, names: list[str], others: Sequence[Checkout], rounds: int
) -> Iterator[Row]:
    """Yield one row for each company: the guard's share of one core over `seconds`, and its memory.

    Beside guards of other checkouts each is measured `rounds` times, in turns; the medians count. `names` chooses the
    companies that have one of them in their name, all for an empty list.
    """
    affordable = min(journal_mib, max(memory_available_mib() - _SPARE_MIB, 64))
    progress(f"cost: growing a journal of {affordable} MiB")
    noise.grow_journal(affordable)
    cases = (
        _Case(what=f"idle, journal of {affordable} MiB", noise=nullcontext, most_percent=0.2, most_mib=_IDLE_MIB),
        _Case(
            what=f"idle, {_MESSAGES_PER_SECOND:,} user messages/s",
            noise=lambda: noise.user_messages(_MESSAGES_PER_SECOND),
            most_percent=1.0,
        ),
        _Case(
            what=f"idle, {_MESSAGES_PER_SECOND:,} kernel messages/s",
            noise=lambda: noise.kernel_messages(_MESSAGES_PER_SECOND),
            most_percent=4.0,
        ),
        _Case(
            what=f"idle, {noise.NAMESPACES} namespaces, {noise.PROCESSES:,} processes",
            noise=lambda: noise.crowd(ground, noise.NAMESPACES, noise.PROCESSES),
            most_percent=0.5,
        ),
    )
    ground.limit_guard.set_limit(ground.limit_guard.saved_limit)
    group = [*with_others(guard("guard"), others), *_IN_CONTAINER]
    for case in cases:
        if names and not any(name in case.what for name in names):
            continue
        progress(f"cost: {case.what}, {seconds:.0f} s")

        def measure(contender: Contender, number: int, case: _Case = case) -> Iterator[_Use]:
            for _ in range(number):
                with case.noise(), run(ground, contender) as running:
                    yield _measure(running, seconds)

        found = in_turns(group, rounds if others else 1, rounds, measure)
        yield from _cost_rows(case, {name: _median(uses) for name, uses in found.items()})


def _cost_rows(case: _Case, uses: dict[str, _Use]) -> Iterator[Row]:
    """Yield a row for each guard, the first of which has a target and is compared with the others."""
    ours, *others = uses
    wanted = f" and ≤ {case.most_mib:.0f} MiB" if case.most_mib else ""
    least = uses[ours].resident_kib / 1024
    containers = {one.name for one in _IN_CONTAINER}
    for name, use in uses.items():
        mib = use.resident_kib / 1024
        cpu = compare(use.percent, {f"{other} (CPU)": uses[other].percent for other in others})
        memory = compare(mib, {f"{other} (memory)": uses[other].resident_kib / 1024 for other in others})
        target, met = "", None
        if name == ours:
            target = f"≤ {case.most_percent} %{wanted}"
            met = use.percent <= case.most_percent and mib <= (case.most_mib or mib)
        elif name in containers:
            target, met = f"≤ {ours} + {_CONTAINER_MIB:.0f} MiB", mib <= least + _CONTAINER_MIB
        yield Row(
            what=case.what,
            who=name,
            figure=f"{use.percent:.2f} % of a core, {mib:.1f} MiB resident ({use.own_kib / 1024:.1f} its own)",
            ratio=", ".join(filter(None, (cpu, memory))) if name == ours else "",
            target=target,
            met=met,
        )


def _median(uses: list[_Use]) -> _Use:
    return _Use(
        percent=statistics.median(use.percent for use in uses),
        resident_kib=round(statistics.median(use.resident_kib for use in uses)),
        own_kib=round(statistics.median(use.own_kib for use in uses)),
    )


def events(ground: Ground, number: int) -> Iterator[Row]:
    """Yield the guard's memory over `number` real kernel messages, each of which leads to a hold."""
    progress(
        f"events: {number:,} kernel messages at {_EVENTS_PER_SECOND:,} a second, after those of {_SETTLE_SECONDS:.0f} s"
    )
    warm = int(_EVENTS_PER_SECOND * _SETTLE_SECONDS)
    with ground.scratch() as namespace, contextlib.ExitStack() as stack:
        ground.limit_guard.set_limit(_FULL)
        ground.flows(namespace, 0, _FULL)
        running = stack.enter_context(run(ground, guard("guard", max_limit=_FULL), namespace))
        usual = int(Path("/proc/sys/net/core/message_cost").read_text("ascii"))
        stack.callback(
            ground.limit_guard.set_message_cost, usual
        )  # for the rows after this one; the limit_guard restores it too
        ground.limit_guard.set_message_cost(0)
        ground.flows(namespace, _FULL, warm, _EVENTS_PER_SECOND)
        start = running.cpu_seconds()
        with _watched(running) as samples:
            ground.flows(namespace, _FULL, number, _EVENTS_PER_SECOND)
            time.sleep(2)
        samples.append(running.memory_kib())  # raises OSError if it has ended
        microseconds = (running.cpu_seconds() - start) / number * 1e6
    own, resident = [sample[1] / 1024 for sample in samples], max(sample[0] for sample in samples) / 1024
    yield Row(
        what=f"memory over {number:,} events",
        who="guard",
        figure=(
            f"own {own[0]:.1f} MiB, at most {max(own):.1f}, then {own[-1]:.1f}; resident at most {resident:.1f}; "
            f"{microseconds:.0f} µs of CPU an event"
        ),
        target=f"own grows ≤ {_FLAT_KIB / 1024:.0f} MiB, resident ≤ {_FLOODED_MIB} MiB",
        met=max(own) - own[0] <= _FLAT_KIB / 1024 and resident <= _FLOODED_MIB,
    )


@contextlib.contextmanager
def _watched(running: Running) -> Iterator[list[tuple[int, int]]]:
    """Give a list of (resident, own) memory in KiB that grows each second, and has a first pair at once."""
    samples = [running.memory_kib()]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            samples.append(running.memory_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        ended.set()
        watcher.join()


def _measure(running: Running, seconds: float) -> _Use:
    """Return what the guard uses over `seconds`, once the start is over."""
    time.sleep(_SETTLE_SECONDS)
    start, began = running.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    percent = (running.cpu_seconds() - start) / (time.monotonic() - began) * 100
    resident, own = running.memory_kib()
    return _Use(percent=percent, resident_kib=resident, own_kib=own)
