"""Add up the rows of many hosts. Sums are kept apart by grade of evidence: one host may have a row of each."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.records import ACTIONABLE
from conntrackd_guard.replay.lines import Answer, Found
from conntrackd_guard.replay.model import Grade, HostResult, Skipped

_BLOCKED = frozenset(reason.code for reason in ACTIONABLE)


@dataclass(slots=True, kw_only=True)
class Total:
    """The sum over all rows of one grade."""

    hosts: int = 0
    hosts_raised: int = 0
    hosts_blocked: int = 0
    """Hosts with need that only an operator could have met."""
    messages: int = 0
    episodes: int | None = None
    """This and the next of these are None if no row knows them."""
    raises: int = 0
    dropped: int | None = None
    saved: int | None = None
    saved_at_least: bool = False
    peak_cost_bytes: int | None = None
    """What the fleet would have paid in memory, if every table were as full as its highest limit allows."""
    causes: dict[str, int] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    actions: dict[str, int] = field(default_factory=dict)
    """Hosts by what an operator would have had to do."""
    rows: int = 0
    """Recorded decisions (`exact`)."""
    same: int = 0
    different: int = 0
    overrides: int = 0
    other_versions: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The answer for people: rows with the worst first, sums, and what was left out."""

    answers: tuple[Answer, ...]
    totals: dict[Grade, Total]
    skipped: tuple[Skipped, ...]
    compared: bool
    """Whether two policies were compared: then `answers` are those that differ."""
    asked: int
    """Rows in all."""


def summarize(found: Iterable[Found], *, compared: bool) -> Summary:
    """Return the answer. With `compared`, only the hosts on which the two policies differ."""
    totals: dict[Grade, Total] = {}
    answers, skipped, asked = [], [], 0
    for one in found:
        if isinstance(one, Skipped):
            skipped.append(one)
            continue
        asked += 1
        _add(totals.setdefault(one.host.grade, Total()), one.host)
        if one.differs or not compared:
            answers.append(one)
    return Summary(
        answers=tuple(sorted(answers, key=lambda answer: _worst_first(answer.host))),
        totals={grade: totals[grade] for grade in Grade if grade in totals},
        skipped=tuple(skipped),
        compared=compared,
        asked=asked,
    )


def blocked(row: HostResult) -> int:
    """Return the decisions that only an operator could have answered."""
    return sum(times for code, times in row.holds.items() if code in _BLOCKED)


def _worst_first(row: HostResult) -> tuple[object, ...]:
    left = (row.dropped or 0) - (row.saved or 0)
    return (-left, -(row.dropped or 0), -blocked(row), -row.raises, -row.messages, row.name, row.grade)


def _add(total: Total, row: HostResult) -> None:
    total.hosts += 1
    total.hosts_raised += row.raises > 0
    total.hosts_blocked += blocked(row) > 0
    for name in ("messages", "raises"):
        setattr(total, name, getattr(total, name) + getattr(row, name))
    for name in ("episodes", "dropped", "saved", "peak_cost_bytes"):
        if (value := getattr(row, name)) is not None:
            setattr(total, name, (getattr(total, name) or 0) + value)
    total.saved_at_least = total.saved_at_least or row.saved_at_least
    total.causes = dict(sorted((Counter(total.causes) + Counter(row.causes)).items()))
    total.holds = dict(sorted((Counter(total.holds) + Counter(row.holds)).items()))
    total.actions = dict(sorted((Counter(total.actions) + Counter(row.actions)).items()))
    if row.exact is not None:
        for name in ("rows", "same", "different", "overrides", "unreadable"):
            setattr(total, name, getattr(total, name) + getattr(row.exact, name))
        versions = Counter(total.other_versions) + Counter(row.exact.other_versions)
        total.other_versions = dict(sorted(versions.items()))


def reason_text(code: str) -> str:
    """Return the label of a hold reason, the code itself if it is unknown."""
    return next((reason.label for reason in HoldReason if reason.code == code), code)
