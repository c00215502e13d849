"""Decisions with other writers, overrides and a failing host."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NoReturn

import pytest
from testbed.guarded import LIMIT, Guarded, Host, an_override

from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Buckets, Policy, Share
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.model import OutcomeKind, OverrideKind
from conntrackd_guard.history.details import detail

STEP = 98_304
"""65,536 × 1.5."""


def test_a_lowering_that_a_message_reveals_counts_as_a_conflict(host: Host) -> None:
    """Another writer lowers the limit under a busy table: the message comes milliseconds later, before the next tick."""
    guarded = Guarded(host, Policy(conflict_limit=2))
    for _ in range(2):
        host.table(host.limit)
        guarded.message()
        guarded.turn(5.0)
        assert host.limit > LIMIT
        host.limit = LIMIT
        guarded.message()
        guarded.turn(0.003)
    assert len(guarded.state.conflict_seconds) == 2
    assert host.limit == LIMIT  # two lowerings are a conflict here
    assert guarded.reasons()[-2:] == ["hold limit_lowered none", "hold conflict none"]
    guarded.stop()


def test_a_lowering_while_the_guard_was_down_is_noticed_at_start(host: Host) -> None:
    """The state remembers what the guard set; another value at the start is another writer's."""
    first = Guarded(host)
    host.table(LIMIT)
    first.message()
    first.turn()
    first.stop()
    host.table(10)
    host.limit = LIMIT
    second = Guarded(host, clock=first.clock)
    second.turn(1.0)
    assert second.reasons()[-1] == "hold limit_lowered none"
    assert "from 98,304 to 65,536 (not known what). 1 of 3 in 24 h" in second.rows()[-1].sentence
    assert len(second.state.conflict_seconds) == 1
    second.stop()


def with_an_override(host: Host) -> Guarded:
    """Return a guard that has raised, with the file of a revert that has not written the limit."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.table(10)
    record = an_override(guarded, OverrideKind.REVERT, LIMIT)
    guarded.runtime_dir.overrides.put(record.key, encode(record))
    return guarded


def test_an_override_that_is_not_in_force_yet_is_waited_for(host: Host) -> None:
    """A revert leaves its file before it writes: until the limit is there, nothing is known of it."""
    guarded = with_an_override(host)
    guarded.turn(3.0)
    assert guarded.state.set_limit == STEP
    host.limit = LIMIT
    guarded.turn(0.25)
    assert guarded.state.set_limit is None
    assert guarded.reasons()[1:] == ["override revert applied"]
    assert guarded.runtime_dir.overrides.all() == []
    guarded.stop()


def test_an_interrupted_override_is_reported_and_not_believed(host: Host) -> None:
    """A revert that was killed before its write is no revert."""
    guarded = with_an_override(host)
    guarded.turn(11.0)
    assert guarded.state.set_limit == STEP
    assert guarded.runtime_dir.overrides.all() == []
    guarded.written()
    assert any("not carried out" in line["message"] for line in guarded.logged("guard.info"))
    guarded.stop()


def test_an_override_that_can_not_be_read_ends_nothing(host: Host) -> None:
    """An unreadable override does not stop the loop."""
    guarded = Guarded(host)
    guarded.runtime_dir.overrides.put("odd", {"verdict": [], "decision": {"verdict": []}})
    guarded.turn(3.0)
    guarded.written()
    assert "odd" in guarded.logged("guard.error")[0]["message"]
    assert guarded.runtime_dir.overrides.all() == []
    guarded.stop()


def test_a_full_table_waits_no_five_seconds_for_a_small_change(host: Host) -> None:
    """Another writer raised by one entry just before the write: the next tick decides again."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.intents_folder.meanwhile = [lambda: setattr(host, "limit", LIMIT + 1)]
    guarded.turn()
    host.table(LIMIT + 1)
    guarded.turn(0.25)
    assert host.limit > STEP
    guarded.stop()


def test_buckets_come_before_the_raise(host: Host) -> None:
    """With `match`, the limit is raised once the buckets that it was judged with are there."""
    host.buckets = 16_384
    guarded = Guarded(host, Policy(buckets=Buckets.MATCH))
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    assert (host.limit, host.buckets) == (STEP, 24_576)  # 2 × 98,304 ÷ 8
    guarded.stop()


