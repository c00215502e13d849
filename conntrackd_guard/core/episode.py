"""An episode: one namespace's need, from its first trigger until ten quiet seconds. Pure.

The kernel may print ten lines in a millisecond and then nothing for five seconds, so a need is a
level, not an edge: an episode stays open and is decided again at `due_seconds`, without a new line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, KernelEvent, MessageKind, Raise, Trigger, TriggerKind
from conntrackd_guard.core.usage import QUIET_SECONDS

_SHORTENED = frozenset({HoldReason.STABLE, HoldReason.COOLDOWN, HoldReason.RATE_LIMITED, HoldReason.CHANGED_UNDER_US})


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What the guard knows of one namespace's need; `namespace` is None for lines that name none."""

    namespace: int | None
    needed_seconds: float
    """The last moment at which there was a need."""
    due_seconds: float | None = None
    """When to decide (again); None: when the watch says so."""
    event: KernelEvent | None = None
    lines: int = 0
    """Lines that no decision has counted yet."""
    unanswered: bool = False
    """A line came that no raise and no final hold has answered."""
    message_seconds: float | None = None
    reason: HoldReason | None = None
    """The last decision's, None after a raise or before the first."""

    def trigger(self, *, raise_early: bool) -> Trigger:
        """Return the trigger to decide on: a line that is unanswered (or the only switch that is on), else pressure."""
        if self.event is None or (raise_early and not self.unanswered):
            return Trigger(kind=TriggerKind.FILLING_UP, namespace=self.namespace)
        return Trigger(
            kind=TriggerKind.KERNEL_MESSAGE,
            message_kind=MessageKind.TABLE_FULL,
            namespace=self.namespace,
            message=self.event.message.text,
            message_count=self.lines,
            message_seconds=self.message_seconds,
            stamp_us=self.event.stamp_us,
        )


def heard(episode: Episode | None, event: KernelEvent, lines: int, now: float) -> Episode:
    """Open or refresh an episode by so many live lines, `event` the newest: it is decided at once."""
    namespace = event.message.namespace
    before = episode or Episode(namespace=namespace, needed_seconds=now)
    return replace(
        before,
        event=event,
        lines=before.lines + lines,
        unanswered=True,
        message_seconds=now,
        needed_seconds=now,
        due_seconds=now,
    )


def pressed(episode: Episode | None, namespace: int | None, now: float, *, urgent: bool) -> Episode:
    """Open or refresh an episode by what the counters show.

    It is decided at once when it is new, or when the last decision ended the matter (a raise, say)
    and yet there is need again. A hold named its own time, which only urgency shortens, and only
    for the holds that judge urgency.
    """
    if episode is None:
        return Episode(namespace=namespace, needed_seconds=now, due_seconds=now)
    if episode.due_seconds is None or (urgent and episode.reason in _SHORTENED):
        return replace(episode, needed_seconds=now, due_seconds=now)
    return replace(episode, needed_seconds=now)


def decided(episode: Episode, decision: Raise | Hold) -> Episode:
    """Note a decision. After a raise or a final hold, the watch says when there is need again."""
    if isinstance(decision, Raise):
        return replace(episode, due_seconds=None, reason=None, lines=0, unanswered=False)
    unanswered = episode.unanswered and decision.retry_seconds is not None
    return replace(episode, due_seconds=decision.retry_seconds, reason=decision.reason, lines=0, unanswered=unanswered)


def limit_changed(episode: Episode, now: float) -> Episode:
    """Decide at once what waits for a refused write: the refusal was of the old limit."""
    return replace(episode, due_seconds=now) if episode.reason is HoldReason.WRITE_REFUSED else episode


def is_over(episode: Episode, now: float) -> bool:
    """Return whether the need has been gone for long enough."""
    return now - episode.needed_seconds >= QUIET_SECONDS
