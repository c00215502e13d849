"""What fills a table, and whether raising the limit would help. Pure: rules over a sample and counters."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from conntrackd_guard.core.budget import CHAIN_HOLD
from conntrackd_guard.core.traffic.sample import IDLE_SECONDS, Sample
from conntrackd_guard.core.units import format_duration

LEAST_SEEN = 100
"""A smaller sample has a margin of more than ten points."""
MOST = 0.5


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
    """Between the readings; 0 if there were no two."""
    insert_failed: int = 0
    chain_too_long: int = 0


NO_SAMPLE = Sample(table_entries=0, seen=0)
NO_LOSSES = Losses(seconds=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Input of a diagnosis."""

    sample: Sample = NO_SAMPLE
    losses: Losses = NO_LOSSES
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
    """One cause, found if `measure` is at least `least`. A measure is 0 if unknown."""

    cause: Cause
    measure: Callable[[Evidence], float]
    least: float = 1.0
    figure: Callable[[Evidence], str]
    of_sample: bool = False
    """Whether it measures a share of the entries, not counters."""


def _share_rule(cause: Cause, count: Callable[[Sample], int], what: str) -> Rule:
    """Return the rule for entries that are more than half of a table: without them, usage would be less than half."""

    def measure(evidence: Evidence) -> float:
        sample = evidence.sample
        return 0.0 if sample.seen < LEAST_SEEN else sample.share(count(sample)) - sample.margin

    def figure(evidence: Evidence) -> str:
        sample = evidence.sample
        points = f" (± {100 * sample.margin:.1f} points)" if sample.margin else ""
        return f"{100 * sample.share(count(sample)):.1f} %{points} of the entries {what}"

    return Rule(cause=cause, measure=measure, least=MOST, figure=figure, of_sample=True)


def _long_chains(evidence: Evidence) -> float:
    return 1.0 if evidence.losses.chain_too_long else (evidence.chain or 0.0) / CHAIN_HOLD


def _chains_figure(evidence: Evidence) -> str:
    lost = evidence.losses.chain_too_long
    dropped = f"{lost:,} packets lost to long chains between two readings; " if lost else ""
    chain = "unknown" if evidence.chain is None else f"{evidence.chain:.1f}"
    return f"{dropped}average chain {chain} (drops begin at {CHAIN_HOLD})"


def _failed_a_second(evidence: Evidence) -> float:
    losses = evidence.losses
    return losses.insert_failed / losses.seconds if losses.seconds > 0 else 0.0


def _races_figure(evidence: Evidence) -> str:
    losses = evidence.losses
    return f"insert_failed rose by {losses.insert_failed:,} within {format_duration(losses.seconds)}"


_IDLE = f"are established TCP connections without a packet for {format_duration(IDLE_SECONDS)} or more"

RULES = (
    _share_rule(Cause.FLOOD, lambda sample: sample.unanswered, "are unanswered or half-open"),
    # Each chaintoolong is a lost packet; from an average of 24 on, inserts are lost (1e-7).
    Rule(cause=Cause.CHAINS, measure=_long_chains, figure=_chains_figure),
    _share_rule(Cause.LEAK, lambda sample: sample.idle, _IDLE),
    _share_rule(Cause.DNS, lambda sample: sample.dns, "are UDP to port 53"),
    # Judgement: each lost packet may cost a resolver its timeout of 5 s.
    Rule(cause=Cause.RACES, measure=_failed_a_second, figure=_races_figure),
    _share_rule(Cause.GROW, lambda sample: sample.assured - sample.idle, "are assured and not idle"),
)
"""Most serious first: causes that speak against raising come before the one that speaks for it."""


def causes(evidence: Evidence) -> tuple[Cause, ...]:
    """Return every cause found, most serious first; `unclear` if none is."""
    return tuple(rule.cause for rule in RULES if rule.measure(evidence) >= rule.least) or (Cause.UNCLEAR,)


def figures(cause: Cause, evidence: Evidence) -> tuple[str, ...]:
    """Return the figures of a cause; for `unclear` every share, as none is large enough."""
    if cause is not Cause.UNCLEAR:
        return tuple(rule.figure(evidence) for rule in RULES if rule.cause is cause)
    if evidence.sample.seen < LEAST_SEEN:
        return (f"{evidence.sample.seen} entries are too few ({LEAST_SEEN} needed)",)
    return tuple(rule.figure(evidence) for rule in RULES if rule.of_sample)
