"""What one host's replay has found so far; all kinds of evidence are counted here."""

from collections import Counter
from dataclasses import replace

from conntrackd_guard.core.budget import cost_of
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import INT_MAX, Observation
from conntrackd_guard.core.records import ACTIONABLE
from conntrackd_guard.core.units import YEAR_10000
from conntrackd_guard.replay.model import Exact, HostInput, HostResult, Step

MOST_STEPS = 200
"""Raises that a row lists; all are counted."""
MOST_ACTIONS = 10
MOST_POINTS = 120
"""Of a chart; each is 40 bytes of a JSON line."""

_Point = tuple[int, int, int, int]


class Tally:
    """Counts for one row of the answer."""

    def __init__(self, host: HostInput, policy: Policy) -> None:
        self._host, self._policy = host, policy
        self._since: float | None = None
        self._until: float | None = None
        self.messages = 0
        self.episodes: int | None = None
        self.raises = 0
        self.first_limit: int | None = None
        self.highest_limit: int | None = None
        self.peak_cost_bytes: int | None = None
        self.dropped: int | None = None
        self.saved: int | None = None
        self.saved_at_least = False
        self.allowed_limit: int | None = None
        self.causes = Counter[str]()
        self.holds = Counter[str]()
        self._actions: dict[str, None] = {}
        self._steps: list[Step] = []
        self._points: list[_Point] = []
        self._wider = 1
        """How many samples a point of the chart stands for."""
        self._skipped = 0
        self.notes: list[str] = []

    def at(self, wall_seconds: float) -> None:
        """Note a moment of the evidence, unless no host's clock can have shown it."""
        if not 0 <= wall_seconds < YEAR_10000:
            return
        self._since = wall_seconds if self._since is None else min(self._since, wall_seconds)
        self._until = wall_seconds if self._until is None else max(self._until, wall_seconds)

    def limit(self, limit: int | None) -> None:
        """Note a limit in force."""
        if limit is not None:
            self.first_limit = limit if self.first_limit is None else self.first_limit
            self.highest_limit = max(limit, self.highest_limit or 0)

    def raised(self, step: Step) -> None:
        """Count a raise."""
        self.raises += 1
        self.limit(step.before)
        self.limit(step.target)
        if len(self._steps) < MOST_STEPS:
            self._steps.append(step)

    def cost(self, seen: Observation, limit: int) -> None:
        """Note what full tables cost at a limit."""
        cost = cost_of(replace(seen, limit=limit), self._policy).full_bytes if 0 < limit <= INT_MAX else 0
        self.peak_cost_bytes = max(cost, self.peak_cost_bytes or 0)

    def held(self, reason: HoldReason, advice: tuple[str, ...]) -> None:
        """Count a decision not to raise; of a hold that only an operator can end, keep the advice."""
        self.holds[reason.code] += 1
        if reason in ACTIONABLE:
            for text in advice or (reason.sentence,):
                if len(self._actions) < MOST_ACTIONS:
                    self._actions[text] = None

    def point(self, point: _Point) -> None:
        """Add a moment to the chart, which keeps the highest of each of its points."""
        self._skipped += 1
        if not self._points or self._skipped >= self._wider:
            self._points.append(point)
            self._skipped = 0
        else:
            self._points[-1] = _higher(self._points[-1], point)
        if len(self._points) > MOST_POINTS:
            pairs = zip(self._points[::2], [*self._points[1::2], self._points[-1]], strict=False)
            self._points, self._wider = [_higher(*pair) for pair in pairs], 2 * self._wider

    def result(self, *, exact: Exact | None = None) -> HostResult:
        """Return the row."""
        return HostResult(
            name=self._host.name,
            grade=self._host.grade,
            since=self._since,
            until=self._until,
            messages=self.messages,
            episodes=self.episodes,
            raises=self.raises,
            first_limit=self.first_limit,
            highest_limit=self.highest_limit,
            peak_cost_bytes=self.peak_cost_bytes,
            dropped=self.dropped,
            saved=self.saved,
            saved_at_least=self.saved_at_least,
            allowed_limit=self.allowed_limit,
            causes=dict(sorted(self.causes.items())),
            holds=dict(sorted(self.holds.items())),
            actions=tuple(self._actions),
            steps=tuple(self._steps),
            exact=exact,
            points=tuple(self._points),
            notes=(*self._host.notes, *self.notes),
        )


def _higher(one: _Point, other: _Point) -> _Point:
    """Return one point for two: of each figure the highest, at the first one's time."""
    return (one[0], max(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3]))
