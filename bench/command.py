"""The command line of `scripts/bench`."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from testbed.limit_guard import LimitGuard, RefusedError

from bench.checkout import THIS, other
from bench.ground import Ground, say
from bench.sandbox import run_isolated
from bench.standstill import Freezer
from bench.table import Row, render

_NEEDED = ("gcc", "nft", "conntrack", "ip", "unshare", "nsenter", "journalctl", "mkfs.ext4")
_ROWS = ("path", "reaction", "dropped", "cost", "events", "history", "who")
_LOADS = ("ramp", "burst", "slow")
_NOT_PERMITTED = 77
_WHAT = "Measure the guard beside simpler programs on this machine. The lot takes about 75 minutes; see --phases."


def main() -> int:
    """Measure what the command line asks for, print the table, return the exit code (1: a target was missed)."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := set(options.rows) - set(_ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))} (there are {', '.join(_ROWS)})")
    if os.geteuid() != 0:
        return _refuse("it needs root: namespaces, and the limit itself", _NOT_PERMITTED)
    if missing := [tool for tool in _NEEDED if not shutil.which(tool)]:
        return _refuse(f"install what is missing first: {', '.join(missing)}", 1)
    try:
        # Both start outside the sandbox, so that they outlive it.
        with LimitGuard() as keeper, Freezer() as freezer:
            return run_isolated(lambda: _measure(keeper, freezer, options))
    except (RefusedError, OSError) as error:
        return _refuse(str(error), 1)


def _measure(keeper: LimitGuard, freezer: Freezer, options: argparse.Namespace) -> int:
    ground = Ground(keeper)
    rows = []
    for name in options.rows or _ROWS:
        for row in _row_sources(ground, freezer, options)[name]():
            say(f"{row.what}: {row.who}: {row.figure}")
            rows.append(row)
    print(render(rows))
    return 1 if any(row.met is False for row in rows) else 0


def _row_sources(
    ground: Ground, freezer: Freezer, options: argparse.Namespace
) -> dict[str, Callable[[], Iterator[Row]]]:
    from bench.cost import cost, events  # noqa: PLC0415
    from bench.dropped import LOADS, dropped  # noqa: PLC0415
    from bench.history_rows import history  # noqa: PLC0415
    from bench.path import path  # noqa: PLC0415
    from bench.reaction import reaction  # noqa: PLC0415
    from bench.who import who  # noqa: PLC0415

    checkouts = (THIS, *(other(folder, options.against_settings) for folder in options.against))
    loads = tuple(load for load in LOADS if load.name in (options.loads or _LOADS))
    return {
        "path": lambda: path(ground, checkouts, verbose=options.verbose),
        "reaction": lambda: reaction(ground, freezer, options.trials, options.who),
        "dropped": lambda: dropped(ground, options.phases, options.yardstick_phases, loads, options.who),
        "cost": lambda: cost(ground, options.seconds, options.journal_mib),
        "events": lambda: events(ground, options.events),
        "history": lambda: history(options.history_rows),
        "who": lambda: who(ground),
    }


def _refuse(why: str, code: int) -> int:
    say(why)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=_WHAT)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(_ROWS)}; all by default")
    who = "only those with this in their name (may be given again), in `reaction` and `dropped`"
    parser.add_argument("--who", action="append", default=[], help=who)
    against = "compare with the guard of another checkout, in the same run (may be given again)"
    parser.add_argument("--against", "--tree", metavar="DIR", type=Path, action="append", default=[], help=against)
    renamed = "JSON object {setting here: setting there} for those checkouts"
    parser.add_argument("--against-settings", metavar="FILE", type=Path, help=renamed)
    parser.add_argument("--verbose", action="store_true", help="list the functions that `path` counts")
    parser.add_argument("--trials", type=int, default=20, help="packets a contender in `reaction` (%(default)s)")
    parser.add_argument("--phases", type=int, default=20, help="random start phases in `dropped` (%(default)s)")
    parser.add_argument("--yardstick-phases", type=int, default=5, help="for yardsticks without a target (%(default)s)")
    parser.add_argument("--load", action="append", dest="loads", choices=_LOADS, help="only this load in `dropped`")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each look in `cost` (%(default)s)")
    parser.add_argument("--journal-mib", type=int, default=1024, help="size of the journal in `cost` (%(default)s)")
    parser.add_argument("--events", type=int, default=100_000, help="kernel lines in `events` (%(default)s)")
    parser.add_argument("--history-rows", type=int, default=100_000, help="decisions in `history` (%(default)s)")
    return parser
