"""What a host should be set to, by the very policy that runs there. Pure: every figure is one of `policy` or `budget`."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from conntrackd_guard.core import budget
from conntrackd_guard.core.arithmetic import Arithmetic
from conntrackd_guard.core.configuration import Buckets, Policy
from conntrackd_guard.core.errors import AnswerIsNo
from conntrackd_guard.core.kernel_default import default_buckets, default_limit
from conntrackd_guard.core.limits import is_unlimited
from conntrackd_guard.core.model import LoadFacts, Observation, Raise, State
from conntrackd_guard.core.policy import decide_if_full

if TYPE_CHECKING:  # 10 ms that a host without a sample does without
    from conntrackd_guard.core.traffic.diagnosis import Finding, Step

_SLAB_BYTES = 256
"""Of an entry on 64-bit kernels (5.10 to 6.18)."""
LIMIT_KEY, BUCKETS_KEY = "net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most entries that the fullest table is expected to hold, and how that is known."""

    entries: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The limit to start with, what goes with it, and how far raising can go from there."""

    observation: Observation
    """What it is calculated from; without a limit in force, with the kernel's default."""
    policy: Policy
    is_described: bool
    """Whether the host was described rather than read."""
    in_force: int | None
    """The limit in force; None for a described host, or if nothing is tracked yet."""
    cpus: int | None
    peak: Peak
    needed: Arithmetic | None
    """The step that the guard would take if the peak filled the table; None without a peak."""
    limit: int
    """The limit to start with."""
    buckets: int | None
    """The hash buckets to go with it."""
    full: Arithmetic
    """The calculation of a full table at that limit, with those buckets."""
    reach: Arithmetic
    """The highest limit that the policy can raise to from there, with those buckets."""
    reach_full: Arithmetic
    """The calculation of a full table at that one."""
    highest: Arithmetic
    """The highest affordable limit with as many buckets as it takes."""
    findings: "tuple[Finding, ...]" = ()
    """Of a sample of the fullest table, if one was taken."""

    @property
    def timeouts(self) -> "tuple[Step, ...]":
        """Steps that shorten a timeout, for which the sample shows the reason."""
        return tuple(step for finding in self.findings for step in finding.steps if "_timeout" in step.command)

    @property
    def is_too_high(self) -> bool:
        """Whether the limit in force is more than the host can bear."""
        return self.in_force is not None and (is_unlimited(self.in_force) or self.in_force > self.limit)

    def values(self) -> dict[str, int]:
        """Return the sysctl values to set on the host, in the order in which they have to be set."""
        found = {} if self.buckets is None else {BUCKETS_KEY: self.buckets}
        found[LIMIT_KEY] = self.limit
        for step in self.timeouts:
            name, _, value = step.command.removeprefix("sysctl -w ").partition("=")
            if step.command.startswith("sysctl "):  # not inside another namespace
                found[name] = int(value)
        return found


def recommend(  # noqa: PLR0913 - the facts that it depends on
    observation: Observation,
    policy: Policy,
    peak: Peak,
    *,
    load: LoadFacts,
    is_described: bool,
    cpus: int | None,
    findings: "tuple[Finding, ...]" = (),
) -> Recommendation:
    """Return what the host should be set to. Raises AnswerIsNo if its memory is unknown, or too little for any table."""
    total = observation.memory_total_bytes
    if observation.memory_unknown:
        raise AnswerIsNo(
            f"The memory of this host can't be read ({observation.memory_unknown}): nothing can be calculated."
        )
    buckets = observation.buckets or default_buckets(load, total)
    limit = observation.limit
    if limit is None or is_unlimited(limit):
        limit = default_limit(load, buckets, total) or buckets
    default_or_set = limit
    seen = replace(observation, limit=limit, kernel_limit=limit, buckets=buckets, pause=None)
    matched = replace(policy, buckets=Buckets.MATCH)
    total_full, bearable = _at(seen, limit, matched)
    if bearable < 1:
        text = f"This host can bear no table at all: {total_full.bound} allows none."
        raise AnswerIsNo(f"{text} Free or add memory, or change that setting.")
    if bearable < limit:  # a table that fills such a limit leaves nothing to raise with
        limit = bearable
        seen = replace(seen, limit=limit, kernel_limit=limit)
    highest = _highest(seen, matched)
    needed, start = None, limit
    if peak.entries:
        needed = _needed(seen, peak.entries, matched)
        start = max(limit, peak.entries if needed is None else needed.target)
    start = min(start, highest.target)
    full, _ = _at(seen, start, matched)
    buckets = full.buckets_target or buckets
    reach = _highest(replace(seen, buckets=buckets), policy)
    return Recommendation(
        observation=replace(seen, limit=default_or_set),
        policy=policy,
        is_described=is_described,
        in_force=None if is_described else observation.limit,
        cpus=cpus,
        peak=peak,
        needed=needed,
        limit=start,
        buckets=buckets,
        full=full,
        reach=reach,
        reach_full=_at(replace(seen, buckets=buckets), reach.target, policy)[0],
        highest=highest,
        findings=findings,
    )


def describe(
    policy: Policy, memory_bytes: int, buckets: int | None, cpus: int | None, entries: int | None
) -> Recommendation:
    """Return the recommendation for a 64-bit host with that memory, all of it available. Raises AnswerIsNo."""
    seen = Observation(
        boottime_seconds=0.0,
        wall_seconds=0.0,
        boot_id="",
        limit=None,
        kernel_limit=None,
        buckets=buckets,
        entry_slab_bytes=_SLAB_BYTES,
        memory_total_bytes=memory_bytes,
        memory_available_bytes=memory_bytes,
    )
    peak = Peak(entries=entries or 0, source="--entries")
    return recommend(seen, policy, peak, load=LoadFacts(), is_described=True, cpus=cpus)


def _highest(seen: Observation, policy: Policy) -> Arithmetic:
    found = budget.highest_affordable(seen, policy)
    assert found is not None  # noqa: S101 - None without a limit or without memory only
    return found


def _at(seen: Observation, limit: int, policy: Policy) -> tuple[Arithmetic, int]:
    """Return the calculation of a full table at that limit, and the highest up to it that the host can bear."""
    found = budget.at_limit(replace(seen, limit=limit, kernel_limit=limit), policy)
    assert found is not None  # noqa: S101 - as above
    return found


def _needed(seen: Observation, peak: int, policy: Policy) -> Arithmetic | None:
    """Return the calculation of what the guard would do if that many entries filled the fullest table."""
    decision = decide_if_full(replace(seen, limit=peak, kernel_limit=peak), State(), policy)
    return decision.arithmetic if isinstance(decision, Raise) else None
