"""New, historical, or taken before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conntrackd_guard.core import dedup
from conntrackd_guard.core.dedup import Deduplicator, MessageStatus
from conntrackd_guard.core.kernel_messages import KernelEvent, KernelMessage
from conntrackd_guard.core.model import MessageKind

BOOT, OTHER = "3060c963-3376-45ed-a3ff-628ad3a476ae", "00000000-3376-45ed-a3ff-628ad3a476ae"
HOUR_US = 3_600_000_000


def event(stamp: int | None, *, boot: str = BOOT, namespace: int | None = 7, held: bool = False) -> KernelEvent:
    """Return an event; its source never matters."""
    message = KernelMessage(kind=MessageKind.TABLE_FULL, namespace=namespace, text="")
    return KernelEvent(message=message, stamp_us=stamp, boot_id=boot, source="journal", held_at_start=held)


@pytest.mark.parametrize(
    ("newest", "read", "expected"),
    [
        (100, event(101), MessageStatus.NEW),
        (100, event(100), MessageStatus.HISTORICAL),
        (100, event(99), MessageStatus.HISTORICAL),
        (100, event(101, held=True), MessageStatus.NEW),
        (100, event(101, boot=OTHER), MessageStatus.HISTORICAL),
        (100, event(None), MessageStatus.HISTORICAL),
        (None, event(5), MessageStatus.NEW),
        (None, event(5, held=True), MessageStatus.HISTORICAL),
        (None, event(5, boot=OTHER), MessageStatus.HISTORICAL),
        (None, event(None), MessageStatus.HISTORICAL),
    ],
)
def test_new_is_this_boot_and_later_than_the_newest_at_start(
    newest: int | None, read: KernelEvent, expected: MessageStatus
) -> None:
    """The ring buffer's newest timestamp decides; without it, entries that the journal had at start are historical."""
    assert Deduplicator(boot_id=BOOT, newest_stamp_us=newest).judge(read) is expected


def test_a_message_in_both_sources_is_taken_once_whichever_comes_first() -> None:
    """Ring buffer and journal have the same timestamp; a journald that reads the buffer again adds nothing."""
    for first, second in (("ring buffer", "journal"), ("journal", "ring buffer")):
        judge = Deduplicator(boot_id=BOOT, newest_stamp_us=0).judge
        assert judge(replace(event(5), source=first)) is MessageStatus.NEW
        assert judge(replace(event(5), source=second)) is MessageStatus.DUPLICATE
        assert judge(replace(event(5), source="journal")) is MessageStatus.DUPLICATE


def test_tables_that_overflow_in_the_same_microsecond_are_separate() -> None:
    """Two processors can log two namespaces with one timestamp."""
    judge = Deduplicator(boot_id=BOOT, newest_stamp_us=0).judge
    assert judge(event(5, namespace=1)) is MessageStatus.NEW
    assert judge(event(5, namespace=2)) is MessageStatus.NEW


def test_messages_recorded_by_an_earlier_run_are_duplicates() -> None:
    """The recorded timestamp counts for its own boot only."""
    judged = Deduplicator(boot_id=BOOT, newest_stamp_us=100)
    judged.recall(BOOT, 50)
    statuses = [judged.judge(event(stamp)) for stamp in (50, 51, 101)]
    assert statuses == [MessageStatus.DUPLICATE, MessageStatus.HISTORICAL, MessageStatus.NEW]
    older = Deduplicator(boot_id=BOOT, newest_stamp_us=100)
    older.recall(OTHER, 10**9)
    assert older.judge(event(9, boot=OTHER)) is MessageStatus.DUPLICATE
    assert older.judge(event(10**9 + 1, boot=OTHER)) is MessageStatus.HISTORICAL
    assert older.judge(event(101)) is MessageStatus.NEW
    assert older.newest_taken_us == 101


def test_the_position_of_an_earlier_run_may_be_known_late() -> None:
    """A new message that was taken meanwhile stays the newest."""
    judged = Deduplicator(boot_id=BOOT, newest_stamp_us=100)
    assert judged.judge(event(101)) is MessageStatus.NEW
    judged.recall(BOOT, 50)
    assert judged.newest_taken_us == 101
    assert [judged.judge(event(stamp)) for stamp in (50, 51, 101)] == [
        MessageStatus.DUPLICATE,
        MessageStatus.HISTORICAL,
        MessageStatus.DUPLICATE,
    ]


def test_a_message_that_the_ring_buffer_lost_is_new_in_the_journal() -> None:
    """After an overrun the journal has an older message than the newest taken: it is new."""
    judged = Deduplicator(boot_id=BOOT, newest_stamp_us=0)
    assert judged.judge(event(9)) is MessageStatus.NEW
    assert judged.judge(event(8)) is MessageStatus.NEW
    assert judged.newest_taken_us == 9


def test_memory_is_bounded_and_forgotten_messages_stay_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a flood no more than the bound is remembered, and nothing is taken a second time."""
    monkeypatch.setattr(dedup, "MOST_REMEMBERED", 50)
    judged = Deduplicator(boot_id=BOOT, newest_stamp_us=0)
    assert {judged.judge(event(stamp)) for stamp in range(1, 1000)} == {MessageStatus.NEW}
    assert len(judged._remembered) == 50
    assert {judged.judge(event(stamp)) for stamp in range(1, 1000)} == {MessageStatus.DUPLICATE}


@given(
    stamps=st.lists(st.integers(2 * HOUR_US, 3 * HOUR_US), max_size=30),
    newest=st.none() | st.integers(2 * HOUR_US, 3 * HOUR_US),
    recorded=st.none() | st.integers(2 * HOUR_US, 3 * HOUR_US),
    shift=st.sampled_from([HOUR_US, -HOUR_US]),
)
def test_a_kernel_clock_shifted_by_an_hour_changes_nothing(
    stamps: list[int], newest: int | None, recorded: int | None, shift: int
) -> None:
    """Kernel timestamps are compared with each other only."""

    def statuses(by: int) -> list[MessageStatus]:
        judged = Deduplicator(boot_id=BOOT, newest_stamp_us=None if newest is None else newest + by)
        judged.recall(BOOT, None if recorded is None else recorded + by)
        return [judged.judge(event(stamp + by)) for stamp in stamps]

    assert statuses(0) == statuses(shift)
