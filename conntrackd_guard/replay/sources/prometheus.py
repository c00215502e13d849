"""node_exporter's series of a whole fleet, from any server with Prometheus' HTTP API. Grade: simulated.

The samples are asked for as they were scraped (`metric[6h]`), not as `query_range` resamples them: times are true, a gap is
a gap, and each host keeps its own scrape interval. One query returns all series of a host for a page of time.
"""

import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, repeat
from statistics import median
from typing import Any

from conntrackd_guard.core.text import printable, short
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.replay.model import Grade, HostFacts, HostInput, Sample, Skipped, Span
from conntrackd_guard.replay.sources.prometheus_api import Api, Server, ServerError, TooLargeError

ENTRIES = "node_nf_conntrack_entries"
SERIES = (ENTRIES, "node_nf_conntrack_entries_limit", "node_memory_MemAvailable_bytes", "node_nf_conntrack_stat_drop")
"""In the order of `Sample`'s fields."""
MEMORY = "node_memory_MemTotal_bytes"
POINTS = 11_000
"""Of a series in one query: as many as Prometheus' own `query_range` returns at most."""
DEFAULT_SECONDS = 14 * 86_400
"""Before the end, if nobody says since when."""
MOST_SAMPLES = 1_000_000
"""Of one host: 150 MiB; 14 days at one scrape in 1.2 s."""
_FIRST_PAGE_MS = 6 * 3_600_000
_GROWTH = 24
_SHORTEST_PAGE_MS = 60_000
_LONGEST_PAGE_MS = 7 * 86_400_000
"""While nothing is found."""
LONGEST_LABELS = 8192
"""Characters of all labels of a host: they are in each query and in each line of the results."""
_MOST = 2**63
_LATEST = 2.0**37
"""Seconds since 1970: the year 6325."""
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class PrometheusHost:
    """A target's series as a unit of work."""

    server: Server
    name: str
    """Its `instance`; with the labels that differ where several targets have that."""
    labels: Labels
    """All but the metric's name."""
    now: float
    """The end where the span has none; the same for all hosts."""

    @property
    def key(self) -> str:
        """What identifies it among all units."""
        return f"{self.server.url} {_selector(self.labels)}"

    def read(self, span: Span) -> Iterator[HostInput | Skipped]:
        """Yield the host. `span` has both ends. Raises ServerError."""
        api = Api(self.server)
        columns = _Columns()
        for page in _pages(api, self.labels, span, self.now):
            columns.add(page)
            if len(columns.samples) > MOST_SAMPLES:
                yield Skipped(name=self.name, why=f"More than {MOST_SAMPLES} samples. Narrow --since or --until.")
                return
        if not columns.samples:
            yield Skipped(name=self.name, why="The server has no sample of this host in that time.")
            return
        total = _total_bytes(api, self.labels, span, self.now)
        yield HostInput(
            name=self.name,
            grade=Grade.SIMULATED,
            facts=HostFacts(total_bytes=total),
            samples=columns.samples,
            notes=(*columns.notes(), *(f"the server warns: {warning}" for warning in sorted(api.warnings))),
        )


def find(server: Server, match: str, span: Span) -> Iterator[PrometheusHost | Skipped]:
    """Yield the hosts with connection tracking in the span, in the order of their names; `match`: label matchers.

    Raises ServerError, HostError.
    """
    now = time.time()
    start, end = _bounds(span, now)
    found = Api(server).ask("series", {"match[]": f"{ENTRIES}{{{match}}}", "start": _time(start), "end": _time(end)})
    if not isinstance(found, list) or not all(map(_is_label_set, found)):
        raise ServerError(f"{printable(server.url)} answers with something else than a list of series.")
    targets = sorted(set(map(_labels, found)))
    if not targets:
        why = f"No series {ENTRIES}{{{printable(match)}}} in that time. Check --match, --since and --until."
        yield Skipped(name=printable(server.url), why=why)
    by_name: dict[str, list[Labels]] = {}
    for labels in targets:
        if (length := len(_selector(labels))) > LONGEST_LABELS:
            name = short(dict(labels).get("instance", "") or _selector(labels))
            yield Skipped(name=name, why=f"Its labels have {length:,} characters, more than {LONGEST_LABELS:,}.")
            continue
        by_name.setdefault(dict(labels).get("instance", ""), []).append(labels)
    for name, several in sorted(by_name.items()):
        common = set.intersection(*map(set, several))
        for labels in several:
            rest = [pair for pair in labels if pair not in common and pair[0] != "instance"]
            yield PrometheusHost(
                server, f"{name} {_selector(rest)}" if rest else name or _selector(labels), labels, now
            )


