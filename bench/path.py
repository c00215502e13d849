"""Row `path`: functions and modules between reading a kernel message and writing the limit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.checkout import PYTHON, REPOSITORY, THIS, Checkout
from bench.contenders import Contender, guard, run
from bench.ground import Ground, progress, wait_for
from bench.table import Row

_LIMIT = 4096
_TRIALS = 2
_REST_SECONDS = 11.0
"""Between two trials: an episode closes after 10 s, and an open one would raise before the packet is dropped."""
_MOST_FUNCTIONS, _MOST_MODULES = 25, 12


class _Entry(NamedTuple):
    """A function that Python entered."""

    module: str
    function: str
    from_another_module: bool


def path(ground: Ground, checkouts: Sequence[Checkout], *, verbose: bool) -> Iterator[Row]:
    """Yield one row for each checkout: the distinct functions and modules of the package that Python enters.

    A trial before the counted one fills the caches: only the first message of a namespace enters `recognise`.
    The first function is the one that reads the message. `verbose` also prints each function to standard error.
    """
    for checkout in checkouts:
        entries = _trials(ground, checkout)[-1]
        modules = {entry.module for entry in entries}
        if verbose:
            for entry in entries:
                progress(f"path: {'→' if entry.from_another_module else ' '} {entry.module}: {entry.function}")
        is_judged = checkout is THIS
        yield Row(
            what="from reading a message to writing the limit",
            who=checkout.label("guard"),
            figure=(
                f"{len(entries)} functions in {len(modules)} modules, "
                f"{sum(entry.from_another_module for entry in entries)} called from another module"
            ),
            target=f"≤ {_MOST_FUNCTIONS} functions, ≤ {_MOST_MODULES} modules" if is_judged else "",
            met=(len(entries) <= _MOST_FUNCTIONS and len(modules) <= _MOST_MODULES) if is_judged else None,
        )


def _trials(ground: Ground, checkout: Checkout) -> list[list[_Entry]]:
    """Return the functions of each trial, in the order of first entry."""
    results = ground.folder / "path.json"
    results.write_text("", "utf-8")
    with ground.scratch() as namespace:
        ground.limit_guard.set_limit(_LIMIT)
        with run(ground, _traced(checkout, results), namespace):
            for trial in range(_TRIALS):
                if trial:
                    ground.limit_guard.set_limit(_LIMIT)
                    time.sleep(_REST_SECONDS)
                ground.flows(namespace, 0, _LIMIT)
                time.sleep(0.5)
                namespace.overflow()
                wait_for(lambda done=trial: len(_read(results)) > done, f"{checkout.label('guard')} to raise the limit")
                ground.flush(namespace)
    return _read(results)


def _traced(checkout: Checkout, results: Path) -> Contender:
    """Return the guard that acts on messages alone, run by `traced.py`."""
    program = (PYTHON, "-P", str(REPOSITORY / "bench/traced.py"), str(checkout.folder), str(results))
    return guard("guard", checkout=checkout, program=program, raise_early=False, conflict_limit=0)


def _read(results: Path) -> list[list[_Entry]]:
    return [[_Entry(*entry) for entry in json.loads(line)] for line in results.read_text("utf-8").splitlines()]
