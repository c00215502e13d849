"""Metrics as families of samples, and their text exposition for Prometheus. Pure.

Every name begins with `guard_` and ends in its unit. The values of labels come from closed sets, except the namespaces
of the fullest tables. No label contains an address.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from conntrackd_guard.core.arithmetic import Arithmetic
from conntrackd_guard.core.budget import Cost
from conntrackd_guard.core.codec import verdict
from conntrackd_guard.core.health import READABLE, Level
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Corroboration, Observation, OverrideKind, Record, Table, TriggerKind
from conntrackd_guard.core.records import reason
from conntrackd_guard.core.usage import risen

TABLES_NAMED = 20
"""Tables with series of their own; all others are one sum. With three series each, a host has at most 63."""
OTHERS = ("others", "")
"""Labels of that sum."""
_NAME_CHARACTERS = 100
"""Kept of a namespace's name: names in /run/netns are short, Docker's have a dozen letters."""
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

DecisionLabels = tuple[str, str, str]
"""Verdict, reason, outcome."""


class Kind(StrEnum):
    """The type of a metric."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A metric with all its samples."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    samples: tuple[tuple[tuple[str, ...], float], ...]
    """Values of `labels`, and the figure, for each series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDrops:
    """Drops of one table: the kernel's u32 counters at the last reading, and sums that don't wrap."""

    drop: int
    early_drop: int
    drops: int
    early_drops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTotals:
    """Drops of all tables. No figure ever decreases, even if a table enters or leaves the fullest."""

    tables: Mapping[int, TableDrops] = field(default_factory=dict)
    other_drops: int = 0
    """Drops of tables while they were among the others."""
    other_early_drops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStatus:
    """The last status of the main loop."""

    at_seconds: float
    """Wall time."""
    sources: Mapping[str, str]
    """State of each source of kernel messages, in words."""
    conflict: bool
    over_budget: bool
    recorder_errors: int
    health: Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that is exported, at one moment."""

    version: str
    observation: Observation
    cost: Cost
    reach: Arithmetic | None
    totals: DropTotals
    decisions: Mapping[DecisionLabels, int]
    loop: LoopStatus


def known_decisions() -> dict[DecisionLabels, int]:
    """Return a counter of 0 for each usual kind of decision: `increase()` misses the first count of a new series."""
    triggers = (TriggerKind.KERNEL_MESSAGE, TriggerKind.FILLING_UP)
    evidence = (Corroboration.CONFIRMED, Corroboration.UNKNOWN)
    raised_for = [f"{trigger} {found}" for trigger in triggers for found in evidence]
    raises = [("raise", why, end) for why in (*raised_for, "restore") for end in ("applied", "rejected")]
    holds = [("hold", why.code, "none") for why in HoldReason]
    overrides = [("override", why.value, "applied" if why is OverrideKind.REVERT else "none") for why in OverrideKind]
    return dict.fromkeys((*raises, *holds, *overrides), 0)


def decision_labels(record: Record) -> DecisionLabels:
    """Return the labels under which a decision is counted."""
    return verdict(record.decision), reason(record), record.outcome.kind.value


def named_tables(observation: Observation) -> tuple[Table, ...]:
    """Return the tables with series of their own: the initial one and the fullest."""
    tables = sorted(observation.tables, key=lambda table: (not table.initial, -table.count, table.namespace))
    return tuple(tables[:TABLES_NAMED])


def count_drops(before: DropTotals, observation: Observation) -> DropTotals:
    """Return the totals after another observation. A new table's series begins with its counters."""
    alone = {table.namespace for table in named_tables(observation)}
    tables: dict[int, TableDrops] = {}
    others, early_others = before.other_drops, before.other_early_drops
    for table in observation.tables:
        if table.drop is None:
            continue
        drop, early = table.drop, table.early_drop or 0
        first = TableDrops(drop=drop, early_drop=early, drops=drop, early_drops=early)
        known = before.tables.get(table.namespace, first)
        more, early_more = risen(known.drop, drop), risen(known.early_drop, early)
        tables[table.namespace] = replace(first, drops=known.drops + more, early_drops=known.early_drops + early_more)
        if table.namespace not in alone:
            others, early_others = others + more, early_others + early_more
    return DropTotals(tables=tables, other_drops=others, other_early_drops=early_others)


def families(figures: Figures) -> tuple[Family, ...]:
    """Return all metrics. A figure that could not be read is left out, never 0."""
    whole = (*_of_guard(figures), *_of_tables(figures), *_of_memory(figures.cost))
    return tuple(family for family in whole if family.samples)


