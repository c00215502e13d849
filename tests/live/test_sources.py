"""Each real kernel message reaches the guard once, from the ring buffer or journald, whatever happens to either."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

LINE_ONLY = {"raise_early": False, "conflict_limit": 0, "MIN_STEP": 256, "cooldown": "50ms"}
JOURNAL_SECONDS = 1.0
"""journald notifies its followers up to half a second late."""
FORGED = "nf_conntrack: nf_conntrack: table full, dropping packet"


def overflow_until_raised(stage: Stage, above: int) -> int:
    """Fill the table, drop one packet, and return the raised limit."""
    stage.table.fill(above - stage.table.count())
    stage.table.overflow()
    return stage.raised(above)


def test_without_journald_the_ring_buffer_is_followed(stage: Stage) -> None:
    """In a container without journald the guard logs its source and raises."""
    guard = stage.start(LINE_ONLY)
    sources = guard.await_event("guard.ready")["sources"]
    overflow_until_raised(stage, LIMIT)
    assert sources["ring_buffer"] == "following"


def test_the_journal_alone_is_enough(stage: Stage) -> None:
    """If /dev/kmsg can't be opened, the message comes from the journal."""
    stage.world.start_journald()
    stage.start(LINE_ONLY, ring_buffer=False)
    overflow_until_raised(stage, LIMIT)
    assert stage.raises()[0]["trigger"] == "kernel_message"


def test_with_both_sources_a_message_counts_once(stage: Stage) -> None:
    """The journal repeats the messages of the ring buffer; the history counts each once."""
    stage.world.start_journald()
    before = stage.messages_recorded(stage.start(LINE_ONLY))
    guard = stage.start({**LINE_ONLY, "max_limit": LIMIT})
    stage.table.fill(LIMIT)
    stage.table.overflow(3)
    stage.held("at_ceiling")
    time.sleep(JOURNAL_SECONDS)
    stage.overrun(guard)
    time.sleep(JOURNAL_SECONDS)
    assert stage.messages_recorded(guard) - before == stage.kernel.messages()


def test_overwritten_messages_come_from_the_journal(stage: Stage) -> None:
    """Messages that the kernel overwrote before the guard read them are read from the journal at once."""
    stage.world.start_journald()
    before = stage.messages_recorded(stage.start(LINE_ONLY))
    guard = stage.start({**LINE_ONLY, "max_limit": LIMIT})
    guard.signal(signal.SIGSTOP)
    stage.table.fill(LIMIT)
    stage.table.overflow(3)
    time.sleep(JOURNAL_SECONDS)
    stage.overrun(guard)
    assert stage.held("at_ceiling")["trigger"] == "kernel_message"
    assert stage.messages_recorded(guard) - before == stage.kernel.messages()


def test_the_journal_is_followed_across_rotation_and_restart(stage: Stage) -> None:
    """The follower continues after rotation, restart and a kill of journald."""
    stage.world.start_journald()
    stage.start(LINE_ONLY, ring_buffer=False)
    reached = overflow_until_raised(stage, LIMIT)
    stage.world.signal_journald(signal.SIGUSR2)
    reached = overflow_until_raised(stage, reached)
    for ending in (signal.SIGTERM, signal.SIGKILL):
        stage.world.stop_journald(ending)
        stage.world.start_journald()
        reached = overflow_until_raised(stage, reached)


def test_a_stopped_journald_delays_and_loses_nothing(stage: Stage) -> None:
    """While journald is stopped, the ring buffer causes the raise; afterwards no message counts twice."""
    stage.world.start_journald()
    before = stage.messages_recorded(stage.start(LINE_ONLY))
    guard = stage.start(LINE_ONLY)
    stage.world.signal_journald(signal.SIGSTOP)
    overflow_until_raised(stage, LIMIT)
    stage.world.signal_journald(signal.SIGCONT)
    time.sleep(JOURNAL_SECONDS)
    stage.overrun(guard)
    time.sleep(JOURNAL_SECONDS)
    assert stage.messages_recorded(guard) - before == stage.kernel.messages()
    assert len(stage.raises()) == 1


@pytest.mark.parametrize("ring_buffer", [True, False], ids=["ring buffer", "journal"])
def test_after_kill_9_no_message_is_missed_or_counted_twice(stage: Stage, *, ring_buffer: bool) -> None:
    """Messages from while the guard was down are in the history once, earlier ones not again."""
    stage.world.start_journald()
    settings = {**LINE_ONLY, "max_limit": LIMIT}
    before = stage.messages_recorded(stage.start(settings, ring_buffer=ring_buffer))
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
    assert stage.kernel.messages() == 9
    recorded = stage.messages_recorded(second)
    assert recorded - before == 9, "\n".join(str(row) for row in stage.world.decisions())


def test_messages_from_before_the_start_raise_nothing(stage: Stage) -> None:
    """A guard records messages from before its start as historical, without a raise."""
    stage.table.fill(LIMIT)
    stage.table.overflow(3)
    stage.world.start_journald()
    stage.start(LINE_ONLY)
    stage.held("historical")
    time.sleep(1.0)
    assert limit() == LIMIT


def test_forged_messages_are_ignored(stage: Stage) -> None:
    """Text from root in /dev/kmsg, or from anyone in syslog, is not recorded; the kernel's own message is."""
    stage.world.start_journald()
    before = stage.messages_recorded(stage.start(LINE_ONLY))
    guard = stage.start(LINE_ONLY)
    stage.table.fill(LIMIT)
    Path("/dev/kmsg").write_text(f"<4>{FORGED}\n", "ascii")
    Path("/dev/kmsg").write_text(f"{FORGED}\n", "ascii")
    dev_log = ["--socket", "/run/systemd/journal/dev-log"]
    stage.world.run(["logger", *dev_log, "-t", "kernel", "-p", "kern.warning", FORGED]).check_returncode()
    time.sleep(JOURNAL_SECONDS)
    assert limit() == LIMIT
    overflow_until_raised(stage, LIMIT)
    assert stage.messages_recorded(guard) - before == stage.kernel.messages()
