"""Row `history`: how long a person waits for the first page of a long history."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.checkout import REPOSITORY
from bench.ground import say
from bench.table import Row

_FOLDER = Path("/var/lib/conntrackd-guard")
_RUNS = 7
_PAGE_LINES = 50
"""What a pager reads before it shows the first page."""
_MOST_MS = 250.0
_GUARD = ["/usr/bin/python3", "-m", "conntrackd_guard"]


def history(number: int) -> Iterator[Row]:
    """Yield the wall time to the first page of `guard history`, a new process each, over `number` decisions."""
    say(f"history: writing {number:,} decisions")
    _write(number)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    yield _row(f"guard --version, {_RUNS} runs", [*_GUARD, "--version"], environment, None)
    command = [*_GUARD, "history"]
    yield _row(f"guard history, {number:,} rows, first page", command, environment, _MOST_MS)


def _row(what: str, command: list[str], environment: dict[str, str], most: float | None) -> Row:
    times = []
    for _ in range(_RUNS):
        start = time.monotonic()
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None  # noqa: S101  it was asked for as a pipe
            for _ in range(_PAGE_LINES):
                reader.stdout.readline()
            taken = (time.monotonic() - start) * 1000
            reader.kill()
        times.append(taken)
    median = statistics.median(times)
    return Row(
        what=what,
        who="guard",
        figure=f"median {median:.0f} ms, worst {max(times):.0f}",
        target="" if most is None else f"≤ {most:.0f} ms",
        met=None if most is None else median <= most,
    )


def _write(number: int) -> None:
    """Make a history of raises and holds, a minute apart, ending now."""
    sys.path.insert(0, str(REPOSITORY))
    from bench.made_records import record  # noqa: PLC0415  the other rows need nothing of the package
    from conntrackd_guard.core.configuration import Policy  # noqa: PLC0415
    from conntrackd_guard.history.database import History  # noqa: PLC0415

    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    now = time.time()
    with History(_FOLDER / "history.db", mode="writer") as file:
        for index in range(number):
            made = record(index, now - (number - index) * 60)
            file.add(made, policy=Policy(), sentence="Made for the bench.", kernel_release=os.uname().release)