def _of_guard(figures: Figures) -> Iterator[Family]:
    loop, seen, furthest = figures.loop, figures.observation, figures.reach
    readable = {source: float(state.startswith(READABLE)) for source, state in loop.sources.items()}
    highest = {} if furthest is None else {furthest.bound.value: float(furthest.target)}
    yield _gauge("build_info", "Build information; constant 1.", {figures.version: 1.0}, "version")
    levels = {level.value: float(level is loop.health) for level in Level if level is not Level.DOWN}
    yield _gauge("health", "Health of the guard: 1 for its present level.", levels, "level")
    success = "Unix time of the last successful main-loop iteration."
    yield _gauge("last_success_timestamp_seconds", success, loop.at_seconds)
    yield _gauge("source_up", "Whether kernel messages can be read from this source.", readable, "source")
    complete = "Whether every connection tracking table could be read, of those that this kernel shows."
    yield _gauge("tables_complete", complete, not seen.impossible and (seen.complete or not seen.has_statistics))
    unread = "Number of tables that can't be read and are charged as full ones."
    yield _gauge("tables_unread", unread, seen.unread_tables)
    errors = "Number of current recorder errors, which `guard status` lists."
    yield _gauge("recorder_errors", errors, loop.recorder_errors)
    yield _gauge("paused", "Whether an operator has paused raising.", seen.pause is not None)
    yield _gauge("conflict", "Whether raising is off because another program keeps lowering the limit.", loop.conflict)
    yield Family(
        name="guard_decisions_total",
        kind=Kind.COUNTER,
        text="Number of decisions recorded since the guard started.",
        labels=("verdict", "reason", "outcome"),
        samples=tuple((labels, float(count)) for labels, count in sorted(figures.decisions.items())),
    )
    limit = "Maximum size of each connection tracking table (nf_conntrack_max), in entries; 0 or over 2147483647: unlimited."
    yield _gauge("limit_entries", limit, seen.limit)
    reach = "Highest limit that raises can reach now, in entries, by its bound."
    yield _gauge("highest_limit_entries", reach, highest, "bound")
    over = "Whether the limit persisted for this boot exceeds the memory budget."
    yield _gauge("persisted_limit_over_budget", over, loop.over_budget)
    yield _gauge("buckets", "Number of hash buckets, shared by all tables.", seen.buckets)
    yield _gauge("tables", "Number of network namespaces that track connections.", len(seen.tables) + seen.idle_tables)


def _of_tables(figures: Figures) -> Iterator[Family]:
    """Yield usage and drops. The others have series from the start, so that `increase()` sees their first drop."""
    tables, totals = named_tables(figures.observation), figures.totals
    labelled = [((str(table.namespace), _name(table)), table) for table in tables]
    known = [(labels, totals.tables[t.namespace]) for labels, t in labelled if t.namespace in totals.tables]
    rest = sum(table.count for table in figures.observation.tables) - sum(table.count for table in tables)
    held = [*((labels, table.count) for labels, table in labelled), (OTHERS, rest)]
    drops = [*((labels, total.drops) for labels, total in known), (OTHERS, totals.other_drops)]
    early = [*((labels, total.early_drops) for labels, total in known), (OTHERS, totals.other_early_drops)]
    for name, kind, text, samples in (
        ("entries", Kind.GAUGE, "Number of currently allocated flow entries for connection tracking", held),
        ("drops_total", Kind.COUNTER, "Number of packets dropped because the table was full", drops),
        ("early_drop_total", Kind.COUNTER, "Number of dropped conntrack entries to make room for new ones", early),
    ):
        yield Family(
            name=f"guard_table_{name}",
            kind=kind,
            text=f"{text}; `{OTHERS[0]}` is the sum of all but the {TABLES_NAMED} fullest tables.",
            labels=("namespace", "name"),
            samples=tuple((labels, float(figure)) for labels, figure in samples),
        )


def _of_memory(cost: Cost) -> Iterator[Family]:
    headroom = "Memory by which tables may grow within the budget and min_available, in bytes."
    yield _gauge("cost_bytes", "Kernel memory used by entries and hash buckets, in bytes.", cost.now_bytes)
    yield _gauge("budget_bytes", "Memory budget for full tables and hash buckets, in bytes.", cost.budget_bytes)
    yield _gauge("min_available_bytes", "Memory that raises must leave available, in bytes.", cost.min_available_bytes)
    yield _gauge("memory_available_bytes", "Memory available on the host, in bytes.", cost.available_bytes)
    yield _gauge("headroom_bytes", headroom, cost.headroom_bytes)


def _gauge(name: str, text: str, figure: float | Mapping[str, float] | None, label: str = "") -> Family:
    """Return a family with one sample, one for each value of `label`, or none if `figure` is None."""
    labels: tuple[str, ...] = ()
    samples: tuple[tuple[tuple[str, ...], float], ...] = ()
    if isinstance(figure, Mapping):
        labels, samples = (label,), tuple(((value,), each) for value, each in figure.items())
    elif figure is not None:
        samples = (((), float(figure)),)
    return Family(name=f"guard_{name}", kind=Kind.GAUGE, text=text, labels=labels, samples=samples)


def _name(table: Table) -> str:
    """Return the namespace's name; "" if it is named after a process, which may change."""
    return "" if table.label.startswith("process ") else table.label[:_NAME_CHARACTERS]


def exposition(families: Iterable[Family]) -> str:
    """Return the families in Prometheus's text format 0.0.4. Label values may come from anybody."""
    lines: list[str] = []
    for family in families:
        lines += (f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}")
        for values, figure in family.samples:
            pairs = zip(family.labels, values, strict=True)
            labels = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs)
            lines.append(f"{family.name}{f'{{{labels}}}' if labels else ''} {figure!r}")
    return "".join(f"{line}\n" for line in lines)
