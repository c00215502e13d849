"""An episode: one namespace's need, from its first trigger until ten quiet seconds. Pure.

The kernel may print ten messages in a millisecond and then none for five seconds, so a need is a
level, not an edge: an episode stays open and is decided again at `due_seconds`, without a new message.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from conntrackd_guard.core.assessment import is_full, presses
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Corroboration, Hold, Raise, Table, Trigger, TriggerKind
from conntrackd_guard.core.usage import QUIET_SECONDS, is_stable

_SHORTENED = frozenset({HoldReason.STABLE, HoldReason.COOLDOWN, HoldReason.RATE_LIMITED, HoldReason.CHANGED_UNDER_US})


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One namespace's need; `namespace` is None for messages that name none."""

    namespace: int | None
    needed_seconds: float
    """The last moment at which there was a need."""
    due_seconds: float | None = None
    """When to decide (again); None: when the counters show need again."""
    message: Trigger | None = None
    """The newest message, to decide about it again; a decision has counted it."""
    unanswered: bool = False
    """A message came that no raise and no final hold has answered."""
    reason: HoldReason | None = None
    """The last decision's, None after a raise or before the first."""

    def trigger(self, *, raise_early: bool) -> Trigger:
        """Return the trigger to decide on: an unanswered message (or any without `raise_early`), else the counters."""
        if self.message is None or (raise_early and not self.unanswered):
            return Trigger(kind=TriggerKind.FILLING_UP, namespace=self.namespace)
        return self.message


Episodes = Mapping[int | None, Episode]


def on_message(episode: Episode | None, message: Trigger, decision: Raise | Hold, now: float) -> Episode:
    """Open or refresh an episode by a new message and the decision about it."""
    before = episode or Episode(namespace=message.namespace, needed_seconds=now)
    answered = replace(before, message=replace(message, message_count=0), unanswered=True, needed_seconds=now)
    return on_decision(answered, decision)


def on_tables(  # noqa: PLR0913, PLR0917 - everything that a look at the tables is judged by
    episodes: Episodes, tables: Iterable[Table], limit: int, kernel_limit: int, policy: Policy, now: float
) -> dict[int | None, Episode]:
    """Return the episodes after a look at the tables: opened, refreshed, or over."""
    after = dict(episodes)
    for table in tables:
        for name in {table.namespace, None} & after.keys():
            opened = after[name]
            by_message = opened.message is not None and not policy.raise_early and (name is None or table.placed)
            if by_message and is_full(table, kernel_limit, policy):
                after[name] = on_need(opened, name, now, urgent=True)
        known = after.get(table.namespace)
        count, demand = table.count, table.demand_per_second
        if policy.raise_early and presses(count, limit, demand, policy, already=known is not None):
            urgent = bool(table.dropped) or not is_stable(count, limit, demand)
            after[table.namespace] = on_need(known, table.namespace, now, urgent=urgent)
    return {name: known for name, known in after.items() if not is_over(known, now)}


def on_need(episode: Episode | None, namespace: int | None, now: float, *, urgent: bool) -> Episode:
    """Open or refresh an episode by need that the counters show.

    It is decided at once when it is new, or when the last decision ended the matter (a raise, say)
    and there is need again. A hold named its own time, which only urgency shortens, and only
    for the holds that judge urgency.
    """
    if episode is None:
        return Episode(namespace=namespace, needed_seconds=now, due_seconds=now)
    if episode.due_seconds is None or (urgent and episode.reason in _SHORTENED):
        return replace(episode, needed_seconds=now, due_seconds=now)
    return replace(episode, needed_seconds=now)


def on_decision(episode: Episode, decision: Raise | Hold) -> Episode:
    """Return the episode after a decision. After a raise or a final hold, only new need makes it due again.

    A decision that could judge its table answers the message for good: the namespace may be gone at the next one.
    """
    message = episode.message
    if message is not None and decision.corroboration in {Corroboration.CONFIRMED, Corroboration.CONTRADICTED}:
        message = replace(message, judged=True)
    if isinstance(decision, Raise):
        return replace(episode, message=message, due_seconds=None, reason=None, unanswered=False)
    retry = decision.retry_seconds
    unanswered = episode.unanswered and retry is not None
    return replace(episode, message=message, due_seconds=retry, reason=decision.reason, unanswered=unanswered)


def on_limit_change(episodes: Episodes, now: float) -> dict[int | None, Episode]:
    """Make due whatever waits: a refused write, a bound or a cooldown was about the old limit."""
    return {
        name: known if known.due_seconds is None else replace(known, due_seconds=now)
        for name, known in episodes.items()
    }


def is_over(episode: Episode, now: float) -> bool:
    """Return whether there was no need for QUIET_SECONDS."""
    return now - episode.needed_seconds >= QUIET_SECONDS
