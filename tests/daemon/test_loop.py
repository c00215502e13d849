"""Turns of the loop on a made-up host: the effect of a message or a filling table on the limit, and the log."""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import replace
from typing import Any

import pytest
from testbed.guarded import LIMIT, Guarded, Host, ManualClock

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import MessageKind, Observation, State
from conntrackd_guard.core.policy import decide
from conntrackd_guard.daemon.loop import MOST_FAILED_TURNS, PAST_SECONDS, Loop
from conntrackd_guard.history.database import History
from conntrackd_guard.history.details import detail
from conntrackd_guard.host.systemd_notify import Service

STEP = 98_304
"""65,536 × 1.5."""


def test_one_turn_raises_and_logs(host: Host) -> None:
    """A message about a full table: one turn raises the limit; it is persisted, recorded and logged, and the intent goes."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    assert host.limit == STEP
    (row,) = guarded.rows()
    assert (row.verdict, row.outcome, row.from_limit, row.limit_after) == ("raise", "applied", LIMIT, STEP)
    assert host.persisted == STEP
    assert guarded.intents() == 0
    assert len(guarded.logged("guard.raise")) == 1
    guarded.stop()


def test_a_burst_of_ten_messages_is_one_raise(host: Host) -> None:
    """Ten messages within a millisecond lead to one raise."""
    guarded = Guarded(host)
    host.table(LIMIT)
    for _ in range(10):
        guarded.message()
    for _ in range(5):
        guarded.turn(0.01)
    assert guarded.kernel.writes == [STEP]
    with guarded.history() as history:
        raised = detail(history, guarded.rows()[0].id)
    assert raised is not None
    assert raised.record.trigger.message_count == 10
    guarded.stop()


def test_a_new_message_is_decided_at_once(host: Host) -> None:
    """The retry time of a hold does not delay it."""
    guarded = Guarded(host)
    guarded.kernel.refusing = errno.EROFS
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.message()
    guarded.turn(0.01)
    assert guarded.reasons()[:2] == ["raise kernel_message confirmed rejected", "hold write_refused none"]
    guarded.stop()


def test_the_named_namespace_is_raised_for(host: Host) -> None:
    """A container's table drops while the initial one is empty."""
    guarded = Guarded(host)
    host.table(LIMIT, pid="200")
    guarded.message(host.container)
    guarded.turn()
    assert host.limit == STEP
    assert guarded.rows()[0].namespace == host.container
    guarded.stop()


def test_the_drops_of_another_namespace_under_the_same_number_show_nothing(host: Host) -> None:
    """The one before had dropped 500, and ended; nobody knows when the new one dropped its 400."""
    host.table(54_000, drop=500, pid="200")
    guarded = Guarded(host, Policy(raise_early=False))
    guarded.turn()
    host.table(55_000, drop=400, pid="200")
    guarded.message(host.container)
    guarded.turn(0.25)
    assert guarded.reasons() == ["hold contradicted none"]
    guarded.stop()


def test_a_message_that_the_tables_contradict_is_held(host: Host) -> None:
    """A forged message raises nothing, however often it comes, and fills no history."""
    guarded = Guarded(host)
    for _ in range(5):
        guarded.message(host.container)
        guarded.turn(0.1)
    assert host.limit == LIMIT
    assert guarded.reasons() == ["hold contradicted none"]
    guarded.stop()


@pytest.mark.parametrize(
    ("kind", "live", "reason"),
    [
        (MessageKind.TABLE_FULL, False, "historical"),
        (MessageKind.EXPECTATION_FULL, True, "expectation_table"),
        (MessageKind.NEIGHBOUR_FULL, True, "neighbour_table"),
        (MessageKind.SUPPRESSED, True, "suppressed"),
    ],
)
def test_other_messages_are_recorded(host: Host, kind: MessageKind, reason: str, *, live: bool) -> None:
    """Historical messages and those of other tables are recorded and raise nothing."""
    guarded = Guarded(host)
    guarded.message(kind=kind, live=live)
    guarded.turn()
    guarded.turn(PAST_SECONDS)
    assert guarded.reasons() == [f"hold {reason} none"]
    assert host.limit == LIMIT
    guarded.stop()


