"""Metrics as families of samples, and their text exposition for Prometheus. Pure.

Every name begins with `guard_` and ends in its unit. The values of labels come from closed sets, except the namespaces
of the fullest tables. No label contains an address.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from conntrackd_guard.core import chains
from conntrackd_guard.core.arithmetic import Arithmetic
from conntrackd_guard.core.budget import Cost
from conntrackd_guard.core.codec import verdict
from conntrackd_guard.core.health import READABLE, Level
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Corroboration, Observation, OverrideKind, Record, Table, TriggerKind
from conntrackd_guard.core.records import reason
from conntrackd_guard.core.usage import risen

TABLES_NAMED = 20
"""Tables with series of their own; all others are one sum. With six series each, a host has at most 126."""
COUNTERS = ("drop", "early_drop", "insert_failed", "clash_resolved", "chain_too_long")
"""The fields of a table that are exported as counters."""
_COUNTED = (
    ("drop", "drops_total", "Number of packets dropped because the table was full"),
    ("early_drop", "early_drop_total", "Number of dropped conntrack entries to make room for new ones"),
    (
        "insert_failed",
        "insert_failed_total",
        "Number of entries that could not be inserted, without those of long chains",
    ),
    ("clash_resolved", "clash_resolved_total", "Number of insert races that lost no packet"),
    ("chain_too_long", "chain_too_long_total", "Number of packets dropped because a hash chain was too long"),
)
"""Field, name and help of each."""
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


@dataclass(frozen=True, slots=True)
class Total:
    """A counter of one table: the kernel's, a sum of u32 counters, at the last reading; and a sum that doesn't wrap."""

    last: int
    sum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The counters of all tables, by their COUNTERS. None ever decreases, even if a table enters or leaves the fullest."""

    tables: Mapping[int, Mapping[str, Total]] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    """What tables counted while they were among the others."""


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
    totals: Totals
    decisions: Mapping[DecisionLabels, int]
    loop: LoopStatus


def known_decisions() -> dict[DecisionLabels, int]:
    """Return a counter of 0 for each usual kind of decision: `increase()` misses the first count of a new series."""
    triggers = (TriggerKind.KERNEL_MESSAGE, TriggerKind.FILLING_UP)
    evidence = (Corroboration.CONFIRMED, Corroboration.UNKNOWN)
    raised_for = [f"{trigger} {found}" for trigger in triggers for found in evidence]
    raises = [("raise", why, end) for why in (*raised_for, "restore", "min_limit") for end in ("applied", "rejected")]
    holds = [("hold", why.code, "none") for why in HoldReason]
    overrides = [("override", why.value, "applied") for why in OverrideKind]
    return dict.fromkeys((*raises, *holds, *overrides), 0)


def decision_labels(record: Record) -> DecisionLabels:
    """Return the labels under which a decision is counted."""
    return verdict(record.decision), reason(record), record.outcome.kind.value


def named_tables(observation: Observation) -> tuple[Table, ...]:
    """Return the tables with series of their own: the initial one and the fullest."""
    tables = sorted(observation.tables, key=lambda table: (not table.initial, -table.count, table.namespace))
    return tuple(tables[:TABLES_NAMED])


def count_up(before: Totals, observation: Observation) -> Totals:
    """Return the totals after another observation. A new table's series begins with its counters."""
    alone = {table.namespace for table in named_tables(observation)}
    tables: dict[int, Mapping[str, Total]] = {}
    others = dict(before.others)
    for table in observation.tables:
        known = before.tables.get(table.namespace, {})
        counters = {name: now for name in COUNTERS if (now := getattr(table, name)) is not None}
        first = {name: known.get(name, Total(now, now)) for name, now in counters.items()}
        rises = {name: risen(first[name].last, now) for name, now in counters.items()}
        tables[table.namespace] = {name: Total(now, first[name].sum + rises[name]) for name, now in counters.items()}
        if table.namespace not in alone:
            others |= {name: others[name] + rise for name, rise in rises.items()}
    return Totals(tables=tables, others=others)


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
    chain = chains.average(chains.alive(seen), seen.buckets) if seen.chain_limit is not False else None
    text = "Average length of a hash chain, in entries; from 24 on the kernel drops packets without a message."
    yield _gauge("average_chain_entries", text, chain)
    yield _gauge("tables", "Number of network namespaces that track connections.", len(seen.tables) + seen.idle_tables)


def _of_tables(figures: Figures) -> Iterator[Family]:
    """Yield usage and losses. The others have series from the start, so that `increase()` sees their first drop."""
    tables, totals = named_tables(figures.observation), figures.totals
    labelled = [((str(table.namespace), _name(table)), table) for table in tables]
    rest = sum(table.count for table in figures.observation.tables) - sum(table.count for table in tables)
    held = [*((labels, table.count) for labels, table in labelled), (OTHERS, rest)]
    whole = [("entries", Kind.GAUGE, "Number of currently allocated flow entries for connection tracking", held)]
    for counter, name, text in _COUNTED:
        known = [(labels, totals.tables.get(table.namespace, {}).get(counter)) for labels, table in labelled]
        counted = [(labels, total.sum) for labels, total in known if total is not None]
        if counter != "chain_too_long" or figures.observation.chain_limit is not False:
            whole.append((name, Kind.COUNTER, text, [*counted, (OTHERS, totals.others[counter])]))
    for name, kind, text, samples in whole:
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
