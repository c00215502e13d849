"""`guard report`: a time on this host as one page."""

import argparse
import errno
import os
import platform
import stat
import time
from collections import Counter
from pathlib import Path

from conntrackd_guard import __version__
from conntrackd_guard.cli.answer import note
from conntrackd_guard.cli.commands.history import open_history, time_option
from conntrackd_guard.cli.commands.show import with_process
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.render.report.chart import Span
from conntrackd_guard.cli.render.report.page import Report, page
from conntrackd_guard.core.errors import AnswerIsNo, HostError
from conntrackd_guard.core.verification import Drops
from conntrackd_guard.history import details
from conntrackd_guard.history.database import History, UnreadableRow
from conntrackd_guard.history.details import DecisionDetail
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

_SPAN_SECONDS = 86400.0
"""Without --since: the last day."""
_DOTS = 500
"""A chart is some 1,000 pixels wide."""
_MOST_DECISIONS = 500
"""Each takes 2 KB of the page with its sum, and 4 KB more with who filled the table."""
_MOST_LINKS = 40
"""As the kernel follows in one path."""
_FILE_MODE = 0o640
"""As the history's: it holds the same data."""


def report(args: argparse.Namespace, paths: Paths) -> Exit:
    """Write the page of a time; without `--since` of its last 24 h."""
    end, begin = time_option("--until", args.until), time_option("--since", args.since)
    until = time.time() if end is None else end
    since = until - _SPAN_SECONDS if begin is None else begin
    if since >= until:
        raise AnswerIsNo("The report would end before it begins: check --since and --until.")
    history = open_history(paths)
    if history is None:
        return Exit.NO
    with history:
        content = page(_gathered(history, since, until, paths)).encode()
    write_page(args.output, content)
    note(f"{args.output}: {len(content) / 1024:,.0f} KiB")
    return Exit.DONE


def write_page(output: Path, content: bytes) -> None:
    """Write a page. A link (such as /dev/stdout), a device and a pipe are written to, never replaced.

    A link in a folder of another user is not followed: it may lead to any file that this user may write.
    """
    try:
        _expect_own(output)
        if not output.is_symlink() and (output.is_file() or not output.exists()):
            files.replace(output, content, mode=_FILE_MODE, durable=False)
        else:
            output.write_bytes(content)
    except OSError as error:
        next_step = "Name a file in a directory that you may write to."
        raise HostError("write the report to", output, error, next_step) from error


def _expect_own(output: Path) -> None:
    """Raise OSError if `output`, or a link that it leads to, is a link that somebody else could have made."""
    for _ in range(_MOST_LINKS):
        if not output.is_symlink():
            return
        folder = output.parent.stat()
        if folder.st_uid not in {0, os.geteuid()} or folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError(errno.ELOOP, "it is a link in a folder that others may write to")
        output = output.parent / output.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _gathered(history: History, since: float, until: float, paths: Paths) -> Report:
    """Read the data of the page. A history that began within that time begins the page."""
    begins = history.begins()
    since = begins if begins is not None and since < begins < until else since
    counted: Counter[str] = Counter()
    newest: list[int] = []
    for row in history.rows(since=since, until=until):
        counted["decisions"] += 1
        counted["raises"] += row.verdict == "raise" and row.outcome in {"applied", "rehearsed"}
        counted["holds"] += row.verdict == "hold"
        counted["watched"] += row.verification is not None
        counted["continuing"] += row.verification is not None and row.verification.drops is Drops.CONTINUING
        if len(newest) < _MOST_DECISIONS:
            newest.append(row.id)
    entries = list[DecisionDetail]()
    for number in newest:
        try:
            found = details.detail(history, number)
        except UnreadableRow as error:
            note(str(error))
        else:
            entries += [] if found is None else [with_process(found, paths)]
    if history.damage:
        note(history.damage)
    span = Span(since=since, until=until, step=max(1, round((until - since) / _DOTS)))
    return Report(
        host=platform.node(),
        version=__version__,
        made_seconds=time.time(),
        span=span,
        points=history.points(since, until, span.step),
        held=history.held(since, until, span.step),
        entries=entries,
        counts=counted,
    )
