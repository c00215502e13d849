"""Decide a history's rows again: `decide` is pure, so a row's own evidence gives its verdict."""

from collections import Counter
from collections.abc import Sequence

from conntrackd_guard import __version__
from conntrackd_guard.core.codec import verdict
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Decision, Hold, OutcomeKind, Override, Raise, Record, TriggerKind
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.text import short
from conntrackd_guard.replay.model import Difference, Exact, HostInput, HostResult, Recorded, Step
from conntrackd_guard.replay.tally import Tally

MOST_DIFFERENCES = 20
MOST_VERSIONS = 10
"""Other versions of the guard that are named (judgement: more than one host ran in the time that a history keeps)."""
_LATER = frozenset({HoldReason.CHANGED_UNDER_US, HoldReason.NO_CONNTRACK})
"""Holds that the write itself ended in, after the policy had decided to raise."""


def redecide(host: HostInput, policies: Sequence[Policy | None]) -> list[HostResult]:
    """Return the row of a host with `exact` evidence under each policy, in one pass; None: each by its recorded one.

    The state before each decision is the recorded one: what another policy's own raises would have led to, only a
    simulation shows.
    """
    each = [_Redecision(host, policy) for policy in policies]
    for recorded in host.decisions:
        for one in each:
            one.take(recorded)
    return [one.result() for one in each]


class _Redecision:
    """One policy's row."""

    def __init__(self, host: HostInput, policy: Policy | None) -> None:
        self._policy = policy
        self._tally = Tally(host, policy or Policy())
        self._counted, self._versions = Counter[str](), Counter[str]()
        self._differences: list[Difference] = []

    def take(self, recorded: Recorded) -> None:
        """Decide a row again."""
        self._counted["rows"] += 1
        record, used = recorded.record, self._policy or recorded.policy
        if record is None or used is None:
            self._counted["unreadable"] += 1
            return
        self._tally.at(record.observation.wall_seconds)
        if isinstance(record.decision, Override):
            self._counted["overrides"] += 1
            return
        decision: Decision = record.decision
        if recorded.guard_version != __version__ and self._policy is None:
            name = short(recorded.guard_version)
            is_named = name in self._versions or len(self._versions) < MOST_VERSIONS
            self._versions[name if is_named else "others"] += 1
        else:
            decision = decide(record.trigger, record.observation, record.state, used)
            is_same = _same(record, decision)
            self._counted["same" if is_same else "different"] += 1
            if not is_same and len(self._differences) < MOST_DIFFERENCES:
                self._differences.append(_difference(recorded, record, decision))
            decision = record.decision if is_same else decision
        _count(self._tally, record, decision)

    def result(self) -> HostResult:
        """Return the row."""
        counted = self._counted
        exact = Exact(
            rows=counted["rows"],
            same=counted["same"],
            different=counted["different"],
            overrides=counted["overrides"],
            unreadable=counted["unreadable"],
            other_versions=dict(sorted(self._versions.items())),
            differences=tuple(self._differences),
        )
        return self._tally.result(exact=exact)


def _same(record: Record, decision: Decision) -> bool:
    """Return whether the policy gives the recorded verdict. The write's own end is the kernel's answer, no verdict."""
    before = record.decision
    if isinstance(before, Hold) and before.reason in _LATER and isinstance(decision, Raise):
        return True
    if isinstance(before, Raise) and isinstance(decision, Raise):
        return before.target == decision.target and before.buckets_target == decision.buckets_target
    return isinstance(before, Hold) and isinstance(decision, Hold) and before.reason is decision.reason


def _difference(recorded: Recorded, record: Record, decision: Decision) -> Difference:
    at = record.observation.wall_seconds
    return Difference(row=recorded.row, at=at, recorded=_text(record.decision), replayed=_text(decision))


def _text(decision: Decision) -> str:
    match decision:
        case Raise(target=target):
            return f"raise to {target:,}"
        case Hold(reason=why):
            return f"hold {why.code}"
    return verdict(decision)


def _count(tally: Tally, record: Record, decision: Decision) -> None:
    """Take a decision, as the policy makes it, into the row."""
    seen, trigger = record.observation, record.trigger
    if trigger.kind is TriggerKind.KERNEL_MESSAGE:
        tally.messages += trigger.message_count  # repeats of a row are also decisions made again without a new message
    tally.limit(seen.limit)
    tally.causes[trigger.kind.value] += 1
    if isinstance(decision, Raise):
        refused = record.decision is decision and record.outcome.kind is OutcomeKind.REJECTED
        if not refused:
            tally.raised(
                Step(at=seen.wall_seconds, before=seen.limit or 0, target=decision.target, cause=trigger.kind.value)
            )
            tally.cost(seen, decision.target)
    elif isinstance(decision, Hold):
        tally.held(decision.reason, decision.advice)
