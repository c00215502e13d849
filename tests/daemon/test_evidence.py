"""What drops and messages show: which of them lead to a raise, and which no longer do."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host, an_override, watch

from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import OverrideKind, Pause

STEP = 98_304
"""65,536 × 1.5."""
LINE_ONLY = Policy(raise_early=False)


@pytest.mark.parametrize("policy", [Policy(), LINE_ONLY])
def test_lost_races_confirm_no_message(host: Host, policy: Policy) -> None:
    """`drop` rises at 5 % use, also while messages come: no table is full."""
    guarded = Guarded(host, policy)
    for second in range(5):
        host.table(3_277, drop=300 * second)
        guarded.message()
        watch(guarded, 1.0)
    assert guarded.kernel.writes == []
    assert set(guarded.reasons()) == {"hold contradicted none"}
    guarded.stop()


@pytest.mark.parametrize("policy", [Policy(), LINE_ONLY])
def test_lost_races_are_no_way_round_an_untrusted_namespace(rootless: Host, policy: Policy) -> None:
    """A rootless container's table is full and drops, the host's own loses three races at 5 % use."""
    rootless.table(LIMIT, pid="200")
    rootless.table(3_277)
    guarded = Guarded(rootless, policy)
    guarded.turn()
    rootless.table(LIMIT, drop=50, pid="200")
    rootless.table(3_277, drop=3)
    guarded.message()
    watch(guarded, 12.0)
    assert guarded.kernel.writes == []
    assert set(guarded.reasons()) == {"hold untrusted_namespace none"}
    guarded.stop()


@pytest.mark.parametrize("limit", [200_000, 75_000])  # the table takes 33 % of it, or 87 %
@pytest.mark.parametrize("policy", [Policy(), LINE_ONLY])
def test_a_limit_that_another_program_raised_is_not_raised_for_old_drops(
    host: Host, policy: Policy, limit: int
) -> None:
    """Raising is paused while a table drops; somebody makes room, and the pause ends: there is nothing left to do."""
    guarded = Guarded(host, policy)
    guarded.runtime_dir.put_pause(Pause(by="root", reason="drill"))
    host.table(LIMIT)
    guarded.turn()
    host.table(LIMIT, drop=60)
    guarded.message()
    guarded.turn(0.25)
    host.limit = limit
    watch(guarded, 2.0)
    guarded.runtime_dir.drop_pause()
    guarded.message()
    watch(guarded, 12.0)
    assert guarded.kernel.writes == []
    guarded.stop()


def test_the_end_of_a_conflict_raises_for_no_old_drops(host: Host) -> None:
    """The other program is changed to a higher limit, then raising resumes, as the advice says."""
    guarded = Guarded(host, Policy(conflict_limit=1))
    host.table(LIMIT)
    guarded.message()
    guarded.turn(5.0)
    host.limit = LIMIT
    host.table(LIMIT, drop=60)
    guarded.message()
    watch(guarded, 1.0)
    assert guarded.reasons()[-1].startswith("hold conflict")
    host.limit = 200_000
    resume = an_override(guarded, OverrideKind.RESUME)
    guarded.runtime_dir.overrides.put(resume.key, encode(resume))
    watch(guarded, 12.0)
    assert guarded.state.conflict_seconds == ()
    assert guarded.kernel.writes == [STEP]
    guarded.stop()


@pytest.mark.parametrize("policy", [Policy(), LINE_ONLY])
def test_a_limit_lowered_under_the_count_is_a_full_table(host: Host, policy: Policy) -> None:
    """100,000 entries stay, and every new flow is dropped: raised for at once, as far as they need."""
    host.limit = 200_000
    host.table(100_000)
    guarded = Guarded(host, policy)
    guarded.turn()
    host.limit = 16_384
    guarded.message()
    guarded.turn(0.25)
    assert host.limit == 125_001  # 100,000 ÷ 0.8, up to the next whole
    guarded.stop()


def test_a_hold_about_a_higher_limit_delays_nothing(host: Host) -> None:
    """`max_limit` held a full table, and is decided on every 5 s; somebody lowers the limit far below it."""
    guarded = Guarded(host, Policy(max_limit=LIMIT))
    host.table(LIMIT)
    guarded.turn(2.5)
    assert guarded.reasons() == ["hold at_ceiling none"]
    host.limit = 16_384
    guarded.turn(0.25)
    assert host.limit == LIMIT
    guarded.stop()


@pytest.mark.parametrize("policy", [Policy(), LINE_ONLY])
@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_an_untrusted_namespace_that_has_left_explains_its_message(
    rootless: Host, policy: Policy, *, numbered: bool, again: bool
) -> None:
    """A user fills a table, lets it drop and leaves. Its entries are freed late; another message is read after that."""
    guarded = Guarded(rootless, policy)
    rootless.table(LIMIT, drop=200, pid="200")
    guarded.message(rootless.container if numbered else None)
    guarded.turn()
    rootless.end("200", memory_is_kept=True)
    if again:
        guarded.message(rootless.container if numbered else None)
    watch(guarded, 12.0)
    assert guarded.kernel.writes == []
    assert guarded.reasons()[0] == "hold untrusted_namespace none"
    assert "The table that explained the message is gone. Nothing to do." in [row.sentence for row in guarded.rows()]
    guarded.stop()


def test_a_message_about_a_full_table_is_not_left_to_a_later_hidden_one(host: Host) -> None:
    """It was judged while raising was paused, and its namespace has ended since: the end of the pause raises nothing."""
    guarded = Guarded(host, LINE_ONLY)
    guarded.runtime_dir.put_pause(Pause(by="root", reason="drill"))
    host.table(LIMIT, pid="200")
    guarded.message(host.container)
    guarded.turn()
    assert guarded.reasons() == ["hold paused none"]
    host.end("200", memory_is_kept=False)
    guarded.runtime_dir.drop_pause()
    watch(guarded, 8.0)
    assert guarded.kernel.writes == []
    guarded.stop()


def test_a_table_in_the_place_of_ended_ones_is_found(host: Host) -> None:
    """The counts of namespaces that have ended hide no new one. Its message is suppressed, say."""
    host.namespace("201", 40_000)
    host.table(40_000, pid="200")
    guarded = Guarded(host)
    watch(guarded, 1.0)
    host.end("200", memory_is_kept=False)
    host.end("201", memory_is_kept=False)
    watch(guarded, 1.0)
    host.namespace("300", LIMIT)
    watch(guarded, 1.0)
    assert host.limit > LIMIT
    guarded.stop()


def test_entries_that_are_freed_late_hide_no_new_table(rootless: Host) -> None:
    """A scan that met the entries of a namespace that had left does not take them for normal once they are gone."""
    guarded = Guarded(rootless)
    rootless.table(LIMIT, drop=200, pid="200")
    guarded.message()
    guarded.turn()
    rootless.end("200", memory_is_kept=True)
    watch(guarded, 6.0)
    rootless.end("200", memory_is_kept=False)
    watch(guarded, 1.0)
    rootless.namespace("300", LIMIT)
    watch(guarded, 1.0)
    assert rootless.limit > LIMIT
    guarded.stop()


def test_a_burst_that_is_over_doubles_the_limit_at_most(host: Host) -> None:
    """25,536 entries come within 56 ms, and then none: nothing shows that it goes on."""
    host.table(40_000)
    guarded = Guarded(host)
    guarded.turn(5.0)
    host.table(LIMIT)
    guarded.message()
    guarded.turn(0.056)
    assert host.limit == 2 * LIMIT
    assert "456,000 new entries/s measured over 56 ms" in guarded.rows()[0].sentence
    for _ in range(100):
        guarded.turn(0.05)
    assert host.limit == 2 * LIMIT
    guarded.stop()


def test_growth_that_lasts_is_looked_ahead_with(host: Host) -> None:
    """It gets steeper, and two intervals of 50 ms show that it lasts: one raise goes as far as it needs."""
    host.table(LIMIT // 2)
    guarded = Guarded(host)
    guarded.turn(5.0)
    host.table(37_768)  # 20,000 a second: full in 1.4 s
    guarded.turn(0.25)
    host.table(42_683)  # 98,300 a second
    guarded.turn(0.05)
    assert host.limit == LIMIT
    host.table(47_598)
    guarded.turn(0.05)
    assert host.limit == 4 * LIMIT
    guarded.stop()


def test_after_a_raise_the_tables_are_read_within_50_ms(host: Host) -> None:
    """A step made without a measured demand may be too small."""
    guarded = Guarded(host)
    guarded.turn()
    host.table(LIMIT)
    guarded.message()
    guarded.turn(0.01)
    assert host.limit == STEP
    assert guarded.loop._wait_ms() < 51
    guarded.stop()


def test_a_step_that_was_too_small_is_followed_before_packets_are_dropped(host: Host) -> None:
    """The table is found at 95 %, and grows by 60,000 a second: the next raise comes before it is full, in 0.6 s."""
    guarded = Guarded(host)
    guarded.turn()
    host.table(62_260)
    guarded.turn(2.5)  # too long ago to tell of growth
    assert host.limit == STEP
    for step in range(1, 12):
        host.table(62_260 + step * 3_000)
        guarded.turn(0.05)
    assert host.limit > 2 * STEP
    guarded.stop()


@pytest.mark.parametrize("policy", [Policy(), LINE_ONLY])
def test_a_table_that_wavers_at_its_limit_is_raised_for(host: Host, policy: Policy) -> None:
    """Every look finds it at 85 %, as entries expire; it was full in between, and dropped each time."""
    host.table(55_706)
    guarded = Guarded(host, policy)
    guarded.turn()
    host.table(55_706, drop=1)
    guarded.message()
    guarded.turn(0.25)
    assert host.limit == STEP
    guarded.stop()
