"""`guard report`: a time on this host as one page."""

from __future__ import annotations

import argparse
import platform
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conntrackd_guard import __version__
from conntrackd_guard.cli.commands.history import opened, time_option
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.errors import AnswerIsNo, HostError
from conntrackd_guard.core.verification import Drops
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

if TYPE_CHECKING:
    from conntrackd_guard.cli.render.report.page import Report
    from conntrackd_guard.history.database import History

_SPAN_SECONDS = 86400.0
"""Without --since: the last day."""
_DOTS = 500
"""A chart is some 1,000 pixels wide."""
_MOST_DECISIONS = 500
"""Each takes 2 KB of the page with its sum, and 4 KB more with who filled the table."""
_FILE_MODE = 0o640
"""As the history's: it tells as much."""


def add_parser(commands: Any) -> None:
    """Add `guard report`."""
    parser = commands.add_parser(
        "report",
        help="write a page about a time on this host: use, drops, memory, decisions",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: sudo guard report --since yesterday -o conntrack.html    (one file, opens without a network)",
    )
    parser.add_argument("--since", metavar="TIME", type=time_option, help="from then on (default: the last day)")
    parser.add_argument("--until", metavar="TIME", type=time_option, help="up to then (default: now)")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="where the page goes")
    parser.add_argument(
        "--dry-run",
        dest="rehearsed",
        action=argparse.BooleanOptionalAction,
        help="look at the dry run's own history, or not (default: as `mode` in the settings)",
    )
    parser.set_defaults(run=_report)
    parser._negative_number_matcher = re.compile("-[0-9]")  # noqa: SLF001 - or `--since -1h` would be an option


def _report(args: argparse.Namespace, paths: Paths) -> Exit:
    from conntrackd_guard.cli.render.report import page as view  # noqa: PLC0415 - rich comes with it

    until = time.time() if args.until is None else args.until
    since = until - _SPAN_SECONDS if args.since is None else args.since
    if since >= until:
        raise AnswerIsNo("The report would end before it begins: check --since and --until.")
    with opened(paths) as history:
        if history is None:
            return Exit.NO
        page = "".join(view.page(_gathered(history, since, until)))
    content = page.encode()
    _write(args.output, content)
    sys.stderr.write(f"guard: {args.output}: {len(content) / 1024:,.0f} KiB\n")
    return Exit.DONE


def _write(output: Path, content: bytes) -> None:
    """Put the page there; a link (/dev/stdout is one), a device and a pipe are written to, never replaced."""
    try:
        if not output.is_symlink() and (output.is_file() or not output.exists()):
            files.replace(output, content, mode=_FILE_MODE, durable=False)
        else:
            output.write_bytes(content)
    except OSError as error:
        raise HostError(
            "write the report to", output, error, "Name a file in a folder that you may write to."
        ) from error


def _gathered(history: History, since: float, until: float) -> Report:
    """Read what the page tells."""
    from conntrackd_guard.cli.render.report.page import Counts, Report  # noqa: PLC0415 - as above
    from conntrackd_guard.history import documents  # noqa: PLC0415

    counted: Counter[str] = Counter()
    newest: list[int] = []
    for row in history.rows(since=since, until=until):
        counted["decisions"] += 1
        counted["raises"] += row.verdict == "raise" and row.outcome in {"applied", "rehearsed"}
        counted["holds"] += row.verdict == "hold"
        counted["watched"] += row.verification is not None
        counted["went_on"] += row.verification is not None and row.verification.drops is Drops.CONTINUING
        if len(newest) < _MOST_DECISIONS:
            newest.append(row.id)
    step = max(1, round((until - since) / _DOTS))
    return Report(
        host=platform.node(),
        version=__version__,
        made_seconds=time.time(),
        since=since,
        until=until,
        step=step,
        points=history.points(since, until, step),
        held=history.held(since, until, step),
        entries=[told for number in newest if (told := documents.detail(history, number)) is not None],
        counts=Counts(**counted),
    )
