"""Live, past, or taken before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conntrackd_guard.core import dedup
from conntrackd_guard.core.dedup import Liveness, Standing
from conntrackd_guard.core.model import KernelEvent, KernelLine, LineKind

BOOT, OTHER = "3060c963-3376-45ed-a3ff-628ad3a476ae", "00000000-3376-45ed-a3ff-628ad3a476ae"
HOUR_US = 3_600_000_000


def event(stamp: int | None, *, boot: str = BOOT, namespace: int | None = 7, held: bool = False) -> KernelEvent:
    """A line; the source never matters."""
    line = KernelLine(kind=LineKind.TABLE_FULL, namespace=namespace, message="")
    return KernelEvent(line=line, stamp_us=stamp, boot_id=boot, source="journal", held_at_start=held)


@pytest.mark.parametrize(
    ("newest", "heard", "expected"),
    [
        (100, event(101), Standing.LIVE),
        (100, event(100), Standing.PAST),
        (100, event(99), Standing.PAST),
        (100, event(101, held=True), Standing.LIVE),
        (100, event(101, boot=OTHER), Standing.PAST),
        (100, event(None), Standing.PAST),
        (None, event(5), Standing.LIVE),
        (None, event(5, held=True), Standing.PAST),
        (None, event(5, boot=OTHER), Standing.PAST),
        (None, event(None), Standing.PAST),
    ],
)
def test_live_is_this_boot_and_later_than_the_newest_at_start(
    newest: int | None, heard: KernelEvent, expected: Standing
) -> None:
    """The ring buffer's newest stamp divides; without it, what the journal held at start is the past."""
    assert Liveness(boot_id=BOOT, newest_stamp_us=newest).judge(heard) is expected


def test_a_line_heard_from_both_sources_is_taken_once_whichever_comes_first() -> None:
    """Ring buffer and journal give the same stamp; a third hearing (a journald that reads again) is none either."""
    for first, second in (("ring buffer", "journal"), ("journal", "ring buffer")):
        judge = Liveness(boot_id=BOOT, newest_stamp_us=0).judge
        assert judge(replace(event(5), source=first)) is Standing.LIVE
        assert judge(replace(event(5), source=second)) is Standing.TAKEN
        assert judge(replace(event(5), source="journal")) is Standing.TAKEN


def test_tables_that_overflow_in_the_same_microsecond_are_each_heard() -> None:
    """Two processors can log two namespaces with one stamp."""
    judge = Liveness(boot_id=BOOT, newest_stamp_us=0).judge
    assert judge(event(5, namespace=1)) is Standing.LIVE
    assert judge(event(5, namespace=2)) is Standing.LIVE


def test_what_an_earlier_run_recorded_is_not_taken_again() -> None:
    """The recorded stamp counts for its own boot only."""
    judged = Liveness(boot_id=BOOT, newest_stamp_us=100)
    judged.recall(BOOT, 50)
    standings = [judged.judge(event(stamp)) for stamp in (50, 51, 101)]
    assert standings == [Standing.TAKEN, Standing.PAST, Standing.LIVE]
    older = Liveness(boot_id=BOOT, newest_stamp_us=100)
    older.recall(OTHER, 10**9)
    assert older.judge(event(9, boot=OTHER)) is Standing.TAKEN
    assert older.judge(event(10**9 + 1, boot=OTHER)) is Standing.PAST
    assert older.judge(event(101)) is Standing.LIVE
    assert older.newest_taken_us == 101


def test_what_an_earlier_run_recorded_may_be_learned_late() -> None:
    """A live line that was heard meanwhile stays the newest."""
    judged = Liveness(boot_id=BOOT, newest_stamp_us=100)
    assert judged.judge(event(101)) is Standing.LIVE
    judged.recall(BOOT, 50)
    assert judged.newest_taken_us == 101
    assert [judged.judge(event(stamp)) for stamp in (50, 51, 101)] == [Standing.TAKEN, Standing.PAST, Standing.TAKEN]


def test_a_line_that_the_ring_buffer_lost_is_taken_from_the_journal() -> None:
    """After an overrun the journal brings an older line than the newest taken: it is new, and live."""
    judged = Liveness(boot_id=BOOT, newest_stamp_us=0)
    assert judged.judge(event(9)) is Standing.LIVE
    assert judged.judge(event(8)) is Standing.LIVE
    assert judged.newest_taken_us == 9


def test_memory_is_bounded_and_forgotten_lines_stay_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood leaves no more than the bound behind, and none of it is taken a second time."""
    monkeypatch.setattr(dedup, "MOST_REMEMBERED", 50)
    judged = Liveness(boot_id=BOOT, newest_stamp_us=0)
    assert {judged.judge(event(stamp)) for stamp in range(1, 1000)} == {Standing.LIVE}
    assert len(judged._remembered) == 50
    assert {judged.judge(event(stamp)) for stamp in range(1, 1000)} == {Standing.TAKEN}


@given(
    stamps=st.lists(st.integers(2 * HOUR_US, 3 * HOUR_US), max_size=30),
    newest=st.none() | st.integers(2 * HOUR_US, 3 * HOUR_US),
    recorded=st.none() | st.integers(2 * HOUR_US, 3 * HOUR_US),
    shift=st.sampled_from([HOUR_US, -HOUR_US]),
)
def test_a_kernel_clock_shifted_by_an_hour_changes_nothing(
    stamps: list[int], newest: int | None, recorded: int | None, shift: int
) -> None:
    """Kernel stamps are compared with each other and with nothing else."""

    def standings(by: int) -> list[Standing]:
        judged = Liveness(boot_id=BOOT, newest_stamp_us=None if newest is None else newest + by)
        judged.recall(BOOT, None if recorded is None else recorded + by)
        return [judged.judge(event(stamp + by)) for stamp in stamps]

    assert standings(0) == standings(shift)
