"""Other writers of the limit and the operator's overrides: precedence, and what counts as a conflict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from testbed.guarded import LIMIT, Guarded, Host, an_override

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Buckets, Mode, Policy
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, OverrideKind, Pause, Trigger, TriggerKind
from conntrackd_guard.host.runtime_dir import RuntimeDir

STEP = 98_304
"""65,536 × 1.5."""


@pytest.mark.parametrize("times", [1, 3])
def test_lowered_while_deciding(host: Host, times: int) -> None:
    """A limit lowered just before the write is observed and decided on again at once, three times at most."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.intents_folder.meanwhile = [lambda n=n: setattr(host, "limit", LIMIT - n) for n in range(1, times + 1)]  # type: ignore[misc]
    guarded.turn()
    assert host.limit == -(-(LIMIT - times) * 3 // 2)
    assert guarded.reasons()[-1] == "raise kernel_message confirmed applied"
    assert guarded.reasons().count("hold limit_lowered none") == times
    assert guarded.intents() == 0
    guarded.stop()


def test_lowered_again_and_again_while_deciding(host: Host) -> None:
    """The fourth time the guard holds, and decides again a tick later without a new message."""
    host.table(LIMIT)  # before the first look: no growth is seen
    guarded = Guarded(host, Policy(raise_early=False))
    guarded.turn()  # a tick, so that the next is not due at once
    guarded.message()
    guarded.intents_folder.meanwhile = [lambda n=n: setattr(host, "limit", LIMIT - n) for n in range(1, 5)]  # type: ignore[misc]
    guarded.turn()
    assert host.limit == LIMIT - 4
    assert guarded.reasons()[-1] == "hold changed_under_us none"
    guarded.turn(0.25)
    assert host.limit == 98_298  # 65,532 × 1.5
    guarded.stop()


def test_raised_while_deciding(host: Host) -> None:
    """Another writer's higher limit stands: nothing is written over it."""
    guarded = Guarded(host)
    guarded.turn()  # a tick, so that the next is not due at once
    host.table(LIMIT)
    guarded.message()
    guarded.intents_folder.meanwhile = [lambda: setattr(host, "limit", 4 * LIMIT)]
    guarded.turn()
    assert host.limit == 4 * LIMIT
    assert guarded.kernel.writes == []
    assert guarded.reasons() == ["hold changed_under_us none"]
    assert guarded.intents() == 0
    guarded.stop()


def test_a_change_is_recorded_although_the_decision_that_met_it_fails(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next tick records it, once."""
    guarded = Guarded(host)
    guarded.turn()
    host.table(LIMIT)
    host.limit = LIMIT - 1
    guarded.message()

    def fail(*_: object) -> None:
        raise HostError("read", "/proc", None, "Nothing to do.")

    with monkeypatch.context() as failing:
        failing.setattr(guarded.parts.applier, "apply", fail)
        guarded.turn()
    guarded.turn(3.0)
    assert guarded.reasons().count("hold limit_lowered none") == 1
    assert guarded.reasons()[-1].startswith("raise")
    guarded.stop()


def test_a_dry_run_names_the_acting_guard(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its raises are no riddle in the audit beside it."""
    guarded = Guarded(host)
    monkeypatch.setattr(RuntimeDir, "holder", lambda _: 7)
    guarded.runtime_dir.put_status({"limit": STEP})
    seen = replace(guarded.observer.observe(), limit=STEP, kernel_limit=STEP)
    record = replace(
        an_override(guarded, OverrideKind.RESUME),
        mode=Mode.DRY_RUN,
        trigger=Trigger(kind=TriggerKind.OTHER_WRITER, was=LIMIT),
        observation=seen,
        decision=Hold(reason=HoldReason.LIMIT_RAISED),
    )
    guarded.recorder.submit(record, Policy())
    guarded.recorder.submit(replace(record, key="other", observation=replace(seen, kernel_limit=1)), Policy())
    assert [row.sentence for row in guarded.rows()] == [
        "The acting guard (process 7) set nf_conntrack_max from 65,536 to 98,304.",
        "Something else set nf_conntrack_max from 65,536 to 1 (not known what).",
    ]
    guarded.stop()


def test_a_revert_is_no_conflict(host: Host) -> None:
    """A revert that lowers the limit is taken from its file before the change of limit is judged."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.table(10)
    record = an_override(guarded, OverrideKind.REVERT, LIMIT)
    host.limit = LIMIT
    guarded.runtime_dir.overrides.put(record.key, encode(record))
    guarded.turn(5.0)
    assert guarded.state.conflict_seconds == ()
    assert guarded.state.set_limit is None
    assert guarded.runtime_dir.overrides.all() == []
    assert "hold limit_lowered none" not in guarded.reasons()
    guarded.stop()


def test_three_foreign_lowerings_are_a_conflict_until_resume(host: Host) -> None:
    """The third foreign lowering stops raising, with a report; `guard resume` restarts it."""
    guarded = Guarded(host)
    for _ in range(3):
        host.table(host.limit)
        guarded.message()
        guarded.turn(5.0)
        assert host.limit == STEP
        host.table(10)
        host.limit = LIMIT
        guarded.turn(15.0)
    assert len(guarded.state.conflict_seconds) == 3
    host.table(LIMIT)
    guarded.message()
    guarded.turn(5.0)
    assert host.limit == LIMIT
    assert guarded.reasons()[-1] == "hold conflict none"
    status = guarded.runtime_dir.status()
    assert status is not None
    assert status["conflict"] is True
    resume = an_override(guarded, OverrideKind.RESUME)
    guarded.runtime_dir.overrides.put(resume.key, encode(resume))
    guarded.turn(5.0)
    guarded.turn(5.0)
    assert host.limit == STEP
    guarded.stop()


def test_a_pause_holds_and_its_end_raises(host: Host) -> None:
    """While paused nothing is written; within 5 s of its end the table that is still full is raised for."""
    guarded = Guarded(host)
    guarded.runtime_dir.put_pause(Pause(by="root", reason="drill", until_seconds=guarded.clock.now + 7.0))
    host.table(LIMIT)
    guarded.message()
    for _ in range(28):
        guarded.turn(0.24)
    assert host.limit == LIMIT
    for _ in range(24):
        guarded.turn(0.25)
    assert host.limit == STEP
    assert guarded.reasons().count("hold paused none") == 2  # for the message, and for the pressure
    guarded.stop()


def raised(host: Host) -> Guarded:
    """Return a guard that raised to STEP, with its table empty again."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.table(10)
    guarded.turn(5.0)
    assert host.limit == STEP
    return guarded


@pytest.mark.parametrize("passing", [[40_000], [0], [1_000_000], [40_000, 0, 50_000], [0, 40_000]])
def test_a_value_that_stands_for_seconds_is_no_conflict(host: Host, passing: list[int]) -> None:
    """`sysctl --system` passes through other values, and so do scripts: raising never stops for it."""
    guarded = raised(host)
    for _ in range(4):
        for limit in (*passing, STEP):
            host.limit = limit
            guarded.turn(2.0)
    assert guarded.state.conflict_seconds == ()
    assert guarded.state.set_limit == STEP
    host.limit = 40_000
    guarded.turn(2.0)
    assert len(guarded.state.conflict_seconds) == 1
    guarded.stop()


@pytest.mark.parametrize("by_way_of", [[], [0], [1_000_000]])
def test_a_value_that_stays_is_a_conflict(host: Host, by_way_of: list[int]) -> None:
    """One, whatever stood for seconds before it; also if the guard's own comes back later."""
    guarded = raised(host)
    for limit in (*by_way_of, 40_000):
        host.limit = limit
        guarded.turn(2.0)
    guarded.turn(20.0)
    host.limit = STEP
    guarded.turn(2.0)
    assert len(guarded.state.conflict_seconds) == 1
    guarded.stop()


def test_the_log_counts_up_to_the_lowering_that_stops_raising(host: Host) -> None:
    """The first and the second say what the third does; one that is taken back says that it doesn't count."""
    guarded = raised(host)
    for limit in (40_000, STEP, 40_000):
        host.limit = limit
        guarded.turn(2.0)
    guarded.turn(20.0)
    guarded.written()
    logged = [line["message"] for line in guarded.logged("guard.hold") if "Something else" in line["message"]]
    assert "1 of 3 in 24 h: at 3 the guard stops raising." in logged[0]
    assert "was passing, and no conflict." in logged[1]
    assert "1 of 3 in 24 h: at 3 the guard stops raising." in logged[2]
    guarded.stop()


def test_buckets_that_another_program_changes(host: Host) -> None:
    """They are recorded with what they mean for a full table: alone, and together with the limit."""
    guarded = raised(host)
    host.buckets = 8_192
    guarded.turn(1.0)
    assert guarded.reasons()[-1] == "hold buckets_changed none"
    assert guarded.rows()[-1].sentence == (
        "Something else set nf_conntrack_buckets from 262,144 to 8,192 (not known what). "
        "A full table now means chains of 24.0 entries on average."
    )
    host.buckets, host.limit = 16_384, LIMIT
    guarded.turn(1.0)
    assert guarded.rows()[-1].sentence.startswith(
        "Something else set nf_conntrack_max from 98,304 to 65,536 and nf_conntrack_buckets from 8,192 to 16,384"
    )
    assert len(guarded.state.conflict_seconds) == 1
    guarded.turn(5.0)
    assert guarded.reasons()[-1] == "hold limit_lowered none"
    guarded.stop()


def test_buckets_that_the_guard_raised_are_its_own(host: Host) -> None:
    """With `buckets: match`."""
    host.buckets = 4_096
    guarded = Guarded(host, Policy(buckets=Buckets.MATCH))
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.table(10)
    assert host.buckets > 4_096
    guarded.turn(5.0)
    assert "hold buckets_changed none" not in guarded.reasons()
    guarded.stop()


def test_a_change_of_buckets_is_no_bar_to_a_revert(host: Host) -> None:
    """What raised the limit can still be undone."""
    guarded = raised(host)
    host.buckets = 8_192
    guarded.turn(1.0)
    guarded.written()
    assert main(["revert", "--all"], guarded.paths) is Exit.DONE
    assert host.limit == LIMIT
    guarded.stop()
