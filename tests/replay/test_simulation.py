"""Time series drive the real loop: raises, holds, gaps, boots, other writers, and what is only known as a floor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from conntrackd_guard.core.configuration import FloodAction, FloodResponse, Policy
from conntrackd_guard.core.model import MessageKind
from conntrackd_guard.replay.engine import replay
from conntrackd_guard.replay.model import Grade, HostFacts, HostInput, HostResult, Message, Sample
from conntrackd_guard.replay.simulated_host import SimulatedHost
from conntrackd_guard.replay.simulation import Simulation

GIB = 2**30
LIMIT = 262_144
FACTS = HostFacts(total_bytes=24 * GIB, buckets=262_144, entry_slab_bytes=256)


def series(entries: Iterable[int], *, step: float = 60.0, drops: Iterable[int] | None = None) -> list[Sample]:
    """Return samples of a host with 20 GiB available; `drops` is cumulative."""
    counts = list(entries)
    dropped = [0] * len(counts) if drops is None else list(drops)
    return [
        Sample(1e9 + step * at, count, LIMIT, 20 * GIB, drop)
        for at, (count, drop) in enumerate(zip(counts, dropped, strict=True))
    ]


def simulated(
    samples: Iterable[Sample],
    policy: Policy | None = None,
    *,
    facts: HostFacts = FACTS,
    messages: Iterable[Message] = (),
) -> HostResult:
    """Return the row of such a host."""
    host = HostInput(name="host", grade=Grade.SIMULATED, facts=facts, samples=samples, messages=messages)
    return replay(host, policy or Policy())


def test_a_quiet_table_needs_nothing() -> None:
    """A fortnight at a tenth of the limit, and at 60 %."""
    for count in (LIMIT // 10, 6 * LIMIT // 10):
        row = simulated(series([count] * 500))
        assert (row.raises, row.episodes, row.holds, row.highest_limit) == (0, 0, {}, LIMIT)


def test_a_ramp_is_raised_for_once_before_the_table_is_full() -> None:
    """By the growth factor, while packets still pass."""
    row = simulated(series(min(LIMIT, 1000 * at) for at in range(300)))
    assert [(step.before, step.target) for step in row.steps] == [(LIMIT, 3 * LIMIT // 2)]
    assert row.dropped == 0
    crossed = 1e9 + 60 * 0.8 * LIMIT / 1000
    assert crossed <= row.steps[0].at <= 1e9 + 60 * LIMIT / 1000
    assert (row.episodes, row.causes["filling_up"] >= 1) == (1, True)


def test_a_steep_ramp_gets_room_for_its_growth() -> None:
    """5,000 a second for half a minute: half a minute ahead is more than half the limit."""
    row = simulated(series([0, 0, LIMIT, LIMIT], step=50.0))
    assert row.raises >= 1
    assert row.steps[0].target == pytest.approx(LIMIT + 30 * LIMIT / 50, rel=0.01)


def test_drops_of_a_full_table_are_saved_as_far_as_there_was_room() -> None:
    """Each refused packet needs an entry: what fits is known, beyond it is at least that."""
    few = simulated(series([LIMIT] * 10, drops=[1000 * at for at in range(10)]))
    assert few.raises == 1
    assert few.dropped == 9000
    assert few.saved is not None
    assert 8900 <= few.saved <= 9000
    assert not few.saved_at_least
    many = simulated(series([LIMIT] * 10, drops=[100_000 * at for at in range(10)]))
    assert many.saved is not None
    assert many.saved_at_least
    assert many.highest_limit is not None
    assert many.saved <= many.highest_limit - LIMIT < 900_000


def test_drops_far_below_the_limit_are_none_of_a_full_table() -> None:
    """Lost races and failed allocations count in the same counter."""
    row = simulated(series([LIMIT // 4] * 5, drops=[0, 50, 100, 150, 200]))
    assert (row.dropped, row.saved, row.raises) == (0, 0, 0)


def test_no_memory_in_the_evidence_means_no_raise() -> None:
    """Nothing is made up in its place."""
    row = simulated([sample._replace(available_bytes=None) for sample in series([LIMIT] * 5)])
    assert row.raises == 0
    assert "memory_unknown" in row.holds
    assert row.actions


def test_another_program_that_keeps_lowering_ends_the_raises() -> None:
    """Three times within a day: the fourth raise is not made."""
    samples = series([9 * LIMIT // 10] * 900)
    lowered = [one._replace(limit=LIMIT // 2) if at % 100 == 50 else one for at, one in enumerate(samples)]
    row = simulated(lowered)
    assert row.holds["limit_lowered"] >= 4
    assert "conflict" in row.holds
    free = simulated(lowered, Policy(conflict_limit=0))
    assert "conflict" not in free.holds
    assert free.raises > row.raises


def test_a_boot_brings_back_the_limit_that_was_reached() -> None:
    """The counter begins again, and so does the default limit of the kernel."""
    ramp = [min(LIMIT, 1000 * at) for at in range(260)]
    row = simulated(series([*ramp, *([5000] * 20)], drops=[*([7] * 260), *([0] * 20)]))
    assert [step.cause for step in row.steps] == ["filling_up", "start"]
    assert "1 restarts" in " ".join(row.notes)


def test_nothing_is_known_of_a_gap() -> None:
    """A jump over an hour without samples is no growth."""
    before, after = series([1000] * 20), series([LIMIT // 2] * 20)
    row = simulated([*before, *(one._replace(wall_seconds=one.wall_seconds + 7200) for one in after)])
    assert row.raises == 0
    assert "1 gaps" in " ".join(row.notes)


def test_samples_with_holes_or_out_of_order_are_left_out() -> None:
    """And counted."""
    samples = series([1000] * 5)
    row = simulated([*samples, samples[0], samples[1]._replace(entries=None), samples[2]._replace(limit=None)])
    assert "3 samples" in " ".join(row.notes)


def test_messages_reach_the_loop_at_their_time() -> None:
    """A table that is full by its message, where the counters alone may not raise."""
    policy = Policy(raise_early=False)
    message = Message(1e9 + 130, MessageKind.TABLE_FULL, None, 3)
    row = simulated(series([LIMIT] * 5), policy, messages=[message])
    assert (row.messages, row.raises) == (3, 1)
    assert row.steps[0].at == pytest.approx(1e9 + 130, abs=0.5)
    assert row.steps[0].cause == "kernel_message"
    assert simulated(series([LIMIT] * 5), policy).raises == 0


def test_a_policy_about_floods_is_named_as_not_decidable() -> None:
    """No sample of the past shows who filled a table."""
    row = simulated(series([1000] * 3), Policy(on_flood=FloodResponse(action=FloodAction.HOLD)))
    assert any("on_flood" in note for note in row.notes)


def test_kernel_messages_alone_raise_nothing() -> None:
    """They show when the guard would have been asked, and with limit and memory how far it could have gone."""
    messages = [Message(1e9 + at, MessageKind.TABLE_FULL, None, 10) for at in (0, 5, 600)]
    host = HostInput(name="host", grade=Grade.ASKED_ONLY, facts=HostFacts(total_bytes=24 * GIB), messages=messages)
    row = replay(host, Policy())
    assert (row.messages, row.episodes, row.raises, row.allowed_limit) == (30, 2, 0, None)
    facts = replace(host.facts, limit=LIMIT, available_bytes=20 * GIB)
    known = replay(replace(host, facts=facts), Policy(max_limit=3 * LIMIT))
    assert (known.raises, known.allowed_limit) == (0, 3 * LIMIT)


def test_another_programs_limit_after_hours_at_rest_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A settled table makes no turns; the lowering is seen when it came, with the entries of then."""
    before = [sample._replace(entries=215_000 + at) for at, sample in enumerate(series([0] * 300))]
    later = before[-1].wall_seconds + 60
    turns, turn = [], Simulation._turn

    def noted(self: Simulation, host: SimulatedHost, at: float, entries: int) -> None:
        turns.append((host.kernel.value, at, entries))
        turn(self, host, at, entries)

    monkeypatch.setattr(Simulation, "_turn", noted)
    row = simulated([*before, Sample(later, 215_300, 220_000, 20 * GIB, 0)])
    assert (row.raises, len(turns) < 100) == (1, True)
    assert next(one for one in turns if one[0] == 220_000) == (220_000, before[-1].wall_seconds, 215_299)