def test_buckets_that_are_refused_are_not_counted_on(host: Host) -> None:
    """Where the resize fails, the step is judged as with `keep`: beyond chain 24 it is a hold."""
    host.buckets = 4_096  # 2 × 65,536 ÷ 4,096 = 32
    guarded = Guarded(host, Policy(raise_early=False, buckets=Buckets.MATCH, budget=Share(fraction=0.5)))
    guarded.kernel.refusing_buckets = errno.ENOMEM
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    assert host.limit == LIMIT
    assert guarded.reasons() == ["hold chains none", "hold long_chains none"]
    assert "Cannot allocate" in guarded.logged("guard.error")[0]["message"]
    assert guarded.intents() == 0
    guarded.stop()


@pytest.mark.parametrize("error", [OSError(errno.ENFILE, "too many"), RuntimeError("can't start new thread")])
def test_a_host_out_of_everything_is_waited_out(host: Host, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor, no thread: reported once, retried every two seconds without spinning, and then raised for."""
    guarded = Guarded(host)
    observer = guarded.observer
    looks = 0

    def refuse(**_: object) -> None:
        nonlocal looks
        looks += 1
        raise error

    host.table(LIMIT)
    guarded.message()
    with monkeypatch.context() as patch:
        patch.setattr(observer, "observe", refuse)
        for _ in range(100):
            guarded.turn(0.1)
    assert 4 <= looks <= 6  # in 10 s
    guarded.written()
    assert len(guarded.logged("guard.error")) == 1
    guarded.turn(2.0)
    assert host.limit == STEP
    guarded.stop()


def test_a_failing_host_is_read_with_pauses(host: Host) -> None:
    """With an episode that is due and a limit that can't be read, the loop waits."""
    guarded = Guarded(host)
    guarded.message()
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").write_text("many\n")
    guarded.turn()
    assert guarded.loop._wait_ms() > 1_000
    guarded.stop()


def test_unlimited_closes_what_was_open(host: Host) -> None:
    """A limit of 0 ends every need: nothing is decided over and over."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    host.limit = 0
    for _ in range(20):
        guarded.turn(2.0)
    assert guarded.loop._episodes == {}
    guarded.stop()


def test_a_crowd_of_namespaces_leaves_a_small_record(host: Host) -> None:
    """Tables that any user can make by the thousand are recorded as a sum."""
    for pid in range(300, 400):
        host.namespace(str(pid), 20)
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    (row,) = guarded.rows()
    with guarded.history() as history:
        found = detail(history, row.id)
    assert found is not None
    seen = found.record.observation
    assert (len(seen.tables) + seen.small_tables, seen.small_entries) == (101, 20 * (100 - 31))
    assert found.record.outcome.kind is OutcomeKind.APPLIED
    guarded.stop()


def test_the_error_of_a_read_names_the_next_step(host: Host) -> None:
    """A HostError of the loop is logged with the next step."""
    guarded = Guarded(host)
    guarded.kernel.limit_in_force = lambda: (_ for _ in ()).throw(
        HostError("read", "the limit", OSError(errno.EIO, "bad"), "Look at the disk.")
    )
    guarded.turn(1.0)
    guarded.written()
    assert "Look at the disk" in guarded.logged("guard.error")[0]["message"]
    guarded.stop()


def test_policies_in_rows_are_those_decided_with(host: Host) -> None:
    """A row that was decided as with `keep` says so: it can be decided again from the row alone."""
    policy = Policy(raise_early=False, buckets=Buckets.MATCH, budget=Share(fraction=0.5))
    host.buckets = 4_096
    guarded = Guarded(host, policy)
    guarded.kernel.refusing_buckets = errno.ENOMEM
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    row = guarded.rows()[0]
    with guarded.history() as history:
        found = detail(history, row.id)
    assert found is not None
    assert found.policy == replace(policy, buckets=Buckets.KEEP)
    guarded.stop()


FULL = HostError("read", "the limit", OSError(errno.ENFILE, "Too many open files in system"), "")


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> Callable[[], None]:
    """Return what has the owner's function fail at its next call only."""
    real = getattr(owner, name)

    def fail(*_: object, **__: object) -> NoReturn:
        monkeypatch.setattr(owner, name, real)
        raise FULL

    return lambda: monkeypatch.setattr(owner, name, fail)


def test_an_error_after_the_write_costs_no_record(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The raise is recorded and saved; only its verification is missing, and the log has that."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.kernel.after_write = fail_once(monkeypatch, guarded.kernel, "limit_in_force")
    guarded.message()
    guarded.turn()
    guarded.turn(15.0)
    assert [reason for reason in guarded.reasons() if "raise" in reason] == ["raise kernel_message confirmed applied"]
    assert (host.persisted, guarded.intents()) == (STEP, 0)
    (error,) = guarded.logged("guard.error")
    assert error["message"].startswith("Neither sampled nor verified: Can't read the limit: Too many open files")
    guarded.stop()


def test_a_limit_that_can_not_be_read_back_counts_as_written(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel took the write without an error: it is no refusal, and nobody else's change."""
    guarded = Guarded(host)
    host.table(LIMIT)
    limit = host.root / "proc/sys/net/netfilter/nf_conntrack_max"
    real = os.write

    def write(descriptor: int, content: bytes) -> int:
        done = real(descriptor, content)
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(limit):
            monkeypatch.setattr(os, "write", real)
            limit.rename(limit.with_name("away"))
            limit.symlink_to(limit)
        return done

    monkeypatch.setattr(os, "write", write)
    guarded.message()
    guarded.turn()
    limit.unlink()
    limit.with_name("away").rename(limit)
    guarded.turn(3.0)
    host.table(10)
    guarded.turn(15.0)
    assert guarded.reasons() == ["raise kernel_message confirmed applied"]
    assert (host.limit, host.persisted, guarded.intents()) == (STEP, STEP, 0)
    guarded.stop()


def test_refused_buckets_after_three_lowerings_are_no_answer(host: Host) -> None:
    """Nothing was written: the table is decided about again at the next reading."""
    host.buckets = 8_192
    guarded = Guarded(host, Policy(buckets=Buckets.MATCH))
    guarded.kernel.refusing_buckets = errno.ENOMEM
    guarded.turn()
    host.table(LIMIT)
    lower = partial(setattr, host, "limit")
    guarded.intents_folder.meanwhile = [partial(lower, LIMIT - less) for less in (1, 2, 3)]
    guarded.message()
    guarded.turn()
    assert guarded.reasons()[-1] == "hold changed_under_us none"
    guarded.turn(0.3)
    assert host.limit > LIMIT
    guarded.stop()


def refused(host: Host) -> Guarded:
    """Return a guard whose write was refused for minutes, for a table that fills up."""
    guarded = Guarded(host)
    guarded.kernel.refusing = errno.EINVAL
    host.table(LIMIT * 97 // 100)
    for _ in range(1200):
        guarded.turn(0.25)
    guarded.kernel.refusing = None
    return guarded


def test_a_resume_ends_the_wait_after_a_refusal(host: Host) -> None:
    """The refusal is over for the state, and for whoever waits for its end."""
    guarded = refused(host)
    resume = an_override(guarded, OverrideKind.RESUME)
    guarded.runtime_dir.overrides.put(resume.key, encode(resume))
    guarded.turn(3.0)
    guarded.turn(0.3)
    assert host.limit > LIMIT
    guarded.stop()


def test_another_limit_ends_the_wait_in_spite_of_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the failed tick had found is not forgotten."""
    guarded = refused(host)
    host.limit = LIMIT * 99 // 100
    fail_once(monkeypatch, guarded.observer, "watch")()
    guarded.turn(0.3)
    guarded.turn(3.0)
    guarded.turn(0.3)
    assert host.limit > LIMIT
    guarded.stop()


@pytest.mark.parametrize("what", ["position", "request"])
def test_an_error_beside_the_record_makes_no_second_decision(
    host: Host, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Neither the place in the log nor a flood sample is worth the row of a raise."""
    guarded = Guarded(host)
    host.table(LIMIT)
    fail_once(monkeypatch, guarded.log_sources if what == "position" else guarded.floods, what)()
    guarded.message()
    guarded.turn()
    host.table(10)
    guarded.turn(15.0)
    assert guarded.reasons() == ["raise kernel_message confirmed applied"]
    assert host.persisted == STEP
    guarded.stop()


def test_a_change_that_a_tick_finds_late_is_not_forgotten(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of memory decides as well, and may be what notices another limit."""
    guarded = refused(host)
    real = guarded.controller._check_memory

    def late() -> None:
        host.limit = LIMIT * 99 // 100
        monkeypatch.setattr(guarded.controller, "_check_memory", real)
        guarded.controller._take_change(guarded.observer.observe())

    monkeypatch.setattr(guarded.controller, "_check_memory", late)
    guarded.turn(1.1)
    guarded.turn(0.3)
    guarded.turn(0.3)
    assert host.limit > LIMIT
    guarded.stop()
