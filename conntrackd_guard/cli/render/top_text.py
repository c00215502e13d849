"""`guard top` for people."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from rich.console import Console

from conntrackd_guard.cli.render import analysis_text
from conntrackd_guard.cli.render.console import redraw, section
from conntrackd_guard.core.traffic.analysis import TableAnalysis

_ROWS = 10
_SHOWN = ("state", "destination", "source")
_FEW = 5
"""Rows of each ranking if all three are shown."""


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
    section(console, "What fills it", analysis_text.head_lines(analysis, steps=steps))
    for kind in (by,) if by else _SHOWN:
        title, lines = analysis_text.ranking_lines(analysis.sample, kind, _ROWS if by else _FEW)
        if lines:
            section(console, title, lines)
    if not by and analysis.sample.seen:
        section(console, "Totals", analysis_text.mix_lines(analysis.sample))