class _Columns:
    """The samples of a host, page by page, and what is odd about them."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._not_counts = 0

    def add(self, page: dict[str, list[Any]]) -> None:
        """Append the samples of a page: those of one moment are one. Raises ServerError."""
        latest = self.samples[-1].wall_seconds if self.samples else float("-inf")
        try:
            columns = [_column(page.get(name, ())) for name in SERIES]
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise ServerError("The server answers with something else than samples.") from error
        times = columns[0][0]
        self._not_counts += sum(values.count(None) for _, values in columns)
        if all(other == times or not other for other, _ in columns) and all(a < b for a, b in pairwise(times)):
            rows: Iterable[Sample] = map(
                Sample._make,
                zip(times, *(values or repeat(None) for _, values in columns)),  # noqa: B905  repeat() has no end
            )
        else:
            known = [dict(zip(*column, strict=True)) for column in columns]
            rows = (Sample(at, *(one.get(at) for one in known)) for at in sorted(set().union(*known)))
        self.samples += rows if not self.samples else (row for row in rows if row.wall_seconds > latest)

    def notes(self) -> Iterator[str]:
        """Yield what a reader should know."""
        steps = [b.wall_seconds - a.wall_seconds for a, b in pairwise(self.samples)]
        if steps:
            yield f"scraped every {format_duration(median(steps))}"
        if self._not_counts:
            yield f"values left out because they are no counts: {self._not_counts}"
        for field, name in enumerate(SERIES, start=1):
            if all(sample[field] is None for sample in self.samples):
                yield f"no series {name}"


def _pages(api: Api, labels: Labels, span: Span, now: float) -> Iterator[dict[str, list[Any]]]:
    """Yield the points of each of SERIES by its name, a page of time after the other. Raises ServerError."""
    at, end = _bounds(span, now)
    selector = f'{{__name__=~"{"|".join(SERIES)}",{_matchers(labels)}}}'
    width = _FIRST_PAGE_MS
    while at < end:
        until = min(at + width, end)
        try:
            answer = api.ask("query", {"query": f"{selector}[{until - at}ms]", "time": _time(until)})
        except TooLargeError:
            if width <= _SHORTEST_PAGE_MS:
                raise
            width = max((until - at) // 4, _SHORTEST_PAGE_MS)
            continue
        page = {name: points for name, points in _results(answer, labels, "values") if isinstance(points, list)}
        yield page
        most = max(map(len, page.values()), default=0)
        fitting = (until - at) * POINTS * 4 // (5 * most) if most else _LONGEST_PAGE_MS
        width = max(_SHORTEST_PAGE_MS, min(fitting, width * _GROWTH))
        at = until


def _total_bytes(api: Api, labels: Labels, span: Span, now: float) -> int | None:
    """Return the host's memory, the least that it had in that time. Raises ServerError."""
    start, end = _bounds(span, now)
    query = f"min_over_time({MEMORY}{_selector(labels)}[{end - start}ms])"
    answer = api.ask("query", {"query": query, "time": _time(end)})
    for _, value in _results(answer, labels, "value"):
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str):  # noqa: PLR2004  time and value
            return _number(value[1])
    return None


def _results(answer: Any, labels: Labels, what: str) -> Iterator[tuple[str, Any]]:
    """Yield metric name and points of a query's results that have exactly these labels. Raises ServerError."""
    results = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(results, list):
        raise ServerError("The server answers with something else than the result of a query.")
    for result in results:
        found = result.get("metric") if isinstance(result, dict) else None
        if isinstance(found, dict) and _is_label_set(found) and _labels(found) == labels:
            yield found.get("__name__", ""), result.get(what)


def _column(points: Any) -> tuple[list[float], list[int | None]]:
    """Return times and counts. Raises TypeError, ValueError, KeyError or IndexError if they are none."""
    times, texts = [point[0] for point in points], [point[1] for point in points]
    if not set(map(type, times)) <= {int, float} or not set(map(type, texts)) <= {str}:
        raise TypeError
    if times and not (min(times) >= 0 and max(times) < _LATEST and math.isfinite(sum(times))):
        raise ValueError
    try:
        counts: list[int] = list(map(int, texts))
    except ValueError:
        return times, list(map(_number, texts))
    if counts and (min(counts) < 0 or max(counts) >= _MOST):
        return times, list(map(_number, texts))
    return times, list(counts)


def _number(text: str) -> int | None:
    """Return a sample's value as a count, None if it is none (`NaN`, `+Inf`, below 0)."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if 0 <= value < _MOST else None


def _is_label_set(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())


def _labels(found: dict[str, str]) -> Labels:
    return tuple(sorted((name, value) for name, value in found.items() if name != "__name__"))


def _selector(labels: Iterable[tuple[str, str]]) -> str:
    return f"{{{_matchers(labels)}}}"


def _matchers(labels: Iterable[tuple[str, str]]) -> str:
    """Return what selects exactly these values. JSON's escapes are PromQL's (Go's); Prometheus 3 allows quoted names."""
    names = ((name if _LABEL.fullmatch(name) else _quoted(name), value) for name, value in labels)
    return ",".join(f"{name}={_quoted(value)}" for name, value in names)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _bounds(span: Span, now: float) -> tuple[int, int]:
    """Return start and end in milliseconds. A range is open at its start since Prometheus 3."""
    end = now if span.until is None else span.until
    start = end - DEFAULT_SECONDS if span.since is None else span.since
    return int(start * 1000) - 1, int(end * 1000)


def _time(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}"
