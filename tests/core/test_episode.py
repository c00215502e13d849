"""An episode from its first trigger to its end, as steps on a time line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conntrackd_guard.core import episode
from conntrackd_guard.core.arithmetic import Arithmetic
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Corroboration, Hold, MessageKind, Raise, Trigger, TriggerKind

WEB = 4026532316
RAISED = Raise(target=2, arithmetic=Arithmetic.__new__(Arithmetic), corroboration=Corroboration.CONFIRMED)


def message(seconds: float, stamp: int = 1) -> Trigger:
    """Return the trigger that a new message gives."""
    return Trigger(
        kind=TriggerKind.KERNEL_MESSAGE,
        message_kind=MessageKind.TABLE_FULL,
        namespace=WEB,
        message="table full",
        message_count=1,
        message_seconds=seconds,
        stamp_us=stamp,
    )


def hold(retry: float | None, reason: HoldReason = HoldReason.COOLDOWN) -> Hold:
    """Return a hold."""
    return Hold(reason=reason, retry_seconds=retry)


@pytest.mark.parametrize(
    ("decision", "due", "unanswered"),
    [
        (RAISED, None, False),  # answered: only new need makes it due
        (hold(103.0), 103.0, True),  # decided again about the same message
        (hold(None, HoldReason.CONTRADICTED), None, False),  # the matter is over
    ],
)
def test_after_a_decision(decision: Raise | Hold, due: float | None, *, unanswered: bool) -> None:
    """A hold that time can cure keeps the message and its time; a raise and a final hold answer it. Each counts once."""
    after = episode.on_message(None, message(100.0), decision, 100.0)
    assert after.message is not None
    assert (after.due_seconds, after.unanswered, after.message.message_count) == (due, unanswered, 0)


@pytest.mark.parametrize(
    ("decision", "judged"),
    [
        (RAISED, True),
        (replace(RAISED, corroboration=Corroboration.UNKNOWN), False),
        (Hold(reason=HoldReason.PAUSED, retry_seconds=105.0, corroboration=Corroboration.CONFIRMED), True),
        (Hold(reason=HoldReason.CONTRADICTED, corroboration=Corroboration.CONTRADICTED), True),
        (Hold(reason=HoldReason.UNCONFIRMED, retry_seconds=105.0, corroboration=Corroboration.UNKNOWN), False),
        (Hold(reason=HoldReason.NO_CONNTRACK, retry_seconds=105.0), False),
    ],
)
def test_a_message_is_judged_once(decision: Raise | Hold, *, judged: bool) -> None:
    """By the first decision that could read its table; every later one about the same message knows that."""
    after = episode.on_message(None, message(100.0), decision, 100.0)
    assert after.trigger(raise_early=False).judged is judged
    later = episode.on_decision(after, hold(110.0, HoldReason.PAUSED))
    assert later.trigger(raise_early=False).judged is judged
    assert not episode.on_message(later, message(106.0, 2), hold(111.0), 106.0).trigger(raise_early=False).judged


@pytest.mark.parametrize(
    ("reason", "retry", "urgent", "due"),
    [
        (None, None, False, 101.0),  # after a raise: need again
        (HoldReason.STABLE, 105.0, False, 105.0),
        (HoldReason.STABLE, 105.0, True, 101.0),
        (HoldReason.COOLDOWN, 102.0, True, 101.0),
        (HoldReason.RATE_LIMITED, 105.0, True, 101.0),
        (HoldReason.OVER_BUDGET, 105.0, True, 105.0),  # urgency makes no memory
        (HoldReason.WRITE_REFUSED, 400.0, True, 400.0),  # nor a kernel that takes the write
        (HoldReason.PAUSED, 105.0, True, 105.0),
        (HoldReason.CONTRADICTED, None, False, 101.0),
    ],
)
def test_need_that_goes_on(reason: HoldReason | None, retry: float | None, due: float, *, urgent: bool) -> None:
    """While there is need, a hold keeps its own time; urgency shortens only the holds that judge it."""
    known = episode.on_need(None, WEB, 100.0, urgent=False)
    held = episode.on_decision(known, RAISED if reason is None else hold(retry, reason))
    after = episode.on_need(held, WEB, 101.0, urgent=urgent)
    assert (after.due_seconds, after.needed_seconds) == (due, 101.0)


@pytest.mark.parametrize(("retry", "due"), [(400.0, 101.0), (None, None)])
def test_a_change_of_limit_ends_every_wait(retry: float | None, due: float | None) -> None:
    """A refusal, a bound and a cooldown were about the old limit; what is over needs new need."""
    held = episode.on_message(None, message(100.0), hold(retry, HoldReason.OVER_BUDGET), 100.0)
    assert episode.on_limit_change({WEB: held}, 101.0)[WEB].due_seconds == due


def test_which_trigger_is_decided_on() -> None:
    """An unanswered message comes first; then the counters, unless `raise_early` is off."""
    answered = episode.on_message(None, message(100.0), RAISED, 100.0)
    held = episode.on_message(None, message(100.0), hold(105.0), 100.0)
    assert held.trigger(raise_early=True).kind is TriggerKind.KERNEL_MESSAGE
    assert answered.trigger(raise_early=True).kind is TriggerKind.FILLING_UP
    assert answered.trigger(raise_early=False).kind is TriggerKind.KERNEL_MESSAGE
    assert episode.on_need(None, WEB, 100.0, urgent=True).trigger(raise_early=True).kind is TriggerKind.FILLING_UP
    assert answered.trigger(raise_early=True).namespace == WEB


def test_an_episode_ends_after_ten_quiet_seconds() -> None:
    """It is over 10 s after the last need, not after the last decision."""
    known = episode.on_need(episode.on_message(None, message(100.0), RAISED, 100.0), WEB, 105.0, urgent=False)
    assert not episode.is_over(known, 114.9)
    assert episode.is_over(known, 115.0)
