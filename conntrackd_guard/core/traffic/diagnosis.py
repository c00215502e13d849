"""What fills a table, and whether raising the limit would help. Pure: rules over a sample and counters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from conntrackd_guard.core.chains import CHAIN_HOLD
from conntrackd_guard.core.traffic.sample import IDLE_SECONDS, Sample
from conntrackd_guard.core.units import format_duration

LEAST_SEEN = 100
"""A smaller sample has a margin of more than ten points."""
MOST = 0.5
UNLISTED_SHARE = 0.25
"""Judgement: new entries in flight, queued packets (NFQUEUE: 1,024 a queue by default) and entries whose end no listener has
taken yet are counted and not listed either, but are no quarter of a table."""


class Cause(StrEnum):
    """What fills a table, or drops packets before it is full.

    Most serious first: causes that speak against raising come before the one that speaks for it.
    """

    UNLISTED = "unlisted"
    FLOOD = "flood"
    CHAINS = "chains"
    LEAK = "leak"
    DNS = "dns"
    RACES = "races"
    GROW = "grow"
    UNCLEAR = "unclear"


_WHAT = {
    Cause.UNLISTED: "Entries are counted that no listing shows: something in the kernel keeps them.",
    Cause.FLOOD: "Most connections are unanswered, as in a flood or a scan.",
    Cause.CHAINS: "Hash chains are so long that packets are dropped without a message.",
    Cause.LEAK: "Most connections have been idle for hours.",
    Cause.DNS: "Most entries are DNS queries.",
    Cause.RACES: "New connections lose insert races, usually DNS behind NAT.",
    Cause.GROW: "Most connections are alive in both directions.",
    Cause.UNCLEAR: "No cause explains half of the table.",
}
EFFECTS = {
    Cause.UNLISTED: "Raising the limit only delays the problem.",
    Cause.FLOOD: "Raising the limit feeds it.",
    Cause.CHAINS: "Raising the limit makes them longer.",
    Cause.LEAK: "Raising the limit only delays the problem.",
    Cause.DNS: "They need no tracking, unless NAT translates them.",
    Cause.RACES: "No limit helps.",
    Cause.GROW: "Raising the limit helps.",
    Cause.UNCLEAR: "",
}
"""What follows, for a reader who knows the cause."""
MEANINGS = {cause: f"{what} {EFFECTS[cause]}".rstrip() for cause, what in _WHAT.items()}
DESCRIPTIONS = {
    Cause.UNLISTED: "counts entries that no listing shows",
    Cause.FLOOD: "is filling with unanswered connections",
    Cause.CHAINS: "is losing packets in long hash chains",
    Cause.LEAK: "is filling with idle connections",
    Cause.DNS: "is filling with DNS queries",
    Cause.RACES: "is losing packets in insert races",
    Cause.GROW: "is filling with live connections",
    Cause.UNCLEAR: "has no dominant kind of entry",
}
"""For a sentence that begins with the table."""


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
    timeouts: Mapping[str, int] = field(default_factory=dict)
    """The table's own timeouts in seconds, by sysctl; without those that can't be read."""
    own_sources: frozenset[str] | None = None
    """Sources in the sample that are this host's, the namespace's or loopback: never to be dropped. None: unknown."""
    namespace: str = ""
    """Value for `guard top --namespace`; empty for the initial one."""
    unlisted: int = 0
    """Entries counted before and after a whole listing, but not in it."""
    impossible: str = ""
    """Why the count can't be true, if so."""

    @property
    def chain(self) -> float | None:
        """Average length of a hash chain; every entry is in two chains."""
        return 2 * self.in_use / self.buckets if self.buckets else None

    @property
    def unlisted_share(self) -> float:
        """Return the unlisted entries as a share of the table (0 to 1)."""
        return self.unlisted / max(1, self.unlisted, self.sample.table_entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step to take: its purpose, and its command, empty if it differs from host to host."""

    why: str
    command: str = ""
    undo: str = ""
    """The command that takes it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A cause with its figures and the steps to take."""

    cause: Cause
    meaning: str
    figures: tuple[str, ...]
    steps: tuple[Step, ...]


def figures(evidence: Evidence) -> dict[Cause, tuple[str, ...]]:
    """Return the figures of every cause found, most serious first; for `unclear`, if none is, those of all shares.

    A share counts only if it is more than half even at the lower end of the margin: without those entries, usage would
    be less than half.
    """
    sample, losses, chain = evidence.sample, evidence.losses, evidence.chain
    idle = f"are established TCP connections without a packet for {format_duration(IDLE_SECONDS)} or more"
    points = f" (± {100 * sample.margin:.1f} points)" if sample.margin else ""
    found: dict[Cause, str] = {}
    shares = []
    for cause, count, what in (
        (Cause.FLOOD, sample.unanswered, "are unanswered or half-open"),
        (Cause.LEAK, sample.idle, idle),
        (Cause.DNS, sample.dns, "are UDP to port 53"),
        (Cause.GROW, sample.assured - sample.idle, "are assured and not idle"),
    ):
        share = sample.share(count)
        shares.append(f"{100 * share:.1f} %{points} of the entries {what}")
        if sample.seen >= LEAST_SEEN and (share - sample.margin) * (1 - evidence.unlisted_share) >= MOST:
            found[cause] = shares[-1]
    if evidence.impossible:
        found[Cause.UNLISTED] = evidence.impossible
    elif evidence.unlisted >= LEAST_SEEN and evidence.unlisted_share >= UNLISTED_SHARE:
        found[Cause.UNLISTED] = f"{evidence.unlisted:,} of {sample.table_entries:,} counted entries are not listed"
    # Each chaintoolong is a lost packet; from an average of 24 on, inserts are lost (1e-7).
    lost = losses.chain_too_long
    if lost or (chain is not None and chain >= CHAIN_HOLD):
        dropped = f"{lost:,} packets lost to long chains between two readings; " if lost else ""
        average = "unknown" if chain is None else f"{chain:.1f}"
        found[Cause.CHAINS] = f"{dropped}average chain {average} (drops begin at {CHAIN_HOLD})"
    # Judgement: each lost packet may cost a resolver its timeout of 5 s.
    if losses.seconds > 0 and losses.insert_failed / losses.seconds >= 1:
        within = format_duration(losses.seconds)
        found[Cause.RACES] = f"insert_failed rose by {losses.insert_failed:,} within {within}"
    if found:
        return {cause: (found[cause],) for cause in Cause if cause in found}
    few = f"{sample.seen} entries are too few ({LEAST_SEEN} needed)"
    return {Cause.UNCLEAR: (few,) if sample.seen < LEAST_SEEN else tuple(shares)}


def causes(evidence: Evidence) -> tuple[Cause, ...]:
    """Return every cause found, most serious first; `unclear` if none is."""
    return tuple(figures(evidence))