def test_messages_from_before_the_start_are_one_record(host: Host) -> None:
    """Whatever namespaces they name, and in how many parts ring buffer and journal give them."""
    guarded = Guarded(host)
    guarded.log_sources.past_wall_seconds[MessageKind.TABLE_FULL] = 1_000_000.0
    for number in (7, 78, None, *range(100, 110)):
        guarded.message(number, live=False)
    guarded.turn()
    guarded.message(78, live=False)
    guarded.message(kind=MessageKind.NEIGHBOUR_FULL, live=False)
    guarded.message(kind=MessageKind.SUPPRESSED, live=False)  # recorded, and no news to anyone
    guarded.turn(0.5)
    assert guarded.rows() == []
    guarded.turn(PAST_SECONDS)
    guarded.written()
    texts = [line["message"] for line in guarded.logged("guard.hold")]
    assert texts == [
        (
            'Found 14 "table full" messages from before this start, the last at 1970-01-12 13:46:40 UTC, '
            "in netns 78 (2) and 11 others. Not acted on; no table is full now."
        ),
        'Found 1 "neighbour table overflow" message from before this start. Not acted on; no table is full now.',
    ]
    assert [row.repeats for row in guarded.rows()] == [14, 1, 1]
    guarded.message(live=False)
    guarded.turn()
    guarded.turn(PAST_SECONDS)
    guarded.stop()
    with History(guarded.paths.history, mode="reader") as history:
        assert [row.repeats for row in history.rows()] == [1, 1, 15]


def test_a_stop_records_what_is_gathered(host: Host) -> None:
    """The position that the stop saves covers those messages."""
    guarded = Guarded(host)
    guarded.message(live=False)
    read, write = os.pipe()
    os.write(write, b"x")
    Loop(guarded.parts, guarded.controller, lambda: frozenset({"stop"})).run(read, lambda: None)
    assert guarded.reasons() == ["hold historical none"]
    os.close(read)
    os.close(write)
    guarded.stop()


def test_a_full_table_comes_before_other_messages(host: Host) -> None:
    """The kernel often says `callbacks suppressed` just before: nobody's packet waits for that to be recorded."""
    guarded = Guarded(host)
    guarded.turn()  # a tick, so that the next is not due at once
    host.table(LIMIT)
    guarded.message(kind=MessageKind.SUPPRESSED)
    guarded.message()
    guarded.turn()
    assert guarded.reasons() == ["raise kernel_message confirmed applied", "hold suppressed none"]
    guarded.stop()


def test_other_messages_wait_for_a_host_that_can_be_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors, a message is kept and recorded later, with all that came meanwhile."""
    guarded = Guarded(host)
    with monkeypatch.context() as patched:
        patched.setattr(guarded.kernel, "limit_in_force", lambda: os.open("/nowhere", os.O_RDONLY))
        for _ in range(3):
            guarded.message(kind=MessageKind.SUPPRESSED)
            guarded.turn(0.1)
    guarded.turn(2.0)
    assert [(row.reason, row.repeats) for row in guarded.rows()] == [("suppressed", 3)]
    guarded.stop()


def test_pressure_without_a_message(host: Host) -> None:
    """A table that fills up is raised for before it drops."""
    guarded = Guarded(host)
    for count in (50_000, 53_000, 56_000):
        host.table(count)
        guarded.turn(0.25)
    assert host.limit > LIMIT
    assert [row.trigger for row in guarded.rows() if row.verdict == "raise"] == ["filling_up"]
    guarded.stop()


def test_a_table_that_fills_again_needs_no_new_message(host: Host) -> None:
    """After one message, the watch raises again 200 ms later where the table is full again."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.table(STEP)
    guarded.turn(0.1)
    assert host.limit == STEP
    guarded.turn(0.15)
    assert host.limit > STEP
    guarded.stop()


def test_a_refused_write_backs_off(host: Host) -> None:
    """Writes are tried after 1, 2, 4 … s, 300 s at most, without a new message; the first refusal is recorded."""
    guarded = Guarded(host)
    guarded.kernel.refusing = errno.EROFS
    host.table(LIMIT)
    guarded.message()
    tried: list[float] = []
    start = guarded.clock.now
    for _ in range(4 * 1_300):
        before = len(guarded.kernel.writes)
        guarded.turn(0.25 if tried else 0.0)
        if len(guarded.kernel.writes) > before:
            tried.append(guarded.clock.now - start)
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(tried)]
    assert gaps == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert host.limit == LIMIT
    guarded.stop()


def test_a_change_of_limit_ends_the_back_off(host: Host) -> None:
    """The refusal was about the old limit: the next tick tries again, without a new message."""
    guarded = Guarded(host)
    guarded.kernel.refusing = errno.EROFS
    host.table(LIMIT)
    guarded.message()
    for _ in range(40):  # well into a wait of 8 s
        guarded.turn(0.25)
    guarded.kernel.refusing = None
    host.limit = LIMIT - 1_000
    host.table(LIMIT)
    guarded.turn(0.25)
    assert host.limit > LIMIT
    guarded.stop()


