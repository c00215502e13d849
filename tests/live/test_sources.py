"""Lines reach the guard from a ring buffer and a real journald, whatever happens to either, once, and only true ones."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

LINE_ONLY = {"raise_early": False, "conflict_limit": 0, "MIN_STEP": 256, "cooldown": "50ms"}
JOURNAL_SECONDS = 1.0
"""journald tells its followers of an entry up to half a second late."""
FORGED = "nf_conntrack: nf_conntrack: table full, dropping packet"


def overflow_until_raised(stage: Stage, above: int) -> int:
    """Fill the table, drop one packet, and return the raised limit."""
    stage.table.fill(above - stage.table.count())
    stage.table.overflow()
    return stage.raised(above)


def test_without_any_journald_the_ring_buffer_is_followed_and_said(stage: Stage) -> None:
    """In a container without journald the guard says which source it has, and raises."""
    guard = stage.start(LINE_ONLY)
    sources = guard.await_event("guard.ready")["sources"]
    overflow_until_raised(stage, LIMIT)
    assert sources["ring_buffer"] == "following"


def test_the_journal_alone_is_enough(stage: Stage) -> None:
    """Where /dev/kmsg can't be opened, the line comes from the journal."""
    stage.world.start_journald()
    stage.start(LINE_ONLY, ring_buffer=False)
    overflow_until_raised(stage, LIMIT)
    assert stage.raises()[0]["trigger"] == "kernel_message"


def test_with_both_sources_a_line_counts_once(stage: Stage) -> None:
    """The journal tells again what the ring buffer told already; history counts the line once."""
    stage.world.start_journald()
    before = stage.lines_told(stage.start(LINE_ONLY))
    guard = stage.start({**LINE_ONLY, "max_limit": LIMIT})
    stage.table.fill(LIMIT)
    stage.table.overflow(3)
    stage.held("at_ceiling")
    time.sleep(JOURNAL_SECONDS)
    stage.overrun(guard)
    time.sleep(JOURNAL_SECONDS)
    assert stage.lines_told(guard) - before == stage.kernel.lines()


def test_what_the_ring_buffer_lost_comes_from_the_journal(stage: Stage) -> None:
    """Lines that the kernel overwrote before the guard read them are taken from the journal at once, and decided on."""
    stage.world.start_journald()
    before = stage.lines_told(stage.start(LINE_ONLY))
    guard = stage.start({**LINE_ONLY, "max_limit": LIMIT})
    guard.signal(signal.SIGSTOP)
    stage.table.fill(LIMIT)
    stage.table.overflow(3)
    time.sleep(JOURNAL_SECONDS)
    stage.overrun(guard)
    assert stage.held("at_ceiling")["trigger"] == "kernel_message"
    assert stage.lines_told(guard) - before == stage.kernel.lines()


def test_the_journal_is_followed_across_rotation_and_restart(stage: Stage) -> None:
    """Rotation, a new journald and one that was killed each leave the follower hearing."""
    stage.world.start_journald()
    stage.start(LINE_ONLY, ring_buffer=False)
    reached = overflow_until_raised(stage, LIMIT)
    stage.world.signal_journald(signal.SIGUSR2)
    reached = overflow_until_raised(stage, reached)
    for ending in (signal.SIGTERM, signal.SIGKILL):
        stage.world.stop_journald(ending)
        stage.world.start_journald()
        reached = overflow_until_raised(stage, reached)


def test_a_frozen_journald_delays_and_loses_nothing(stage: Stage) -> None:
    """While journald is stopped the raise comes from the ring buffer; when it goes on, no line counts twice."""
    stage.world.start_journald()
    before = stage.lines_told(stage.start(LINE_ONLY))
    guard = stage.start(LINE_ONLY)
    stage.world.signal_journald(signal.SIGSTOP)
    overflow_until_raised(stage, LIMIT)
    stage.world.signal_journald(signal.SIGCONT)
    time.sleep(JOURNAL_SECONDS)
    stage.overrun(guard)
    time.sleep(JOURNAL_SECONDS)
    assert stage.lines_told(guard) - before == stage.kernel.lines()
    assert len(stage.raises()) == 1


@pytest.mark.parametrize("ring_buffer", [True, False], ids=["ring buffer", "journal"])
def test_after_kill_9_nothing_is_missed_or_taken_twice(stage: Stage, *, ring_buffer: bool) -> None:
    """Lines logged while the guard was down are in history once each, and none of those before a second time."""
    stage.world.start_journald()
    settings = {**LINE_ONLY, "max_limit": LIMIT}
    before = stage.lines_told(stage.start(settings, ring_buffer=ring_buffer))
    first = stage.start(settings, ring_buffer=ring_buffer)
    stage.table.fill(LIMIT)
    stage.table.overflow(2)
    stage.held("at_ceiling")
    first.kill()
    stage.table.overflow(3)
    time.sleep(JOURNAL_SECONDS)
    second = stage.start(settings, ring_buffer=ring_buffer)
    stage.table.overflow(4)
    time.sleep(JOURNAL_SECONDS)
    assert stage.kernel.lines() == 9
    assert stage.lines_told(second) - before == 9


def test_lines_from_before_the_start_raise_nothing(stage: Stage) -> None:
    """A guard that starts late hears old lines, records them as the past, and raises nothing for them."""
    stage.table.fill(LIMIT)
    stage.table.overflow(3)
    stage.world.start_journald()
    stage.start(LINE_ONLY)
    stage.held("historical")
    time.sleep(1.0)
    assert limit() == LIMIT


def test_forged_lines_are_no_lines(stage: Stage) -> None:
    """What root writes to /dev/kmsg or anyone to syslog raises nothing and is not recorded; the kernel's own line is."""
    stage.world.start_journald()
    before = stage.lines_told(stage.start(LINE_ONLY))
    guard = stage.start(LINE_ONLY)
    stage.table.fill(LIMIT)
    Path("/dev/kmsg").write_text(f"<4>{FORGED}\n", "ascii")
    Path("/dev/kmsg").write_text(f"{FORGED}\n", "ascii")
    dev_log = ["--socket", "/run/systemd/journal/dev-log"]
    stage.world.run(["logger", *dev_log, "-t", "kernel", "-p", "kern.warning", FORGED]).check_returncode()
    time.sleep(JOURNAL_SECONDS)
    assert limit() == LIMIT
    overflow_until_raised(stage, LIMIT)
    assert stage.lines_told(guard) - before == stage.kernel.lines()
