"""`guard top`: who fills a table now."""

from __future__ import annotations

import argparse
import errno
import sys
import time
from typing import TYPE_CHECKING, Any

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.errors import HostError, NotPermitted
from conntrackd_guard.host.paths import Paths

if TYPE_CHECKING:  # dear to import: only what a run needs
    from rich.console import Console

    from conntrackd_guard.core.traffic.analysis import TableAnalysis

_EVERY_SECONDS = 2.0
_KINDS = ("source", "destination", "port", "state")
_ROWS = 10
_SHOWN = ("state", "destination", "source")
_FEW = 5
"""Rows of each where all three are shown."""


def add_parser(commands: Any) -> None:
    """Add `guard top`."""
    parser = commands.add_parser(
        "top",
        help="who fills a table now, whether raising is the cure, and what else to do",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reads a sample of one table's entries (the fullest, by default) and adds it up. Needs root.",
        epilog="Example: sudo guard top --namespace web --by source",
    )
    parser.add_argument(
        "--namespace", metavar="N", help="the table of this network namespace: its number, its name, or `initial`"
    )
    parser.add_argument("--by", choices=_KINDS, help="the ten largest of this kind alone")
    parser.add_argument("--watch", action="store_true", help="look again every 2 s, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON document (with --watch: one a line)")
    parser.set_defaults(run=_top)


def _top(args: argparse.Namespace, paths: Paths) -> Exit:
    from conntrackd_guard.host.conntrack.sampler import Sampler, choose  # noqa: PLC0415 - not needed by other commands

    sampler = Sampler(paths, enter=True)
    try:
        while True:
            found = sampler.find()
            try:
                portrait = sampler.analyze(choose(found, args.namespace), found)
            except HostError as error:
                if error.errno in {errno.EACCES, errno.EPERM}:
                    raise NotPermitted(str(error)) from error
                raise
            _show(args, portrait)
            if not args.watch:
                return Exit.DONE
            time.sleep(_EVERY_SECONDS)
    except KeyboardInterrupt:
        if args.watch:
            return Exit.DONE
        raise


def _show(args: argparse.Namespace, portrait: TableAnalysis) -> None:
    if args.json:
        from conntrackd_guard.history import documents, rows  # noqa: PLC0415 - one or the other

        content = documents.analysis(portrait)
        sys.stdout.write(documents.line(content) if args.watch else rows.document(content))
        sys.stdout.flush()
        return
    from conntrackd_guard.cli.render import console as terminal  # noqa: PLC0415 - rich, for people only

    with terminal.screen(paged=False) as console:
        if args.watch and console.is_terminal and not console.is_dumb_terminal:
            with console.capture() as drawn:
                _print(console, portrait, args.by, steps=False)
            terminal.redraw(console, drawn.get())
        else:
            _print(console, portrait, args.by)
            console.file.flush()


def _print(console: Console, portrait: TableAnalysis, by: str | None, *, steps: bool = True) -> None:
    from conntrackd_guard.cli.render import analysis_text  # noqa: PLC0415 - for people only
    from conntrackd_guard.cli.render.decision_text import section  # noqa: PLC0415

    section(console, "Who fills it", analysis_text.head_lines(portrait, steps=steps))
    for kind in (by,) if by else _SHOWN:
        title, lines = analysis_text.ranking_lines(portrait.sample, kind, _ROWS if by else _FEW)
        if lines:
            section(console, title, lines)
    if not by and portrait.sample.seen:
        section(console, "In all", analysis_text.mix_lines(portrait.sample))
