"""The decisions of a report: a table whose rows unfold to the sum and to who filled the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from conntrackd_guard.cli.render.analysis_text import head_lines, mix_lines, ranking_lines
from conntrackd_guard.cli.render.arithmetic_text import sum_lines
from conntrackd_guard.cli.render.console import COMMAND, local
from conntrackd_guard.cli.render.report.html import escaped
from conntrackd_guard.core import explain
from conntrackd_guard.core.model import Arithmetic
from conntrackd_guard.core.traffic.analysis import TableAnalysis
from conntrackd_guard.core.traffic.diagnosis import Cause
from conntrackd_guard.core.verification import Drops
from conntrackd_guard.history.documents import DecisionDetail
from conntrackd_guard.history.rows import Row

SIGNS: Final = {"raise": "▲", "override": "◆", "hold": "●"}
_GROUPS_SHOWN = 5
"""Of each kind, as `guard show`."""


def decisions(entries: Sequence[DecisionDetail], in_all: int) -> Iterator[str]:
    """Yield the section; `in_all` decisions were made, of which `entries` are the newest."""
    yield '<section aria-labelledby="decisions"><h2 id="decisions" tabindex="-1">Decisions</h2>'
    if not entries:
        yield "<p>No decision was made in this time.</p></section>"
        return
    more = ""
    if in_all > len(entries):
        more = f" These are the last {len(entries):,} of {in_all:,}: choose a shorter time to see the others."
    yield '<table class="decisions" role="table">'
    yield f"<caption>The newest first, each with its sum.{more}</caption>"
    yield '<thead role="rowgroup"><tr role="row">'
    yield "".join(f'<th scope="col" role="columnheader">{name}</th>' for name in ("When", "What", "Why"))
    yield '</tr></thead><tbody role="rowgroup">'
    for told in entries:
        yield _decision(told)
    yield "</tbody></table></section>"


def arithmetic_of(told: DecisionDetail) -> Arithmetic | None:
    """Return the sum of a decision, None where it has none."""
    return getattr(told.record.decision, "arithmetic", None)


def step(row: Row) -> str:
    """Return the limit before and, if it is to change, after: `262,144 → 393,216`."""
    limit = "-" if row.from_limit is None else f"{row.from_limit:,}"
    return limit if row.to_limit is None else f"{limit} → {row.to_limit:,}"


def _decision(told: DecisionDetail) -> str:
    """Return one row: when, what, and why, with the evidence folded in."""
    row = told.row
    repeats = f'<br><span class="soft">×{row.repeats:,} until {escaped(local(row.last_seconds))}</span>'
    outcome = "" if row.outcome in {"none", "applied"} else f", {escaped(row.outcome)}"
    return (
        f'<tr role="row" id="d{row.id}"><th scope="row" role="rowheader" class="when">'
        f"#{row.id} {escaped(local(row.at_seconds))}{repeats * (row.repeats > 1)}</th>"
        f'<td role="cell" class="what">{SIGNS.get(row.verdict, "●")} {escaped(row.verdict)}{outcome} <br>{escaped(step(row))} '
        f'<br><span class="soft">{escaped(row.reason)}</span></td><td role="cell">{"".join(_why(told))}</td></tr>\n'
    )


def _why(told: DecisionDetail) -> Iterator[str]:
    row = told.row
    yield f"<p>{escaped(row.sentence)}</p>"
    if row.verification is not None:
        tone = {Drops.CONTINUING: "bad", Drops.UNKNOWN: "soft"}.get(row.verification.drops, "good")
        yield f'<p class="{tone}">Afterwards: {escaped(explain.verification(row.verification))}</p>'
    if told.analysis is not None:
        gravest = told.analysis.findings[0]
        tone = {Cause.GROW: "good", Cause.UNCLEAR: "soft"}.get(gravest.cause, "bad")
        yield f'<p class="{tone}">Diagnosis: {escaped(f"{gravest.cause}: {gravest.meaning}")}</p>'
    if row.message:
        yield f'<p class="soft">The kernel said: {escaped(row.message)}</p>'
    arithmetic = arithmetic_of(told)
    if arithmetic is not None:
        yield _folded("The sum", row.id, _pairs(sum_lines(arithmetic, told.policy)))
    if told.analysis is not None:
        yield _folded("Who filled the table, and what to do", row.id, "".join(_portrait(told.analysis)))


def _portrait(portrait: TableAnalysis) -> Iterator[str]:
    yield _pairs(head_lines(portrait))
    for kind in ("state", "destination", "source"):
        title, lines = ranking_lines(portrait.sample, kind, _GROUPS_SHOWN)
        if lines:
            yield f'<p class="title">{escaped(title)}</p>{_pairs(lines, "sum shares")}'
    yield f'<p class="title">In all</p>{_pairs(mix_lines(portrait.sample))}'


def _folded(title: str, number: int, content: str) -> str:
    """Return what Enter or a click unfolds; who only hears its title hears which decision it belongs to."""
    hidden = f'<span class="hidden"> of decision {number}</span>'
    return f"<details><summary>{title}{hidden}</summary>{content}</details>"


def _pairs(pairs: Iterable[tuple[str, str]], look: str = "sum") -> str:
    items = []
    for name, text in pairs:
        shown = f"<code>{escaped(text)}</code>" if name == COMMAND else escaped(text)
        items.append(f"<dt>{escaped(name)}</dt><dd>{shown}</dd>")
    return f'<dl class="{look}">{"".join(items)}</dl>'
