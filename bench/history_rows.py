"""Row `history`: the wall time to the first page of a long history."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.checkout import REPOSITORY, THIS, Checkout
from bench.commands import alternating, time_rows
from bench.contenders import STATE
from bench.ground import progress
from bench.table import Row

_RUNS = 7
_MOST_MS = 250.0
_DATABASES = STATE.with_name("bench-histories")


def history(number: int, checkouts: Sequence[Checkout]) -> Iterator[Row]:
    """Yield the wall time to the first page of `guard history`, a new process each, over `number` decisions.

    Another checkout reads its own `history`, or a copy of this tree's without one.
    """
    progress(f"history: writing {number:,} decisions")
    shutil.rmtree(_DATABASES, ignore_errors=True)
    _DATABASES.mkdir()
    write_history(number, _database(THIS))
    for checkout in checkouts[1:]:
        shutil.copy(checkout.history or _database(THIS), _database(checkout))
    times = alternating(checkouts, _RUNS, "history", prepare=_put_in_place)
    yield from time_rows(f"guard history, {number:,} rows, first page", times, _MOST_MS)


def _database(checkout: Checkout) -> Path:
    return _DATABASES / f"{checkout.folder.name}.db"


def _put_in_place(checkout: Checkout) -> None:
    """Make the history of `checkout` the one of this host. A link needs no copy, and its pages stay cached."""
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    os.link(_database(checkout), STATE / "history.db")


def write_history(number: int, file: Path) -> None:
    """Make a history of raises and holds, a minute apart, ending now."""
    sys.path.insert(0, str(REPOSITORY))
    from bench.made_records import record  # noqa: PLC0415  the other rows need nothing of the package
    from conntrackd_guard.core.configuration import Policy  # noqa: PLC0415
    from conntrackd_guard.history.database import History  # noqa: PLC0415

    now = time.time()
    with History(file, mode="writer") as database:
        for index in range(number):
            made = record(index, now - (number - index) * 60)
            database.add(made, policy=Policy(), sentence="Made for the bench.", kernel_release=os.uname().release)
