"""Repeated decisions: counted in their row, logged once an hour, and a new row when they come back later."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest
from testbed.guarded import LIMIT, Guarded, Host, again
from testbed.records import BOOT, a_record, raised

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import MessageKind, Override, OverrideKind, Record, Trigger, TriggerKind
from conntrackd_guard.daemon.loop import PAST_SECONDS
from conntrackd_guard.history.database import History

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def guarded(host: Host) -> Iterator[Guarded]:
    """Give a running guard."""
    guarded = Guarded(host)
    yield guarded
    guarded.stop()


def hold(guarded: Guarded, seconds: float, namespace: int = 7) -> None:
    """Record a hold of that time, always for the same reason."""
    record = a_record(f"{seconds}-{namespace}", boottime_seconds=seconds, wall_seconds=1e9 + seconds)
    table = replace(record.observation.tables[0], namespace=namespace)
    record = replace(
        record,
        trigger=Trigger(kind=TriggerKind.FILLING_UP, namespace=namespace),
        observation=replace(record.observation, tables=(table,)),
    )
    guarded.recorder.submit(record, Policy())
    guarded.written()


def repeats(guarded: Guarded) -> list[int]:
    """Return the repeats of each row, oldest first, once the guard has ended."""
    guarded.stop()
    with History(guarded.paths.history, mode="reader") as history:
        return [row.repeats for row in history.rows()][::-1]


def test_a_lasting_hold_is_one_row_and_a_message_an_hour(host: Host) -> None:
    """Five hours at the ceiling, decided every ten minutes."""
    guarded = Guarded(host)
    for number in range(31):
        hold(guarded, number * 600.0)
    assert len(guarded.logged("guard.hold")) == 6
    assert repeats(guarded) == [31]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_hold_of_another_day_is_a_new_row(host: Host, *, restarted: bool) -> None:
    """Tonight's hold is among the newest rows, and logged."""
    guarded = Guarded(host)
    hold(guarded, 0.0)
    if restarted:
        guarded.stop()
        guarded = again(guarded)
    hold(guarded, 4 * DAY)
    hold(guarded, 4 * DAY + 60)
    assert len(guarded.logged("guard.hold")) == (1 if restarted else 2)
    assert repeats(guarded) == [1, 2]


def test_a_restart_does_not_log_a_hold_again(host: Host) -> None:
    """A hold logged within the hour is counted in its row, without a message."""
    guarded = Guarded(host)
    hold(guarded, 0.0)
    guarded.stop()
    after = again(guarded)
    hold(after, 1800.0)
    assert after.logged("guard.hold") == []
    assert repeats(after) == [2]


def test_a_hold_is_logged_once_whatever_triggers_it(host: Host) -> None:
    """A full table is noticed by its counters and by the kernel's message: two rows, one log message."""
    guarded = Guarded(host)
    for kind in (TriggerKind.FILLING_UP, TriggerKind.KERNEL_MESSAGE):
        guarded.recorder.submit(a_record(kind, trigger=kind), Policy())
    assert len(guarded.rows()) == 2
    assert len(guarded.logged("guard.hold")) == 1
    guarded.stop()


