"""What a monitoring system is told: figures in, samples out. Pure.

Every name begins with `guard_` and ends in its unit. Labels come from closed sets, but for the namespace of a table;
of those only the fullest stand alone, however many a host has. No label holds an address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from conntrackd_guard.core.budget import Cost
from conntrackd_guard.core.codec import verdict
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Arithmetic, Corroboration, Observation, OverrideKind, Record, Table, TriggerKind
from conntrackd_guard.core.records import reason
from conntrackd_guard.core.usage import risen

TABLES_NAMED = 20
"""Tables told one by one; the others are one sum. With three series each, a host has 63 at most."""
OTHERS = ("others", "")
"""Their labels."""
_NAME_CHARACTERS = 100
"""Of a namespace's name: names under /run/netns are a word, Docker's a dozen letters."""
_HEARD = ("following", "looked at")
"""How a source's state begins while the guard hears it."""

Way = tuple[str, str, str]
"""How a decision is counted: verdict, reason, outcome."""


class Kind(StrEnum):
    """How a figure moves."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All samples of one name."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    samples: tuple[tuple[tuple[str, ...], float], ...]
    """For each series the values of `labels`, and its figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What one table has dropped: the kernel's counters as they stood, and their sums, which go on where those wrap."""

    drop: int
    early_drop: int
    drops: int
    early_drops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What all tables have dropped. No figure ever falls, whichever tables stand alone."""

    tables: Mapping[int, Total] = field(default_factory=dict)
    other_drops: int = 0
    """What tables dropped while they were among the others."""
    other_early_drops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What the deciding loop last said of itself."""

    said_seconds: float
    """Wall time."""
    sources: Mapping[str, str]
    """The state of each source of kernel lines, in words."""
    conflict: bool
    over_budget: bool
    recorder_errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that is told, as it stands at one moment."""

    version: str
    observation: Observation
    cost: Cost
    reach: Arithmetic | None
    totals: Totals
    decisions: Mapping[Way, int]
    loop: Loop


def known_ways() -> dict[Way, int]:
    """Return every way in which decisions usually end, at 0: of a series that begins with its first step, none is seen."""
    triggers, truths = (
        (TriggerKind.KERNEL_MESSAGE, TriggerKind.FILLING_UP),
        (Corroboration.CONFIRMED, Corroboration.UNKNOWN),
    )
    raised_for = [f"{trigger} {truth}" for trigger in triggers for truth in truths]
    raises = [("raise", why, end) for why in (*raised_for, "restore") for end in ("applied", "rejected")]
    holds = [("hold", why.code, "none") for why in HoldReason]
    overrides = [
        ("override", kind.value, "applied" if kind is OverrideKind.REVERT else "none") for kind in OverrideKind
    ]
    return dict.fromkeys((*raises, *holds, *overrides), 0)


def way(record: Record) -> Way:
    """Return how a decision is counted."""
    return verdict(record.decision), reason(record), record.outcome.kind.value


def named(observation: Observation) -> tuple[Table, ...]:
    """Return the tables that stand alone: the initial one, and the fullest."""
    tables = sorted(observation.tables, key=lambda table: (not table.initial, -table.count, table.namespace))
    return tuple(tables[:TABLES_NAMED])


def count_drops(before: Totals, observation: Observation) -> Totals:
    """Return the totals after another look. What a table had dropped when it was first seen is told in its own series."""
    alone = {table.namespace for table in named(observation)}
    tables: dict[int, Total] = {}
    others, early_others = before.other_drops, before.other_early_drops
    for table in observation.tables:
        if table.drop is None:
            continue
        drop, early_drop = table.drop, table.early_drop or 0
        known = before.tables.get(table.namespace)
        known = known or Total(drop=drop, early_drop=early_drop, drops=drop, early_drops=early_drop)
        more, early_more = risen(known.drop, drop), risen(known.early_drop, early_drop)
        tables[table.namespace] = Total(
            drop=drop, early_drop=early_drop, drops=known.drops + more, early_drops=known.early_drops + early_more
        )
        if table.namespace not in alone:
            others, early_others = others + more, early_others + early_more
    return Totals(tables=tables, other_drops=others, other_early_drops=early_others)


def families(figures: Figures) -> tuple[Family, ...]:
    """Return all that there is to tell: what could not be read is left out, never told as 0."""
    told = (*_of_guard(figures), *_of_limit(figures), *_of_tables(figures), *_of_memory(figures.cost))
    return tuple(family for family in told if family.samples)


def _of_guard(figures: Figures) -> Iterator[Family]:
    loop, seen = figures.loop, figures.observation
    heard = {source: float(state.startswith(_HEARD)) for source, state in loop.sources.items()}
    yield _gauge("build_info", "Always 1; which guard this is.", {figures.version: 1.0}, "version")
    yield _gauge("last_success_timestamp_seconds", "When the deciding loop last did all it had to.", loop.said_seconds)
    yield _gauge("source_up", "Whether the kernel's lines are heard from there.", heard, "source")
    yield _gauge("tables_complete", "Whether every namespace that tracks connections could be read.", seen.complete)
    yield _gauge(
        "recorder_errors", "What can't be recorded at the moment; `guard status` says what.", loop.recorder_errors
    )
    yield _gauge("paused", "Whether raising is paused by order.", seen.pause is not None)
    yield _gauge("conflict", "Whether raising has stopped as another writer keeps lowering the limit.", loop.conflict)
    yield Family(
        name="guard_decisions_total",
        kind=Kind.COUNTER,
        text="Decisions that this guard recorded since it started.",
        labels=("verdict", "reason", "outcome"),
        samples=tuple((labels, float(count)) for labels, count in sorted(figures.decisions.items())),
    )


def _of_limit(figures: Figures) -> Iterator[Family]:
    seen, furthest = figures.observation, figures.reach
    highest = {} if furthest is None else {furthest.bound.value: float(furthest.target)}
    over = figures.loop.over_budget
    yield _gauge(
        "limit_entries", "nf_conntrack_max: the most entries that each table may hold; 0 is unlimited.", seen.limit
    )
    yield _gauge("highest_limit_entries", "How far raising could go now, and the bound that ends it.", highest, "bound")
    yield _gauge("kept_limit_over_budget", "Whether this boot began with a higher limit than the host can bear.", over)
    yield _gauge("buckets", "Hash buckets, which all tables share.", seen.buckets)
    yield _gauge("tables", "Namespaces that track connections.", len(seen.tables) + seen.idle_tables)


def _of_tables(figures: Figures) -> Iterator[Family]:
    """Yield use and drops. The others are told from the start, so that their counters are there before they move."""
    tables, totals = named(figures.observation), figures.totals
    labelled = [((str(table.namespace), _name(table)), table) for table in tables]
    known = [(labels, totals.tables[t.namespace]) for labels, t in labelled if t.namespace in totals.tables]
    rest = sum(table.count for table in figures.observation.tables) - sum(table.count for table in tables)
    held = [*((labels, table.count) for labels, table in labelled), (OTHERS, rest)]
    drops = [*((labels, total.drops) for labels, total in known), (OTHERS, totals.other_drops)]
    early = [*((labels, total.early_drops) for labels, total in known), (OTHERS, totals.other_early_drops)]
    for name, kind, text, samples in (
        ("entries", Kind.GAUGE, "Entries that a table holds", held),
        ("drops_total", Kind.COUNTER, "Packets dropped because a table was full", drops),
        ("early_drop_total", Kind.COUNTER, "Entries that the kernel evicted to make room", early),
    ):
        yield Family(
            name=f"guard_table_{name}",
            kind=kind,
            text=f"{text}; beyond the {TABLES_NAMED} fullest tables, all `{OTHERS[0]}` together.",
            labels=("namespace", "name"),
            samples=tuple((labels, float(figure)) for labels, figure in samples),
        )


def _of_memory(cost: Cost) -> Iterator[Family]:
    yield _gauge("cost_bytes", "Kernel memory that entries and buckets take now.", cost.now_bytes)
    yield _gauge("budget_bytes", "The most that full tables and buckets may cost.", cost.budget_bytes)
    yield _gauge("min_available_bytes", "Memory that must stay available.", cost.min_available_bytes)
    yield _gauge("memory_available_bytes", "Memory that is available.", cost.available_bytes)
    yield _gauge("headroom_bytes", "What tables may grow by, within budget and above reserve.", cost.headroom_bytes)


def _gauge(name: str, text: str, figure: float | Mapping[str, float] | None, label: str = "") -> Family:
    """Return a family of one figure, of one for each value of `label`, or of none where there is nothing to tell."""
    if isinstance(figure, Mapping):
        samples = tuple(((value,), each) for value, each in figure.items())
        return Family(name=f"guard_{name}", kind=Kind.GAUGE, text=text, labels=(label,), samples=samples)
    return Family(
        name=f"guard_{name}", kind=Kind.GAUGE, text=text, samples=() if figure is None else (((), float(figure)),)
    )


def _name(table: Table) -> str:
    """Return what people call the namespace; empty where it is known by a process, which will soon be another."""
    return "" if table.label.startswith("process ") else table.label[:_NAME_CHARACTERS]


def exposition(families: Iterable[Family]) -> str:
    """Return the families in Prometheus's text format 0.0.4. Label values may come from anybody."""
    return "".join(line + "\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.text}"
    yield f"# TYPE {family.name} {family.kind}"
    for values, figure in family.samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(family.labels, values, strict=True))
        yield f"{family.name}{f'{{{labels}}}' if labels else ''} {figure!r}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
