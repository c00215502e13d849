"""A revert takes back the hash buckets that the undone raises added, now and for the next boot."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host
from testbed.overridden import STEP, fill_and_turn

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.configuration import Buckets, Policy
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host.conntrack.limit import Sysctl

BEFORE = 16_384


@pytest.fixture
def matched(host: Host) -> Guarded:
    """Give a guard that raised limit and buckets twice: 98,304 with 24,576, then 147,456 with 36,864."""
    host.buckets = BEFORE
    guarded = Guarded(host, Policy(buckets=Buckets.MATCH))
    for _ in range(2):
        fill_and_turn(guarded)
    host.table(10)
    assert state(host) == (147_456, 36_864, 147_456, 36_864)
    return guarded


def state(host: Host) -> tuple[int, int, int | None, int | None]:
    """Return limit and buckets, now and for the next boot."""
    return host.limit, host.buckets, host.persisted, host.persisted_buckets


def test_both_are_undone_together(matched: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is left of either; the record has both."""
    assert main(["revert", "--all", "--dry-run"], matched.paths) is Exit.DONE
    assert "back to 16,384, which stalls traffic for about 0 ms" in capsys.readouterr().err
    assert state(matched.host)[:2] == (147_456, 36_864)
    assert main(["revert", "--all"], matched.paths) is Exit.DONE
    assert state(matched.host) == (LIMIT, BEFORE, None, None)
    sentence = matched.rows()[-1].sentence
    assert "the limit from 147,456 to 65,536, and the hash buckets from 36,864 to 16,384" in sentence


def test_one_after_the_other(matched: Guarded) -> None:
    """What the raise before it added stays, and is what the next boot gets."""
    assert main(["revert"], matched.paths) is Exit.DONE
    assert state(matched.host) == (STEP, 24_576, STEP, 24_576)
    assert main(["revert"], matched.paths) is Exit.DONE
    assert state(matched.host) == (LIMIT, BEFORE, None, None)


def test_a_running_guard_takes_both_as_the_operators(matched: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next raise starts from there."""
    monkeypatch.setattr("conntrackd_guard.actions.overrides.Clock", lambda: matched.clock)
    matched.clock.now += 1.0
    assert main(["revert", "--all"], matched.paths) is Exit.DONE
    matched.turn(5.0)
    matched.turn(5.0)
    assert main(["resume"], matched.paths) is Exit.DONE
    matched.turn(5.0)
    fill_and_turn(matched)
    assert state(matched.host) == (STEP, 24_576, STEP, 24_576)
    assert "buckets_changed" not in " ".join(matched.reasons())


@pytest.mark.parametrize("buckets", [262_144, 1_024])
def test_another_programs_buckets_stay(matched: Guarded, buckets: int) -> None:
    """They are not what the guard set."""
    matched.host.buckets = buckets
    assert main(["revert", "--all"], matched.paths) is Exit.DONE
    assert state(matched.host) == (LIMIT, buckets, None, None)


def test_buckets_that_live_entries_need_stay(matched: Guarded) -> None:
    """200,000 entries of another namespace in 16,384 buckets: chains of 24.4 would lose packets."""
    matched.host.table(200_000, pid="200")
    assert main(["revert", "--all", "--force"], matched.paths) is Exit.DONE
    assert state(matched.host) == (LIMIT, 36_864, None, None)


def test_a_kernel_that_refuses_the_buckets_still_takes_the_limit(
    matched: Guarded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator sees which part failed."""
    write = Sysctl.write

    def refuse(sysctl: Sysctl, target: int) -> int:
        if target == BEFORE:
            raise HostError("write", "the buckets", OSError(12, "Cannot allocate memory"), "Nothing to do.")
        return write(sysctl, target)

    monkeypatch.setattr(Sysctl, "write", refuse)
    assert main(["revert", "--all"], matched.paths) is Exit.DONE
    assert state(matched.host) == (LIMIT, 36_864, None, None)
    assert "The hash buckets stay as they are" in capsys.readouterr().err
