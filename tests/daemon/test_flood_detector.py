"""`on_flood`: the effect of flood samples on a raise."""

from __future__ import annotations

import itertools
import threading

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core.configuration import FloodAction, FloodResponse, Policy
from conntrackd_guard.daemon.flood_detector import FloodDetector
from conntrackd_guard.history.details import detail

HOLD = Policy(on_flood=FloodResponse(action=FloodAction.HOLD))
NEAR = LIMIT * 3 // 4
"""Over 70 % and under 80 %: sampled, and no need yet."""


def fill_with(host: Host, *, answered: int, unanswered: int) -> None:
    """Give the initial namespace's listing so many flows of either kind."""
    there, back = "src=10.0.0.9 dst=10.0.0.1 sport={} dport=80", "src=10.0.0.1 dst=10.0.0.9 sport=80 dport={}"
    flow = f"ipv4     2 udp      17 29 {there} {{}}{back} {{}}mark=0 use=1\n"
    lines = [flow.format(port, "", port, "[ASSURED] ") for port in range(answered)]
    lines += [flow.format(port, "[UNREPLIED] ", port, "") for port in range(unanswered)]
    (host.root / "proc/1/net/nf_conntrack").write_text("".join(lines))


def test_a_flood_that_was_sampled_before_is_held(host: Host) -> None:
    """The sample at 75 % is what decides once the table is full; `guard show` has it in the sum."""
    fill_with(host, answered=100, unanswered=900)
    host.table(NEAR)
    guarded = Guarded(host, HOLD)
    guarded.turn()
    host.table(LIMIT)
    guarded.message()
    guarded.turn(0.01)
    assert guarded.reasons() == ["hold flood none"]
    assert host.limit == LIMIT
    with guarded.history() as history:
        found = detail(history, 1)
    assert found is not None
    assert found.record.decision.arithmetic.on_flood == HOLD.on_flood  # type: ignore[union-attr]
    guarded.stop()


def test_flows_that_are_answered_are_raised_for(host: Host) -> None:
    """No flood: the growth seen counts as ever."""
    fill_with(host, answered=900, unanswered=100)
    host.table(NEAR)
    guarded = Guarded(host, HOLD)
    guarded.turn()
    host.table(LIMIT)
    guarded.message()
    guarded.turn(1.0)
    assert [row for row in guarded.reasons() if row.startswith("raise")] == ["raise kernel_message confirmed applied"]
    assert host.limit > LIMIT * 3 // 2  # 16,384 within a second
    guarded.stop()


@pytest.mark.parametrize(("answered", "unanswered", "then"), [(0, 1000, "hold flood none"), (1000, 0, "raise")])
def test_a_table_that_fills_at_once_gets_one_plain_step(host: Host, answered: int, unanswered: int, then: str) -> None:
    """It is sampled just after, and that decides on the next step."""
    fill_with(host, answered=answered, unanswered=unanswered)
    guarded = Guarded(host, HOLD)
    guarded.turn()
    host.table(LIMIT)
    guarded.message()
    guarded.turn(0.01)
    assert host.limit == LIMIT * 3 // 2
    host.table(host.limit)
    guarded.turn(0.25)
    assert guarded.reasons()[-1].startswith(then)
    guarded.stop()


def test_another_table_that_fills_just_after_waits_for_its_sample_alone(host: Host) -> None:
    """Within 30 s of a raise, a table that fills at once is sampled in that turn and raised for in the next."""
    fill_with(host, answered=1000, unanswered=0)
    (host.root / "proc/200/net/nf_conntrack").write_text((host.root / "proc/1/net/nf_conntrack").read_text())
    guarded = Guarded(host, HOLD)
    guarded.turn()
    host.table(LIMIT)
    guarded.message()
    guarded.turn(0.01)
    host.table(10)
    before = host.limit
    host.table(before, pid="200")
    guarded.message(host.container)
    guarded.turn(2.5)
    assert guarded.reasons()[-1] == "hold unsampled none"
    guarded.turn(0.25)
    assert host.limit > before
    guarded.stop()


def test_a_reload_switches_it_on_and_off(host: Host) -> None:
    """A reload loads the sampler, and its samples stop counting once `on_flood` is off."""
    fill_with(host, answered=0, unanswered=1000)
    host.table(NEAR)
    guarded = Guarded(host)
    guarded.turn()
    guarded.controller.policy = HOLD
    guarded.turn(0.25)
    host.table(LIMIT)
    guarded.message()
    guarded.turn(0.01)
    assert guarded.reasons()[-1] == "hold flood none"
    guarded.controller.policy = Policy()
    guarded.message()
    guarded.turn(5.0)
    assert host.limit > LIMIT
    guarded.stop()


def test_a_table_that_cannot_be_sampled_gets_a_plain_step_now_and_then(host: Host) -> None:
    """Nobody knows what fills it: neither is it left to drop, nor raised for as fast as it fills."""
    guarded = Guarded(host, HOLD)
    guarded.turn()
    raised = []
    for _ in range(4 * 61):
        host.table(host.limit)
        before = host.limit
        guarded.message()
        guarded.turn(0.25)
        if host.limit > before:
            raised.append(guarded.clock.now)
    assert [round(later - earlier) for earlier, later in itertools.pairwise(raised)] == [30, 30]
    assert "hold unsampled none" in guarded.reasons()
    guarded.stop()


def test_a_sample_is_taken_every_ten_seconds_and_never_without_need(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor by default, where no decision asks for it."""
    taken: list[float] = []
    for policy, expected in ((HOLD, 3), (Policy(), 0)):
        taken.clear()
        host.table(NEAR)
        guarded = Guarded(host, policy)
        monkeypatch.setattr(FloodDetector, "_is_flooded", lambda *_, g=guarded: taken.append(g.clock.now))
        for _ in range(100):
            guarded.turn(0.25)
        assert len(taken) == expected  # at 0, 10 and 20 of 25 s
        guarded.stop()


def test_a_sample_that_hangs_delays_no_decision(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop only requests samples: while one hangs, a full table gets its plain step."""
    released = threading.Event()
    monkeypatch.setattr(FloodDetector, "_is_flooded", lambda *_: released.wait(10.0) and None)
    host.table(NEAR)
    guarded = Guarded(host, HOLD)
    guarded.loop.turn()
    host.table(LIMIT)
    guarded.message()
    guarded.clock.now += 0.01
    guarded.loop.turn()
    assert host.limit == LIMIT * 3 // 2
    assert not released.is_set()
    released.set()
    guarded.stop()


def test_a_result_is_valid_for_thirty_seconds(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """While later samples hang, the last result ends 30 s after its request."""
    fill_with(host, answered=0, unanswered=1000)
    host.table(NEAR)
    guarded = Guarded(host, HOLD)
    guarded.turn()
    released = threading.Event()
    monkeypatch.setattr(FloodDetector, "_is_flooded", lambda *_: released.wait(10.0) and None)
    marked = []
    for _ in range(4):
        marked.append(guarded.floods.mark(guarded.observer.observe()).tables[0].flooded)
        guarded.clock.now += 11.0
        guarded.loop.turn()
    assert marked == [True, True, True, None]
    released.set()
    guarded.stop()
