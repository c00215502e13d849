"""Row `commands`: the wall time of `guard status` and other commands, and the start of the daemon."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from bench.checkout import THIS, Checkout
from bench.contenders import guard, run
from bench.ground import Ground, progress
from bench.table import Row
from bench.turns import compare

_RUNS = 9
_PAGE_LINES = 50
"""Read by a pager before it shows the first page."""
_COMMANDS = (("--version",), ("--help",), ("status",), ("status", "--json"))


def commands(ground: Ground, checkouts: Sequence[Checkout], rounds: int) -> Iterator[Row]:
    """Yield the wall time of commands, a new process each, beside a running guard, and that guard's own start."""
    progress(f"commands: {_RUNS} runs each")
    what = {arguments: f"guard {' '.join(arguments)}" for arguments in _COMMANDS}
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds if len(checkouts) > 1 else 1):
        for checkout in checkouts:
            who = checkout.label("guard")
            with run(ground, guard("guard", checkout=checkout)) as running:
                times.setdefault("guard run until ready", {}).setdefault(who, []).append(running.ready_ms)
                for arguments, name in what.items():
                    found = times.setdefault(name, {}).setdefault(who, [])
                    found += [first_page_ms(checkout, *arguments) for _ in range(_RUNS)]
    for name, measured in times.items():
        yield from time_rows(name, measured)


def alternating(
    checkouts: Sequence[Checkout], runs: int, *arguments: str, prepare: Callable[[Checkout], None]
) -> dict[str, list[float]]:
    """Return the times of `guard` with `arguments` in each checkout, in turns, each after `prepare`."""
    times: dict[str, list[float]] = {checkout.label("guard"): [] for checkout in checkouts}
    for _ in range(runs):
        for checkout in checkouts:
            prepare(checkout)
            times[checkout.label("guard")].append(first_page_ms(checkout, *arguments))
    return times


def first_page_ms(checkout: Checkout, *arguments: str) -> float:
    """Return the milliseconds until `guard` with `arguments` has printed a page or ended."""
    start = time.monotonic()
    with subprocess.Popen(checkout.guard(*arguments), env=checkout.environment(), stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None  # noqa: S101  requested as a pipe
        for _ in range(_PAGE_LINES):
            reader.stdout.readline()
        taken = (time.monotonic() - start) * 1000
        reader.kill()
    return taken


def time_rows(what: str, times: dict[str, list[float]], most_ms: float | None = None) -> Iterator[Row]:
    """Yield one row for each contender in `times`. This tree's has the target and is compared with the others."""
    medians = {who: statistics.median(found) for who, found in times.items()}
    ours = THIS.label("guard")
    for who, found in times.items():
        is_judged = who == ours and most_ms is not None
        yield Row(
            what=what,
            who=who,
            figure=f"median {medians[who]:.0f} ms, worst {max(found):.0f}, {len(found)} runs",
            ratio=compare(medians[who], {name: median for name, median in medians.items() if name != ours})
            if who == ours
            else "",
            target=f"≤ {most_ms:.0f} ms" if is_judged else "",
            met=medians[who] <= most_ms if is_judged and most_ms is not None else None,
        )