def test_memory_that_breaks_the_promise_is_reported_once(host: Host) -> None:
    """What is held is compared with `min_available` once a second; a breach is one error record until it is over."""
    guarded = Guarded(host)
    host.table(10_000)
    meminfo = host.root / "proc/meminfo"
    meminfo.write_text("MemTotal: 25165824 kB\nMemAvailable: 1000 kB\n")
    for _ in range(20):
        guarded.turn(0.25)
    assert guarded.reasons() == ["hold reserve_broken none"]
    assert guarded.logged("guard.hold")[0]["level"] == "error"
    guarded.stop()


def test_tables_are_read_for_the_memory_check_only_if_they_could_break_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slab cache bounds what exists; without it, and near the bound, the tables show it."""
    guarded, seen = Guarded(host), list[Observation]()
    observe = guarded.observer.observe

    def counted(**more: Any) -> Observation:
        seen.append(observe(**more))
        return seen[-1]

    monkeypatch.setattr(guarded.observer, "observe", counted)
    host.table(10_000)
    for _ in range(8):
        guarded.turn(0.25)
    assert seen == []
    (host.root / "sys/kernel/slab/nf_conntrack/total_objects").unlink()
    for _ in range(8):
        guarded.turn(0.25)
    assert len(seen) == 2
    assert guarded.reasons() == []
    guarded.stop()


def test_a_hold_for_a_users_table_is_decided_rarely_in_a_crowd(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An observation that takes a second is made every 200 s for it; a full table of root's waits for nothing."""
    clock = ManualClock()
    guarded, times = Guarded(host, clock=clock), list[float]()
    observe = guarded.observer.observe

    def slow(**more: Any) -> Observation:
        times.append(clock.now)
        clock.now += 1.0
        seen = observe(**more)
        users = tuple(replace(table, user_owned=not table.initial) for table in seen.tables)
        return replace(seen, tables=users)

    monkeypatch.setattr(guarded.observer, "observe", slow)
    host.table(LIMIT, pid="200")
    for _ in range(1_000):
        guarded.turn(0.25)
    assert {*guarded.reasons()} == {"hold untrusted_namespace none"}
    assert 2 <= len(times) <= 1 + 6  # of 250 s, the status reads once as well
    host.table(LIMIT)
    guarded.turn(0.25)
    assert host.limit > LIMIT
    guarded.stop()


def test_an_unreadable_limit_is_reported_once_and_ends_no_loop(host: Host) -> None:
    """An unreadable host is reported once; when it is readable again, the guard continues."""
    guarded = Guarded(host)
    limit = host.root / "proc/sys/net/netfilter/nf_conntrack_max"
    limit.write_text("many\n")
    for _ in range(5):
        guarded.turn(3.0)
    guarded.written()
    assert len(guarded.logged("guard.error")) == 1
    host.limit = LIMIT
    host.table(LIMIT)
    guarded.message()
    guarded.turn(3.0)
    assert host.limit == STEP
    guarded.stop()


def test_every_row_is_decided_again_from_the_database_alone(host: Host) -> None:
    """Trigger, observation, state and policy of each row give the very decision that the row holds."""
    policy = Policy(conflict_limit=1)
    guarded = Guarded(host, policy)
    guarded.message(live=False)
    guarded.message(host.container)
    for share, limit, line in (
        (1, None, True),
        (1, None, False),
        (0, LIMIT, True),
        (1, LIMIT, True),
        (0, 999_999, False),
    ):
        host.limit = limit or host.limit
        host.table(share * host.limit)
        if line:
            guarded.message()
        for _ in range(12):
            guarded.turn(0.25)
    rows = guarded.rows()
    guarded.stop()
    seen = set()
    with History(guarded.paths.history, mode="reader") as history:
        for row in rows:
            found = detail(history, row.id)
            assert found is not None
            record = found.record
            assert found.policy == policy
            assert decide(record.trigger, record.observation, record.state, found.policy) == record.decision
            seen.add(f"{row.verdict} {row.reason}")
    assert {
        "raise kernel_message confirmed",
        "raise filling_up confirmed",
        "hold historical",
        "hold contradicted",
    } <= seen
    assert {"hold limit_lowered", "hold limit_raised", "hold conflict"} <= seen


