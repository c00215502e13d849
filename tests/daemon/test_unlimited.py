"""Limits that the kernel reads as none (0, and -1 as 4,294,967,295), and counts over the limit."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core import tuning

STEP = 98_304
"""65,536 × 1.5."""
UNLIMITED = [0, -1, -5, -(2**31)]


@pytest.mark.parametrize("shown", UNLIMITED)
@pytest.mark.parametrize("raise_first", [False, True])
def test_an_unlimited_table_stays_so(host: Host, shown: int, *, raise_first: bool) -> None:
    """Whatever the tables hold, and whether the guard raised before: nothing is written, and nobody lowered anything."""
    guarded = Guarded(host)
    if raise_first:
        host.table(LIMIT)
        guarded.message()
        guarded.turn()
        assert (host.limit, guarded.kernel.writes) == (STEP, [STEP])
    host.limit = shown
    for count in (LIMIT, 300_000):
        host.table(count, drop=count)
        guarded.message()
        for _ in range(8):
            guarded.turn(2.0)
    assert host.limit == shown
    assert guarded.kernel.writes == [STEP] * raise_first
    assert guarded.state.conflict_seconds == ()
    assert guarded.state.set_limit is None
    reasons = guarded.reasons()
    assert "hold limit_lowered none" not in reasons
    assert "hold limit_raised none" in reasons
    assert reasons[-1] == "hold unlimited none"
    sentence = guarded.rows()[-1].sentence
    assert sentence.startswith(f"The limit is {shown} (unlimited) and stays so")
    guarded.stop()


@pytest.mark.parametrize("shown", UNLIMITED)
def test_the_end_of_an_unlimited_value_is_a_lowering_and_no_conflict(
    host: Host, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From -1 back to a number fewer entries fit, but the guard's own value had ended long before."""
    monkeypatch.setattr(tuning, "STANDING_SECONDS", 4.0)
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.table(10)
    for limit in (shown, LIMIT):
        host.limit = limit
        guarded.turn(5.0)
    assert guarded.state.conflict_seconds == ()
    changes = [row.sentence for row in guarded.rows() if row.trigger == "other_writer"]
    assert f"from 98,304 to {shown} (unlimited)" in changes[0]
    assert f"from {shown} (unlimited) to 65,536" in changes[1]
    assert [row.reason for row in guarded.rows() if row.trigger == "other_writer"] == ["limit_raised", "limit_lowered"]
    guarded.stop()


@pytest.mark.parametrize("shown", UNLIMITED)
def test_unlimited_while_deciding(host: Host, shown: int) -> None:
    """Another program's -1 just before the write stands."""
    guarded = Guarded(host)
    guarded.turn()
    host.table(LIMIT)
    guarded.message()
    guarded.intents_folder.meanwhile = [lambda: setattr(host, "limit", shown)]
    guarded.turn()
    assert (host.limit, guarded.kernel.writes) == (shown, [])
    assert guarded.reasons() == ["hold changed_under_us none"]
    guarded.stop()


@pytest.mark.parametrize("shown", UNLIMITED)
def test_the_persisted_limit_is_not_put_over_an_unlimited_one(host: Host, shown: int) -> None:
    """At start, and with the drop-in that would lower it at the next boot."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.stop()
    assert host.persisted == STEP
    host.limit = shown
    (host.root / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    after = Guarded(host, clock=guarded.clock)
    after.loop.start()
    after.turn(5.0)
    after.written()
    assert (host.limit, after.kernel.writes) == (shown, [])
    after.stop()


@pytest.mark.parametrize("shown", UNLIMITED)
def test_the_drop_in_never_lowers_an_unlimited_limit(host: Host, shown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saved limit is removed, as the next boot would set it instead of the other program's value."""
    monkeypatch.setattr(tuning, "STANDING_SECONDS", 0.0)
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.limit = shown
    guarded.turn(5.0)
    guarded.written()
    assert host.persisted is None
    (line,) = guarded.logged("guard.info")
    assert f"the limit is now {shown} (unlimited)" in line["message"]
    guarded.stop()


@pytest.mark.parametrize("line", ["0", "-1", "4294967295", pytest.param("9" * 5000, id="long")])
def test_a_drop_in_without_a_limit_of_ours_restores_nothing(host: Host, line: str) -> None:
    """Somebody edited the file: nothing in it can be compared with a limit."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.stop()
    file = guarded.paths.drop_in
    file.write_text(file.read_text().replace("= 98304", f"= {line}"))
    assert host.persisted is None


def test_a_count_over_the_limit_is_a_full_table(host: Host) -> None:
    """A lowered limit leaves the entries: that table is full, and it is raised for in the same turn."""
    host.limit = 262_144
    host.table(100_000)
    guarded = Guarded(host)
    guarded.turn()
    host.limit = 16_384
    guarded.turn(0.25)
    assert guarded.reasons() == ["hold limit_lowered none", "raise filling_up confirmed applied"]
    assert host.limit == 125_001  # 100,000 ÷ 0.8: below the threshold again
    guarded.stop()


def test_a_message_about_a_count_over_the_limit_is_answered(host: Host) -> None:
    """The kernel logs it before the next tick."""
    host.limit = 262_144
    host.table(100_000)
    guarded = Guarded(host)
    guarded.turn()
    host.limit = 16_384
    guarded.message()
    guarded.turn(0.01)
    assert guarded.reasons() == ["hold limit_lowered none", "raise kernel_message confirmed applied"]
    assert host.limit == 125_001
    guarded.stop()
