"""The rows of `guard replay` as CSV."""

import csv
import io
from collections.abc import Iterator

from conntrackd_guard.core.text import printable
from conntrackd_guard.core.units import rfc3339
from conntrackd_guard.replay.model import HostResult
from conntrackd_guard.replay.summary import Summary, blocked

_NUMBERS = ("messages", "episodes", "raises", "first_limit", "highest_limit", "peak_cost_bytes", "dropped", "saved",
            "saved_at_least", "allowed_limit")  # fmt: skip
_FORMULA = frozenset("=+-@\t\r")
"""A spreadsheet runs a cell that begins so."""


def rows(summary: Summary) -> Iterator[str]:
    """Yield the lines: a heading, then a row a host, worst first, then the hosts that were skipped."""
    head = ("host", "grade", "policy", "since", "until", *_NUMBERS, "blocked", "holds", "actions", "skipped")
    yield _line(head)
    for answer in summary.answers:
        yield _row(answer.host, "config")
        if answer.against is not None:
            yield _row(answer.against, "against")
    for one in summary.skipped:
        yield _line((one.name, *[""] * (len(head) - 2), one.why))


def _row(row: HostResult, policy: str) -> str:
    times = ("" if at is None else rfc3339(at) for at in (row.since, row.until))
    numbers = ("" if (value := getattr(row, name)) is None else value for name in _NUMBERS)
    holds = " ".join(f"{code}={times}" for code, times in row.holds.items())
    return _line((row.name, row.grade, policy, *times, *numbers, blocked(row), holds, " / ".join(row.actions), ""))


def _line(cells: tuple[object, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_safe(cell) for cell in cells])
    return text.getvalue()


def _safe(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    shown = printable(cell)
    return f"'{shown}" if shown[:1] in _FORMULA else shown