def test_more_holds_than_remembered_make_no_flood(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """More namespaces than are remembered, all at `max_limit` for half an hour: a message and a row each."""
    monkeypatch.setattr("conntrackd_guard.recording.history_writer._KNOWN_MAX", 5)
    guarded = Guarded(host)
    for number in range(10):
        for namespace in range(8):
            hold(guarded, number * 180.0, namespace)
    assert len(guarded.logged("guard.hold")) == 8
    assert repeats(guarded) == [10] * 8


def test_a_hold_is_logged_again_once_packets_are_dropped(host: Host) -> None:
    """That the table fills up and that the kernel drops are two pieces of news; the next hour has neither again."""
    guarded = Guarded(host)
    full = a_record("x").observation.tables[0]
    for number, (count, dropped) in enumerate(((60_000, 0), (60_100, 0), (65_536, 7), (65_536, 9), (60_000, 0))):
        record = a_record(
            f"k{number}", tables=(replace(full, count=count, dropped=dropped),), wall_seconds=1000.0 + number
        )
        guarded.recorder.submit(record, Policy())
        guarded.written()
    texts = [line["message"] for line in guarded.logged("guard.hold")]
    assert [text.partition("(100 %)")[1] for text in texts] == ["", "(100 %)"]
    assert "The kernel will drop new connections once it is full." in texts[0]
    assert "7 dropped. The kernel is dropping new connections." in texts[1]
    guarded.stop()


@pytest.mark.parametrize("between", [raised("b"), a_record("b", Override(kind=OverrideKind.RESUME))])
def test_after_a_raise_or_an_override_a_hold_is_a_new_row(host: Host, between: Record) -> None:
    """Both change the state."""
    guarded = Guarded(host)
    hold(guarded, 0.0)
    guarded.recorder.submit(between, Policy())
    hold(guarded, 60.0)
    assert len(guarded.logged("guard.hold")) == 2
    assert repeats(guarded) == [1, 1, 1]


def test_historical_messages_of_different_kinds_are_different_rows(guarded: Guarded) -> None:
    """A neighbour table that overflowed before the start is not counted as the connection table."""
    for kind in (MessageKind.TABLE_FULL, MessageKind.NEIGHBOUR_FULL):
        guarded.message(kind=kind, live=False)
    guarded.turn()
    guarded.turn(PAST_SECONDS)
    assert guarded.reasons() == ["hold historical none"] * 2


def test_a_write_that_stays_refused_is_one_row_and_a_message_an_hour(host: Host) -> None:
    """Six hours on a read-only /proc/sys: one row, hourly messages, and the next start has the exact back-off."""
    guarded = Guarded(host)
    guarded.kernel.refusing = errno.EROFS
    host.table(LIMIT)
    for _ in range(12 * 60):
        guarded.message()
        guarded.message()  # tries are counted, not messages
        guarded.turn(30.0)
    tries = len(guarded.kernel.writes)
    assert tries > 70
    refused = [row for row in guarded.rows() if row.outcome == "rejected"]
    assert [row.repeats for row in refused] == [tries]
    assert refused[0].last_seconds - refused[0].at_seconds > 5 * HOUR
    assert len(guarded.logged("guard.raise")) <= 7
    reasons = {row.reason for row in guarded.rows() if row.verdict == "hold"}
    assert len(guarded.logged("guard.hold")) <= 7 * 2 * len(reasons)
    assert guarded.state.refusal is not None
    assert guarded.state.refusal.count == tries
    state = guarded.state
    guarded.stop()
    after = again(guarded)
    assert after.recovered.state == state
    after.stop()


def test_another_error_is_another_row(host: Host) -> None:
    """Alternating errors are folded in their order."""
    guarded = Guarded(host)
    host.table(LIMIT)
    for error in (errno.EROFS, errno.EROFS, errno.EACCES, errno.EROFS):
        guarded.kernel.refusing = error
        guarded.message()
        guarded.turn(301.0)
    assert [(row.errno, row.repeats) for row in guarded.rows() if row.outcome == "rejected"] == [
        (errno.EROFS, 2),
        (errno.EACCES, 1),
        (errno.EROFS, 1),
    ]
    state = guarded.state
    guarded.stop()
    after = again(guarded)
    assert after.recovered.state == state
    after.stop()


def test_a_refusal_is_folded_after_the_override_that_reset_it(host: Host) -> None:
    """A resume ends the back-off; a refusal after it starts from zero, in this run and the next."""
    guarded = Guarded(host)
    guarded.kernel.refusing = errno.EROFS
    host.table(LIMIT)
    order = a_record("o", Override(kind=OverrideKind.RESUME), boot_id=BOOT)
    for _ in range(2):
        guarded.message()
        guarded.turn(301.0)
    guarded.recorder.submit(order, Policy())
    guarded.message()
    guarded.turn(301.0)
    assert [row.repeats for row in guarded.rows() if row.outcome == "rejected"] == [2, 1]
    guarded.stop()
