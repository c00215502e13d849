"""`min_limit`: one raise at start and one each time another program goes below it, within every bound."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host, again, an_override

from conntrackd_guard.core import tuning
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy, Share
from conntrackd_guard.core.model import OverrideKind, Pause, TriggerKind
from conntrackd_guard.core.policy import decide

LEAST = 200_000
POLICY = Policy(min_limit=LEAST)
RAISED = "raise min_limit applied"


def some_turns(guarded: Guarded) -> None:
    """Let 30 s pass: pending decisions, retries, and whatever would raise a second time."""
    for _ in range(12):
        guarded.turn(2.5)


def test_a_start_raises_to_it_once(host: Host) -> None:
    """The raise is recorded, and saved for the next boot; an empty table is no reason for another."""
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    guarded.written()
    assert (host.limit, host.persisted) == (LEAST, LEAST)
    assert guarded.reasons() == [RAISED]
    (row,) = guarded.rows()
    assert row.sentence.startswith(
        "Raised 65,536 → 200,000: the limit was below the `min_limit` of 200,000; when full,"
    )
    guarded.stop()


def revert(guarded: Guarded, limit: int = LIMIT) -> None:
    """Go back to the limit from before the raise, as `guard revert` does."""
    record = an_override(guarded, OverrideKind.REVERT, limit)
    guarded.host.limit = limit
    guarded.runtime_dir.overrides.put(record.key, encode(record))
    some_turns(guarded)
    guarded.written()


@pytest.mark.parametrize("limit", [LEAST, 3 * LEAST, 0])
def test_nothing_is_raised_from_as_much_or_from_unlimited(host: Host, limit: int) -> None:
    """0 is no limit: any number would lower it."""
    host.limit = limit
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    assert host.limit == limit
    assert guarded.kernel.writes == []
    guarded.stop()


def test_without_it_nothing_changes(host: Host) -> None:
    """The default is none."""
    guarded = Guarded(host)
    host.limit = 100
    some_turns(guarded)
    assert host.limit == 100
    guarded.stop()


def test_the_budget_bounds_it(host: Host) -> None:
    """Part of it fits: 64 MiB less 4 MiB of buckets, at 576 bytes an entry."""
    guarded = Guarded(host, Policy(min_limit=LEAST, budget=Share(bytes=64 << 20)))
    some_turns(guarded)
    assert host.limit == ((64 << 20) - 16 * 262_144) // 576
    assert guarded.reasons() == [RAISED]
    guarded.stop()


def test_each_lowering_is_answered_once_and_is_a_conflict(host: Host) -> None:
    """Also the first one, of a limit that the guard had not set; the third stops raising until an operator resumes."""
    host.limit = 300_000
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    for number in (1, 2):
        host.limit = LIMIT
        some_turns(guarded)
        assert host.limit == LEAST
        assert len(guarded.state.conflict_seconds) == number
    host.limit = LIMIT
    some_turns(guarded)
    assert host.limit == LIMIT
    assert guarded.reasons().count(RAISED) == 2
    assert guarded.reasons().count("hold conflict none") == 1
    resume = an_override(guarded, OverrideKind.RESUME)
    guarded.runtime_dir.overrides.put(resume.key, encode(resume))
    some_turns(guarded)
    assert host.limit == LEAST
    guarded.stop()


def test_a_lowering_that_stays_above_it_is_no_reason(host: Host) -> None:
    """Another program may set what it likes from `min_limit` on."""
    host.limit = 300_000
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    host.limit = LEAST
    some_turns(guarded)
    assert host.limit == LEAST
    assert guarded.state.conflict_seconds == ()
    guarded.stop()


def test_a_pause_delays_it(host: Host) -> None:
    """Nothing while paused, and the raise after its end."""
    guarded = Guarded(host, POLICY)
    guarded.runtime_dir.put_pause(Pause(by="root", reason="drill", until_seconds=guarded.clock.now + 32.0))
    some_turns(guarded)
    assert host.limit == LIMIT
    (held,) = guarded.rows()
    assert (held.reason, held.repeats) == ("paused", 1)
    some_turns(guarded)
    assert host.limit == LEAST
    assert guarded.reasons() == ["hold paused none", RAISED]
    guarded.stop()


def test_a_revert_outranks_it(host: Host) -> None:
    """Neither a restart nor another program's lowering raises after `guard revert`, until an operator resumes."""
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    revert(guarded)
    guarded = again(guarded)
    some_turns(guarded)
    host.limit = LIMIT - 1
    some_turns(guarded)
    assert host.limit == LIMIT - 1
    assert guarded.reasons()[-1] == "hold reverted none"
    guarded.stop()