def test_a_record_keeps_the_state_it_was_decided_with(host: Host) -> None:
    """The state in a record is the one before it, not the one it leads to."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    with History(guarded.paths.history, mode="reader") as history:
        found = detail(history, guarded.rows()[0].id)
    assert found is not None
    assert found.record.state == State()
    assert guarded.state == replace(State(), last_raise_seconds=1_000.0, raise_seconds=(1_000.0,), set_limit=STEP)
    guarded.stop()


ERRORS = (
    IndexError("x"),
    KeyError("x"),
    OverflowError("x"),
    MemoryError(),
    RecursionError("x"),
    OSError(errno.ENOMEM, "x"),
)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("place", ["take", "decide", "tick", "publish"])
def test_no_error_ends_a_turn(host: Host, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str) -> None:
    """It is logged once; when its cause is gone, the message that waited is decided."""
    guarded = Guarded(host)
    owner = guarded.log_sources if place == "take" else guarded.controller

    def fail(*_: object, **__: object) -> None:
        raise error

    host.table(LIMIT)
    guarded.message()
    monkeypatch.setattr(owner, place, fail)
    for _ in range(5):
        guarded.turn(3.0)
    monkeypatch.undo()
    guarded.turn(3.0)
    assert host.limit == STEP
    guarded.written()
    (logged,) = guarded.logged("guard.error")
    assert ("Retrying every 2 s." in logged["message"]) is (place != "publish")
    if not isinstance(error, OSError):
        assert f"Unexpected {type(error).__name__}: " in logged["message"]
        assert f"{__file__}:" in logged["message"]
    guarded.stop()


class Manager(Service):
    """A service manager that counts, and asks for a stop after some turns."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.fed, self.left = 0, turns

    def watchdog(self) -> None:
        """Count."""
        self.fed += 1

    def signals(self) -> frozenset[str]:
        """Return a signal in the last turn."""
        self.left -= 1
        return frozenset({"stop"} if self.left < 0 else ())


def run(guarded: Guarded, turns: int, seconds: float = 3.0) -> int:
    """Run a loop that a signal wakes for each turn, so long after the one before; return how often it fed the watchdog."""
    manager = Manager(turns)
    read, write = os.pipe()
    os.write(write, b"x")

    def signals() -> frozenset[str]:
        guarded.clock.now += seconds
        return manager.signals()

    guarded.parts.service = manager
    Loop(guarded.parts, guarded.controller, signals).run(read, lambda: None)
    os.close(read)
    os.close(write)
    return manager.fed


def test_turns_that_keep_failing_are_left_to_the_watchdog(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 30 in a row it is fed no more, and that is logged; after a tick that succeeds it is fed again."""
    guarded = Guarded(host)
    tick, left = guarded.controller.tick, 40

    def fail(*arguments: object) -> object:
        nonlocal left
        left -= 1
        if left >= 0:
            raise KeyError("x")
        return tick(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(guarded.controller, "tick", fail)
    assert run(guarded, 60) == 60 - (40 - MOST_FAILED_TURNS + 1)
    guarded.written()
    messages = [line["message"] for line in guarded.logged("guard.error")]
    assert len(messages) == 2
    assert "Failed 30 times in a row: leaving it to the watchdog." in messages[1]
    guarded.stop()


def test_a_poll_without_memory_ends_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages, signals and ticks are looked for without it."""
    guarded = Guarded(host)

    class Poller:
        def register(self, *_: object) -> None:
            """Accept."""

        def poll(self, _: float) -> list[tuple[int, int]]:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("conntrackd_guard.daemon.loop.select.poll", Poller)
    monkeypatch.setattr("conntrackd_guard.daemon.loop.FAILED_WAIT_SECONDS", 0.0)
    host.table(LIMIT)
    guarded.message()
    assert run(guarded, 10) == 10
    assert host.limit == STEP
    guarded.written()
    (logged,) = guarded.logged("guard.error")
    assert "Cannot allocate memory. Looking for messages every 0 s." in logged["message"]
    guarded.stop()


def test_a_reload_that_fails_leaves_the_settings(host: Host) -> None:
    """Whatever the error is."""
    guarded = Guarded(host)
    signals = iter([frozenset({"reload"}), frozenset({"stop"})])
    read, write = os.pipe()
    os.write(write, b"x")

    def reload() -> None:
        raise KeyError("x")

    Loop(guarded.parts, guarded.controller, lambda: next(signals)).run(read, reload)
    os.close(read)
    os.close(write)
    guarded.written()
    assert "Settings not reloaded, the old ones stay in effect" in str(guarded.logged("guard.error"))
    guarded.stop()
