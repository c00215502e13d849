"""`guard history`: list decisions."""

import argparse
import time
from collections.abc import Iterator

from conntrackd_guard.cli.answer import Answer, note
from conntrackd_guard.cli.timespec import parse_time
from conntrackd_guard.cli.zone import HostZone
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.history import documents
from conntrackd_guard.history.database import History, Row
from conntrackd_guard.host.paths import Paths


def history(args: argparse.Namespace, paths: Paths) -> Answer:
    """Return decisions as they are read: a long history needs no memory."""
    since, until = time_option("--since", args.since), time_option("--until", args.until)
    rows = _rows(open_history(paths), args, since, until)
    return Answer(value=rows, view="decision_text.print_history", json=lambda: documents.history(rows), paged=True)


def open_history(paths: Paths) -> History | None:
    """Open the history for reading; None, with a note on stderr, if no daemon has written one."""
    found = History.existing(paths.history)
    if found is None:
        other, option = (Mode.DRY_RUN, "--dry-run") if paths.mode is Mode.ACT else (Mode.ACT, "--no-dry-run")
        text = f"No decision has been recorded yet: {paths.history} does not exist."
        there = paths.for_mode(other).history.exists()
        note(f"{text} {f'That of mode {other} does: {option} shows it.' if there else '`guard run` creates it.'}")
    elif found.note:
        note(found.note)
    return found


def time_option(name: str, text: str | None) -> float | None:
    """Return the time given with an option, in seconds since 1970; ArgumentTypeError if it can't be parsed."""
    if text is None:
        return None
    try:
        return parse_time(text, now_seconds=time.time(), zone=HostZone())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"argument {name}: {error}") from error


def _rows(found: History | None, args: argparse.Namespace, since: float | None, until: float | None) -> Iterator[Row]:
    if found is None:
        return
    count = 0
    with found:
        for row in found.rows(since=since, until=until, last=args.last, verdict=args.verdict, arithmetic=args.json):
            count += 1
            yield row
        if found.damage:
            note(found.damage)
    if not count and not args.json:
        narrowed = any(wanted is not None for wanted in (since, until, args.verdict))
        note("No decision matches." if narrowed else "No decision has been recorded yet.")
