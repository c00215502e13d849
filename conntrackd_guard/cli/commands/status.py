"""`guard status`: how things stand."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.errors import AnswerIsNo
from conntrackd_guard.host.paths import Paths


def add_parser(commands: Any) -> None:
    """Add `guard status`."""
    parser = commands.add_parser(
        "status",
        help="limit, use, memory, the next step, and how the guard is doing",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: guard status --json | jq .tables    (exit code 3: the running guard is degraded)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument(
        "--watch", action="store_true", help="redraw in place until Ctrl-C, with rates and the last minutes"
    )
    parser.add_argument(
        "--dry-run",
        dest="rehearsed",
        action=argparse.BooleanOptionalAction,
        help="look at the guard in dry run, or not (default: as `mode` in the settings)",
    )
    parser.set_defaults(run=_status)


def _status(args: argparse.Namespace, paths: Paths) -> Exit:
    from conntrackd_guard.actions import status  # noqa: PLC0415 - settings and views: not needed by other commands
    from conntrackd_guard.cli.render import console as terminal  # noqa: PLC0415
    from conntrackd_guard.cli.render import status_text  # noqa: PLC0415

    if args.watch:
        return _watch(paths)
    found = status.gather(paths)
    if args.json:
        sys.stdout.write(status_text.status_document(found))
    else:
        with terminal.screen(paged=False) as console:
            status_text.print_status(console, found)
    return Exit.NO if found.degraded else Exit.DONE


def _watch(paths: Paths) -> Exit:
    """Show the live view until Ctrl-C."""
    from conntrackd_guard.cli.render import console as terminal  # noqa: PLC0415
    from conntrackd_guard.cli.render import status_live  # noqa: PLC0415 - as above

    with terminal.screen(paged=False) as console:
        if not console.is_terminal or console.is_dumb_terminal:
            text = "`guard status --watch` needs a terminal that can redraw in place; `guard status --json` is for programs."
            raise AnswerIsNo(text)
        status_live.watch(console, paths)
    return Exit.DONE
