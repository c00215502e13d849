"""`guard history` and `guard show`: what happened and why."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.timespec import parse_time
from conntrackd_guard.core.errors import AnswerIsNo
from conntrackd_guard.history import documents
from conntrackd_guard.history.database import History
from conntrackd_guard.host.paths import Paths

_DIGITS = 19
"""As many as SQLite's largest number has."""


def add_parser(commands: Any) -> None:
    """Add `guard history` and `guard show`."""
    raw = argparse.RawDescriptionHelpFormatter
    history = commands.add_parser(
        "history",
        help="list decisions, newest first",
        formatter_class=raw,
        epilog="Example: guard history --since yesterday --verdict raise",
    )
    times = "a time as journalctl takes it: '2026-11-01 10:00', yesterday, -1h, @EPOCH"
    history.add_argument("--since", metavar="TIME", type=time_option, help=f"decisions from then on ({times})")
    history.add_argument("--until", metavar="TIME", type=time_option, help="decisions up to then")
    history.add_argument("--last", metavar="N", type=_positive, help="at most N, the newest")
    history.add_argument("--verdict", choices=("raise", "hold", "override"), help="only these")
    history.set_defaults(run=_history)
    history._negative_number_matcher = re.compile("-[0-9]")  # noqa: SLF001 - or `--since -1h` would be an option

    show = commands.add_parser(
        "show",
        help="tell one decision in full: what was seen, the sum, what came of it",
        formatter_class=raw,
        epilog="Example: guard show 12",
    )
    show.add_argument(
        "id", metavar="ID", help="the number in the first column of `guard history`, or the key that a log line tells"
    )
    show.set_defaults(run=_show)
    for parser in (history, show):
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument(
            "--dry-run",
            dest="rehearsed",
            action=argparse.BooleanOptionalAction,
            help="look at the dry run's own history, or not (default: as `mode` in the settings)",
        )


def _history(args: argparse.Namespace, paths: Paths) -> Exit:
    choice = {"since": args.since, "until": args.until, "last": args.last, "verdict": args.verdict}
    with opened(paths) as history:
        rows = iter(()) if history is None else history.rows(**choice, arithmetic=args.json)
        if args.json:
            for piece in documents.history(rows):
                sys.stdout.write(piece)
            return Exit.DONE
        from conntrackd_guard.cli.render import console as terminal  # noqa: PLC0415 - rich, for people only
        from conntrackd_guard.cli.render import decision_text as text  # noqa: PLC0415

        with terminal.screen(paged=True) as console:
            found = text.print_history(console, rows)
        if not found and history is not None:
            _say("No decision matches.")
    return Exit.DONE


def _show(args: argparse.Namespace, paths: Paths) -> Exit:
    with opened(paths) as history:
        told = None if history is None else documents.detail(history, _id(args.id, history))
        if told is None:
            raise AnswerIsNo(f"There is no decision {args.id}. `guard history` lists those there are.")
        if args.json:
            sys.stdout.write(documents.show(told))
            return Exit.DONE
        from conntrackd_guard.cli.render import console as terminal  # noqa: PLC0415 - rich, for people only
        from conntrackd_guard.cli.render import decision_text as text  # noqa: PLC0415

        with terminal.screen(paged=True) as console:
            text.print_told(console, told)
    return Exit.DONE


@contextmanager
def opened(paths: Paths) -> Iterator[History | None]:
    """Open the history for reading; None, and a word about it, where no guard has written one."""
    history = History.existing(paths.history)
    if history is None:
        _say(f"No decision has been recorded yet: {paths.history} does not exist. `guard run` begins it.")
        yield None
        return
    with history:
        if history.note:
            _say(history.note)
        yield history


def time_option(text: str) -> float:
    """Return a time of the command line as wall seconds."""
    try:
        return parse_time(text, now_seconds=time.time(), zone=_zone())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _zone() -> tzinfo:
    """Return the reader's time zone, with its summer times: $TZ, else the host's, else UTC."""
    with suppress(ValueError, OSError):
        if name := os.environ.get("TZ", "").removeprefix(":"):
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    return UTC


def _id(text: str, history: History) -> int:
    """Return the number of a decision; 0, which none has, where the text is neither a number nor a known key."""
    is_number = text.isascii() and text.isdigit() and len(text) < len(str(1 << 63))
    return int(text) if is_number else history.find_key(text) or 0


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS or not 1 <= int(text) < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _say(text: str) -> None:
    sys.stderr.write(f"guard: {text}\n")
