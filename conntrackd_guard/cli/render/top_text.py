"""`guard top` for people."""

import argparse
from collections.abc import Iterator

from rich.console import Console

from conntrackd_guard.cli.render.analysis_text import breakdown, head_lines, ranking_lines
from conntrackd_guard.cli.render.console import redraw, section
from conntrackd_guard.core.traffic.analysis import TableAnalysis

_ROWS = 10


def print_analyses(console: Console, value: tuple[argparse.Namespace, Iterator[TableAnalysis]]) -> None:
    """Print analyses as they come; on a terminal each replaces the one before."""
    args, analyses = value
    in_place = args.watch and console.is_terminal and not console.is_dumb_terminal
    for analysis in analyses:
        if in_place:
            with console.capture() as drawn:
                print_analysis(console, analysis, args.by, steps=False)
            redraw(console, drawn.get())
        else:
            print_analysis(console, analysis, args.by)
            console.file.flush()


def print_analysis(console: Console, analysis: TableAnalysis, by: str | None, *, steps: bool = True) -> None:
    """Print one analysis: whose table it is, what fills it, with `steps` what to do, and the rankings."""
    section(console, "What fills it", head_lines(analysis, steps=steps))
    for title, lines in [ranking_lines(analysis.sample, by, _ROWS)] if by else breakdown(analysis.sample):
        if lines:
            section(console, title, lines)
