"""`guard report`: a time on this host as one page."""

import argparse
import platform
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
from conntrackd_guard.history.database import History
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

_SPAN_SECONDS = 86400.0
"""Without --since: the last day."""
_DOTS = 500
"""A chart is some 1,000 pixels wide."""
_MOST_DECISIONS = 500
"""Each takes 2 KB of the page with its sum, and 4 KB more with who filled the table."""
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
    _write(args.output, content)
    note(f"{args.output}: {len(content) / 1024:,.0f} KiB")
    return Exit.DONE


def _write(output: Path, content: bytes) -> None:
    """Write the page. A link (such as /dev/stdout), a device and a pipe are written to, never replaced."""
    try:
        if not output.is_symlink() and (output.is_file() or not output.exists()):
            files.replace(output, content, mode=_FILE_MODE, durable=False)
        else:
            output.write_bytes(content)
    except OSError as error:
        next_step = "Name a file in a directory that you may write to."
        raise HostError("write the report to", output, error, next_step) from error


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
    span = Span(since=since, until=until, step=max(1, round((until - since) / _DOTS)))
    return Report(
        host=platform.node(),
        version=__version__,
        made_seconds=time.time(),
        span=span,
        points=history.points(since, until, span.step),
        held=history.held(since, until, span.step),
        entries=[
            with_process(found, paths) for number in newest if (found := details.detail(history, number)) is not None
        ],
        counts=counted,
    )