def test_what_was_put_back_ends_no_revert(host: Host) -> None:
    """The module is loaded again: the limit that the operator went back to returns, and no more."""
    host.limit = LIMIT + 1_000
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    revert(guarded, LIMIT + 1_000)
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    some_turns(guarded)
    host.limit = host.buckets = LIMIT
    some_turns(guarded)
    assert guarded.reasons()[-2:] == ["raise restore applied", "hold reverted none"]
    assert host.limit == LIMIT + 1_000
    guarded.stop()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_resume_after_a_revert_raises_to_it(host: Host, *, restarted: bool) -> None:
    """A revert lets it rest only until then; a raise that stands needs no other."""
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    revert(guarded)
    guarded = again(guarded) if restarted else guarded
    some_turns(guarded)
    assert host.limit == LIMIT
    for _ in range(2):
        resume = an_override(guarded, OverrideKind.RESUME)
        guarded.runtime_dir.overrides.put(resume.key, encode(resume))
        some_turns(guarded)
    assert host.limit == LEAST
    assert guarded.reasons().count(RAISED) == 2
    guarded.stop()


def test_a_module_loaded_again_is_another_start(host: Host) -> None:
    """The kernel's default is below it, also where the guard had nothing to raise before."""
    host.limit = 300_000
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    some_turns(guarded)
    host.limit = LIMIT
    some_turns(guarded)
    assert host.limit == LEAST
    guarded.stop()


def test_a_reload_that_changes_it_raises_to_it(host: Host) -> None:
    """Without a restart; one that leaves it as it is changes nothing."""
    guarded = Guarded(host)
    for least in (LEAST, LEAST, 2 * LEAST, 2 * LEAST):
        guarded.controller.policy = Policy(min_limit=least)
        some_turns(guarded)
        assert host.limit == least
    assert len(guarded.kernel.writes) == 2
    guarded.stop()


def test_its_rows_decide_again_to_the_same(host: Host) -> None:
    """Trigger, observation, state and policy of each row are all that its decision came from."""
    host.limit = 300_000
    guarded = Guarded(host, POLICY)
    for _ in range(3):
        some_turns(guarded)
        host.limit = LIMIT
    some_turns(guarded)
    with guarded.history() as history:
        found = [record for record in history.records("boot-1") if record.trigger.kind is TriggerKind.MINIMUM]
    assert len(found) == 2
    for record in found:
        assert decide(record.trigger, record.observation, record.state, POLICY) == record.decision
    guarded.stop()


def test_a_kernel_that_tracks_nothing_yet_is_raised_once_it_does(host: Host) -> None:
    """At boot the guard often starts before connection tracking is loaded: that start counts."""
    files = [host.root / f"proc/sys/net/netfilter/nf_conntrack_{name}" for name in ("max", "buckets")]
    kept = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    for file, content in zip(files, kept, strict=True):
        file.write_text(content)
    some_turns(guarded)
    assert host.limit == LEAST
    assert guarded.reasons().count(RAISED) == 1
    guarded.stop()


def test_a_raise_just_before_delays_it_by_the_cooldown(host: Host) -> None:
    """Two raises are never closer than the cooldown, whatever they are for."""
    guarded = Guarded(host, POLICY)
    some_turns(guarded)
    host.table(LEAST)
    guarded.message()
    guarded.turn()
    assert host.limit == LEAST * 3 // 2
    host.table(10)
    host.limit = LIMIT
    guarded.turn(0.3)
    guarded.turn(0.3)
    assert host.limit == LIMIT
    some_turns(guarded)
    assert host.limit == LEAST
    guarded.stop()


def test_a_conflict_ends_with_its_window(host: Host) -> None:
    """A day later fewer than three lowerings count, and the limit is raised again without an operator."""
    host.limit = 300_000
    guarded = Guarded(host, POLICY)
    for _ in range(3):
        host.limit = LIMIT
        some_turns(guarded)
    assert host.limit == LIMIT
    guarded.clock.now += tuning.CONFLICT_WINDOW_SECONDS
    some_turns(guarded)
    assert host.limit == LEAST
    guarded.stop()
