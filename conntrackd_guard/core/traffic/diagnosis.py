"""What fills a table, and whether raising the limit would help. Pure: rules over a sample and counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from conntrackd_guard.core.budget import CHAIN_HOLD
from conntrackd_guard.core.traffic.sample import IDLE_SECONDS, Sample
from conntrackd_guard.core.units import format_duration

LEAST_SEEN = 100
"""A smaller sample has a margin of more than ten points."""


class Cause(StrEnum):
    """What fills a table, or drops packets before it is full; in the order of the rules."""

    FLOOD = "flood"
    CHAINS = "chains"
    LEAK = "leak"
    DNS = "dns"
    RACES = "races"
    GROW = "grow"
    UNCLEAR = "unclear"


MEANINGS = {
    Cause.FLOOD: "Most connections are unanswered, as in a flood or a scan. Raising the limit feeds it.",
    Cause.CHAINS: "Hash chains are so long that packets are dropped without a message. Raising makes them longer.",
    Cause.LEAK: "Most connections have been idle for hours. Raising the limit only delays the problem.",
    Cause.DNS: "Most entries are DNS queries, which need not be tracked.",
    Cause.RACES: "New connections lose insert races, usually DNS behind NAT. No limit helps.",
    Cause.GROW: "Most connections are alive in both directions. Raising the limit helps.",
    Cause.UNCLEAR: "No cause explains half of the table.",
}
DESCRIPTIONS = {
    Cause.FLOOD: "is filling with unanswered connections",
    Cause.CHAINS: "is losing packets in long hash chains",
    Cause.LEAK: "is filling with idle connections",
    Cause.DNS: "is filling with DNS queries",
    Cause.RACES: "is losing packets in insert races",
    Cause.GROW: "is filling with live connections",
    Cause.UNCLEAR: "has no dominant kind of entry",
}
"""For a sentence that begins with the table's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Increase of a table's loss counters between two readings."""

    seconds: float
    """Between the readings."""
    insert_failed: int = 0
    chain_too_long: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Input of a diagnosis."""

    sample: Sample | None = None
    losses: Losses | None = None
    in_use: int = 0
    """Entries of all namespaces, which share the hash table."""
    buckets: int | None = None
    inside: str = ""
    """Command prefix that enters the table's namespace, such as `ip netns exec web `."""
    namespace: str = ""
    """Value for `guard top --namespace`; empty for the initial one."""

    @property
    def chain(self) -> float | None:
        """Average length of a hash chain; every entry is in two chains."""
        return 2 * self.in_use / self.buckets if self.buckets else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step to take: its purpose, and its command, empty if it differs from host to host."""

    why: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A cause with its figures and the steps to take."""

    cause: Cause
    meaning: str
    figures: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One cause, found if `measure` is at least `least`. A measure is None if unknown."""

    cause: Cause
    measure: Callable[[Evidence], float | None]
    least: float
    figure: Callable[[Evidence], str]
    source: str
    """Where the threshold comes from."""
    of_sample: bool = True
    """Whether it measures a share of the entries, not counters."""


def _share_of(count: Callable[[Sample], int]) -> Callable[[Evidence], float | None]:
    """Return the measure of a count in the sample: the lower bound of its share of the table."""

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
    dropped = f"{lost:,} packets lost to long chains between two readings; " if lost else ""
    chain = "unknown" if evidence.chain is None else f"{evidence.chain:.1f}"
    return f"{dropped}average chain {chain} (drops begin at {CHAIN_HOLD})"


def _failed_a_second(evidence: Evidence) -> float | None:
    losses = evidence.losses
    return None if losses is None or losses.seconds <= 0 else losses.insert_failed / losses.seconds


def _races_figure(evidence: Evidence) -> str:
    losses = evidence.losses or Losses(seconds=0.0)
    return f"insert_failed rose by {losses.insert_failed:,} within {format_duration(losses.seconds)}"


_MOST = 0.5
_MOST_SOURCE = "more than half: without this cause, usage would be less than half."
_IDLE = f"are established TCP connections without a packet for {format_duration(IDLE_SECONDS)} or more"

RULES = (
    Rule(
        cause=Cause.FLOOD, measure=_share_of(lambda sample: sample.unanswered), least=_MOST,
        figure=_share_figure(lambda sample: sample.unanswered, "are unanswered or half-open"),
        source=_MOST_SOURCE,
    ),
    Rule(
        cause=Cause.CHAINS, measure=_long_chains, least=1.0, figure=_chains_figure, of_sample=False,
        source="each chaintoolong is a lost packet; from an average of 24 on, inserts are lost (1e-7).",
    ),
    Rule(
        cause=Cause.LEAK, measure=_share_of(lambda sample: sample.idle), least=_MOST,
        figure=_share_figure(lambda sample: sample.idle, _IDLE),
        source=_MOST_SOURCE,
    ),
    Rule(
        cause=Cause.DNS, measure=_share_of(lambda sample: sample.dns), least=_MOST,
        figure=_share_figure(lambda sample: sample.dns, "are UDP to port 53"),
        source=_MOST_SOURCE,
    ),
    Rule(
        cause=Cause.RACES, measure=_failed_a_second, least=1.0, figure=_races_figure, of_sample=False,
        source="judgement: each lost packet may cost a resolver its timeout of 5 s.",
    ),
    Rule(
        cause=Cause.GROW, measure=_share_of(_fresh), least=_MOST,
        figure=_share_figure(_fresh, "are assured and not idle"),
        source=_MOST_SOURCE,
    ),
)  # fmt: skip
"""Most serious first: causes that speak against raising come before the one that speaks for it."""


def causes(evidence: Evidence) -> tuple[Cause, ...]:
    """Return every cause found, most serious first; `unclear` if none is."""
    found = tuple(rule.cause for rule in RULES if _holds(rule, evidence))
    return found or (Cause.UNCLEAR,)


def figures(cause: Cause, evidence: Evidence) -> tuple[str, ...]:
    """Return the figures of a cause; for `unclear` every share, as none is large enough."""
    if cause is not Cause.UNCLEAR:
        return tuple(rule.figure(evidence) for rule in RULES if rule.cause is cause)
    if evidence.sample is None:
        return ("no entry could be read",)
    if evidence.sample.seen < LEAST_SEEN:
        return (f"{evidence.sample.seen} entries are too few ({LEAST_SEEN} needed)",)
    return tuple(rule.figure(evidence) for rule in RULES if rule.of_sample)


def _holds(rule: Rule, evidence: Evidence) -> bool:
    measured = rule.measure(evidence)
    return measured is not None and measured >= rule.least
