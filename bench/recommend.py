"""Row `recommend`: the wall time of `guard recommend`, a new process each, with a table to sample."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence

from bench.checkout import Checkout
from bench.commands import time_rows
from bench.ground import Ground, progress
from bench.table import Row

_RUNS = 21
_MOST_MS = 150.0
_ENTRIES = 20_000
_ON_TERMINAL = "on a terminal"
_WAYS = {"to a pipe": (), "--format json": ("--format", "json"), _ON_TERMINAL: ()}


def recommend(ground: Ground, checkouts: Sequence[Checkout]) -> Iterator[Row]:
    """Yield the wall times of each way; on a terminal, where rich is loaded, without a target."""
    progress(f"recommend: {_RUNS} runs each")
    with ground.scratch() as namespace:
        ground.flows(namespace, 0, _ENTRIES)
        for way, arguments in _WAYS.items():
            times: dict[str, list[float]] = {checkout.label("guard"): [] for checkout in checkouts}
            for _ in range(_RUNS):
                for checkout in checkouts:
                    taken = _milliseconds(checkout, *arguments, on_terminal=way == _ON_TERMINAL)
                    times[checkout.label("guard")].append(taken)
            what = f"guard recommend {way}, {_ENTRIES:,} entries"
            yield from time_rows(what, times, None if way == _ON_TERMINAL else _MOST_MS)


def _milliseconds(checkout: Checkout, *arguments: str, on_terminal: bool) -> float:
    """Return the time from its start until it has ended. Raises CalledProcessError where it fails."""
    ours, theirs = os.openpty() if on_terminal else os.pipe()
    began = time.monotonic()
    with os.fdopen(ours, "rb", buffering=0) as reader:
        try:
            process = subprocess.Popen(
                checkout.guard("recommend", *arguments), env=checkout.environment(), stdout=theirs
            )
        finally:
            os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: a terminal that nobody has open
            while reader.read(65_536):
                pass
        if code := process.wait():
            raise subprocess.CalledProcessError(code, "guard recommend")
    return (time.monotonic() - began) * 1000
