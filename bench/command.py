"""The command line of `scripts/bench`."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from testbed.limit_guard import LimitGuard, RefusedError

from bench.checkout import THIS, Checkout, other
from bench.commands import commands
from bench.contenders import Contender
from bench.cost import cost, events
from bench.crowd import NAMESPACES, crowd
from bench.dropped import LOADS, dropped
from bench.ground import Ground, progress
from bench.history_rows import history
from bench.path import path
from bench.pod import say_if_left_out
from bench.reaction import Reaction
from bench.recommend import recommend
from bench.replay_fleets import replay
from bench.rsyslog import unpack
from bench.sandbox import run_isolated
from bench.standstill import Freezer
from bench.table import Row, render
from bench.who import who

_NEEDED = ("gcc", "nft", "conntrack", "ip", "unshare", "nsenter", "journalctl", "mkfs.ext4")
_ROWS = ("path", "reaction", "dropped", "cost", "crowd", "events", "commands", "history", "who", "recommend", "replay")
_LOADS = ("ramp", "burst", "slow")
_NOT_PERMITTED = 77
_WHAT = "Measure the guard beside simpler programs on this machine. All rows take about 90 minutes; see --phases."


def main() -> int:
    """Measure the rows of the command line, print the table, and return the exit code (1: a target was missed)."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := set(options.rows) - set(_ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))} (there are {', '.join(_ROWS)})")
    if os.geteuid() != 0:
        return _refuse("this needs root, for namespaces and the limit", _NOT_PERMITTED)
    if missing := [tool for tool in _NEEDED if not shutil.which(tool)]:
        return _refuse(f"install these first: {', '.join(missing)}", 1)
    try:
        others = [other(folder, options.against_settings, options.against_history) for folder in options.against]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        # These start outside the sandbox: two outlive it, and apt-get finds its lists.
        with LimitGuard() as limit_guard, Freezer() as freezer, tempfile.TemporaryDirectory() as folder:
            rsyslog = unpack(Path(folder)) if _is_wanted("reaction", options) else None
            return run_isolated(lambda: _measure(limit_guard, freezer, rsyslog, others, options))
    except (RefusedError, OSError) as error:
        return _refuse(str(error), 1)


def _is_wanted(row: str, options: argparse.Namespace) -> bool:
    return not options.rows or row in options.rows


def _measure(
    limit_guard: LimitGuard,
    freezer: Freezer,
    rsyslog: Contender | None,
    others: list[Checkout],
    options: argparse.Namespace,
) -> int:
    ground = Ground(limit_guard)
    reaction = Reaction(
        ground=ground,
        freezer=freezer,
        trials=options.trials,
        rounds=options.rounds,
        who=options.who,
        others=others,
        rsyslog=rsyslog,
    )
    rows: list[Row] = []
    if any(_is_wanted(name, options) for name in ("reaction", "dropped", "cost")):
        say_if_left_out()
    try:
        for name, source in _row_sources(ground, reaction, others, options).items():
            if _is_wanted(name, options):
                for row in source():
                    progress(f"{row.what}: {row.who}: {row.figure}")
                    rows.append(row)
    except RefusedError as error:  # another namespace has begun to track connections
        return _refuse(str(error), 1)
    finally:
        print(render(rows))
    return 1 if any(row.met is False for row in rows) else 0


def _row_sources(
    ground: Ground, reaction: Reaction, others: list[Checkout], options: argparse.Namespace
) -> dict[str, Callable[[], Iterator[Row]]]:
    checkouts = [THIS, *others]
    loads = tuple(load for load in LOADS if load.name in (options.loads or _LOADS))
    return {
        "path": lambda: path(ground, checkouts, verbose=options.verbose),
        "reaction": reaction.rows,
        "dropped": lambda: dropped(ground, options.phases, options.yardstick_phases, loads, options.who, others),
        "cost": lambda: cost(ground, options.seconds, options.journal_mib, options.companies, others, options.rounds),
        "crowd": lambda: crowd(ground, options.namespaces, options.seconds, others),
        "events": lambda: events(ground, options.events),
        "commands": lambda: commands(ground, checkouts, options.rounds),
        "history": lambda: history(options.history_rows, checkouts),
        "who": lambda: who(ground),
        "recommend": lambda: recommend(ground, checkouts),
        "replay": lambda: replay(
            options.replay_hosts, options.replay_entries, options.replay_series, options.replay_decisions
        ),
    }


def _refuse(why: str, code: int) -> int:
    progress(why)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=_WHAT)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(_ROWS)}; all by default")
    who = "only those with this in their name (may be given again), in `reaction` and `dropped`"
    parser.add_argument("--who", metavar="NAME", action="append", default=[], help=who)
    against = "compare with the guard of another checkout, in turns in the same run (may be given again)"
    parser.add_argument("--against", "--tree", metavar="DIR", type=Path, action="append", default=[], help=against)
    renamed = "JSON object {setting here: setting there} for those checkouts"
    parser.add_argument("--against-settings", metavar="FILE", type=Path, help=renamed)
    database = "history database for `guard history` there, if it can't read one of this tree"
    parser.add_argument("--against-history", metavar="FILE", type=Path, help=database)
    parser.add_argument(
        "--rounds", metavar="N", type=int, default=4, help="turns of each guard with --against (%(default)s)"
    )
    parser.add_argument("--verbose", action="store_true", help="list the functions that `path` counts")
    parser.add_argument(
        "--trials", metavar="N", type=int, default=20, help="packets a contender in `reaction` (%(default)s)"
    )
    parser.add_argument(
        "--phases", metavar="N", type=int, default=20, help="random start phases in `dropped` (%(default)s)"
    )
    parser.add_argument(
        "--yardstick-phases", metavar="N", type=int, default=5, help="for yardsticks without a target (%(default)s)"
    )
    parser.add_argument(
        "--load", metavar="LOAD", action="append", dest="loads", choices=_LOADS, help="only this load in `dropped`"
    )
    company = "only companies with this in their name, in `cost` (may be given again)"
    parser.add_argument("--company", metavar="NAME", action="append", dest="companies", default=[], help=company)
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        default=30.0,
        help="length of each measurement in `cost` and `crowd` (%(default)s)",
    )
    parser.add_argument(
        "--journal-mib", metavar="MIB", type=int, default=1024, help="size of the journal in `cost` (%(default)s)"
    )
    parser.add_argument(
        "--events", metavar="N", type=int, default=100_000, help="kernel messages in `events` (%(default)s)"
    )
    parser.add_argument(
        "--namespaces", metavar="N", type=int, default=NAMESPACES, help="network namespaces in `crowd` (%(default)s)"
    )
    parser.add_argument(
        "--history-rows", metavar="N", type=int, default=100_000, help="decisions in `history` (%(default)s)"
    )
    parser.add_argument(
        "--replay-hosts", metavar="N", type=int, default=200, help="hosts with journals in `replay` (%(default)s)"
    )
    parser.add_argument(
        "--replay-entries",
        metavar="N",
        type=int,
        default=50_000,
        help="kernel entries of each in `replay` (%(default)s)",
    )
    parser.add_argument(
        "--replay-series", metavar="N", type=int, default=500, help="hosts of Prometheus in `replay` (%(default)s)"
    )
    parser.add_argument(
        "--replay-decisions",
        metavar="N",
        type=int,
        default=200_000,
        help="decisions of the history.db in `replay` (%(default)s)",
    )
    return parser
