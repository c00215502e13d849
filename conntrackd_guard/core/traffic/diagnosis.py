"""What a table is full of, and whether raising the limit is the cure. Pure: rules over a sample and counters.

A verdict is what the guard decides (raise, hold); a diagnosis is what it thinks of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from conntrackd_guard.core.budget import CHAIN_HOLD
from conntrackd_guard.core.traffic.sample import IDLE_SECONDS, Sample
from conntrackd_guard.core.units import format_duration

LEAST_SEEN = 100
"""Entries below which a sample says nothing: its margin is ten points."""


class Cause(StrEnum):
    """What fills a table, or keeps packets from it; the order is that of the rules."""

    FLOOD = "flood"
    CHAINS = "chains"
    LEAK = "leak"
    DNS = "dns"
    RACES = "races"
    GROW = "grow"
    UNCLEAR = "unclear"


MEANINGS = {
    Cause.FLOOD: "Most flows are never answered: a flood or a scan. Raising the limit feeds it.",
    Cause.CHAINS: "Hash chains are so long that packets drop without a log line. Raising alone makes them longer.",
    Cause.LEAK: "Most flows have been silent for hours and are kept for days. Raising only puts it off.",
    Cause.DNS: "Most entries are DNS questions, which need none.",
    Cause.RACES: "New flows lose races for their entries, which no limit cures. Mostly it is DNS behind NAT.",
    Cause.GROW: "Most flows are alive in both directions. Raising the limit is right.",
    Cause.UNCLEAR: "No cause explains half of the table.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What a table's counters rose by between two looks."""

    seconds: float
    """Between the looks."""
    insert_failed: int = 0
    chain_too_long: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a diagnosis is made from."""

    sample: Sample | None = None
    losses: Losses | None = None
    in_use: int = 0
    """Entries of all namespaces: they share the hash table."""
    buckets: int | None = None
    inside: str = ""
    """The words that run a command inside the table's namespace, such as `ip netns exec web `."""
    namespace: str = ""
    """What `guard top --namespace` takes for it; empty for the initial one."""

    @property
    def chain(self) -> float | None:
        """The average hash chain: every entry stands in it twice."""
        return 2 * self.in_use / self.buckets if self.buckets else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something to do: why, and a command for it, empty where none fits every host."""

    why: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A cause, what led to it, and what to do about it."""

    cause: Cause
    meaning: str
    figures: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One cause: it is found where `measure` is at least `least`. A measure of None can't be told."""

    cause: Cause
    measure: Callable[[Evidence], float | None]
    least: float
    figure: Callable[[Evidence], str]
    source: str
    """Where the threshold comes from."""
    of_sample: bool = True
    """It measures a share of the entries, not counters."""


def _share_of(count: Callable[[Sample], int]) -> Callable[[Evidence], float | None]:
    """Return the measure of what a sample counts: the least that its share of the table can be."""

    def measure(evidence: Evidence) -> float | None:
        sample = evidence.sample
        if sample is None or sample.seen < LEAST_SEEN:
            return None
        return sample.share(count(sample)) - sample.margin

    return measure


def _share_figure(count: Callable[[Sample], int], what: str) -> Callable[[Evidence], str]:
    def figure(evidence: Evidence) -> str:
        sample = evidence.sample or Sample(table_entries=0, seen=0)
        points = f" (± {100 * sample.margin:.1f} points)" if sample.margin else ""
        return f"{100 * sample.share(count(sample)):.1f} %{points} of the entries {what}"

    return figure


def _fresh(sample: Sample) -> int:
    return sample.assured - sample.idle


def _long_chains(evidence: Evidence) -> float | None:
    lost = evidence.losses.chain_too_long if evidence.losses else 0
    return 1.0 if lost else None if evidence.chain is None else evidence.chain / CHAIN_HOLD


def _chains_figure(evidence: Evidence) -> str:
    lost = evidence.losses.chain_too_long if evidence.losses else 0
    dropped = f"{lost:,} packets lost to long chains while watched; " if lost else ""
    chain = "unknown" if evidence.chain is None else f"{evidence.chain:.1f}"
    return f"{dropped}the average chain is {chain} (drops begin at {CHAIN_HOLD})"


def _failed_a_second(evidence: Evidence) -> float | None:
    losses = evidence.losses
    return None if losses is None or losses.seconds <= 0 else losses.insert_failed / losses.seconds


def _races_figure(evidence: Evidence) -> str:
    losses = evidence.losses or Losses(seconds=0.0)
    return f"insert_failed rose by {losses.insert_failed:,} within {format_duration(losses.seconds)}"


_MOST = 0.5
_MOST_SOURCE = "more than half: with that cause gone, the table would be under half its use."
_SILENT = f"are established TCP flows without a packet for {format_duration(IDLE_SECONDS)} or more"

RULES = (
    Rule(
        cause=Cause.FLOOD, measure=_share_of(lambda sample: sample.unanswered), least=_MOST,
        figure=_share_figure(lambda sample: sample.unanswered, "have no answer, or a handshake half done"),
        source=_MOST_SOURCE,
    ),
    Rule(
        cause=Cause.CHAINS, measure=_long_chains, least=1.0, figure=_chains_figure, of_sample=False,
        source="every rise of chaintoolong is a lost packet; by an average of 24 inserts begin to be lost (1e-7).",
    ),
    Rule(
        cause=Cause.LEAK, measure=_share_of(lambda sample: sample.idle), least=_MOST,
        figure=_share_figure(lambda sample: sample.idle, _SILENT),
        source=_MOST_SOURCE,
    ),
    Rule(
        cause=Cause.DNS, measure=_share_of(lambda sample: sample.dns), least=_MOST,
        figure=_share_figure(lambda sample: sample.dns, "are UDP to port 53"),
        source=_MOST_SOURCE,
    ),
    Rule(
        cause=Cause.RACES, measure=_failed_a_second, least=1.0, figure=_races_figure, of_sample=False,
        source="judgement: one lost packet a second is a resolver's timeout of 5 s for somebody each second.",
    ),
    Rule(
        cause=Cause.GROW, measure=_share_of(_fresh), least=_MOST,
        figure=_share_figure(_fresh, "are assured flows that are not silent"),
        source=_MOST_SOURCE,
    ),
)  # fmt: skip
"""In the order of what a reader must know first: what makes raising wrong stands above what makes it right."""


def causes(evidence: Evidence) -> tuple[Cause, ...]:
    """Return every cause that holds, the gravest first; `unclear` where none does."""
    found = tuple(rule.cause for rule in RULES if _holds(rule, evidence))
    return found or (Cause.UNCLEAR,)


def figures(cause: Cause, evidence: Evidence) -> tuple[str, ...]:
    """Return what led to that cause; for `unclear` every share that was not enough."""
    if cause is not Cause.UNCLEAR:
        return tuple(rule.figure(evidence) for rule in RULES if rule.cause is cause)
    if evidence.sample is None:
        return ("no entry could be read",)
    if evidence.sample.seen < LEAST_SEEN:
        return (f"{evidence.sample.seen} entries are too few to tell ({LEAST_SEEN} at least)",)
    return tuple(rule.figure(evidence) for rule in RULES if rule.of_sample)


def _holds(rule: Rule, evidence: Evidence) -> bool:
    measured = rule.measure(evidence)
    return measured is not None and measured >= rule.least
