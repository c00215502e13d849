"""Verification: after a raise, history shows whether the drops ended and how long the new limit lasts."""

from __future__ import annotations

import json
import threading

import pytest
from testbed.disks import until
from testbed.guarded import LIMIT, Guarded, Host, an_override

from conntrackd_guard.cli.main import main
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import OverrideKind
from conntrackd_guard.core.verification import Drops, End, Verification

STEP = 98_304


def raised(host: Host) -> Guarded:
    """Return a guard that has just raised for a full table which had dropped 5."""
    guarded = Guarded(host)
    host.table(LIMIT, drop=5)
    guarded.message()
    guarded.turn(5.0)  # the look at the empty table is too old by now to tell of growth
    assert host.limit == STEP
    return guarded


def verifications(guarded: Guarded) -> list[Verification | None]:
    """Return the verification of each raise, oldest first."""
    return [row.verification for row in guarded.rows() if row.verdict == "raise"]


def test_drops_that_ended_are_proved(host: Host) -> None:
    """Two packets more were lost on the way; then none, and the table grows by 100 a second."""
    guarded = raised(host)
    for tenth in range(1, 105):
        host.table(LIMIT + 10 * tenth, drop=7)
        guarded.turn(0.1)
    (found,) = verifications(guarded)
    assert found is not None
    assert (found.drops, found.dropped, found.end, found.limit) == (Drops.ENDED, 2, End.WATCHED, STEP)
    assert found.seconds_to_full == pytest.approx((STEP - LIMIT - 1000) / 100, rel=0.02)
    assert guarded.logged("guard.drops_continue") == []
    guarded.stop()


def test_continuing_drops_are_reported(host: Host) -> None:
    """A raise without effect is recorded as such, and reported once."""
    guarded = raised(host)
    for tenth in range(1, 110):
        host.table(70_000, drop=5 + tenth)  # allocations fail, say: no limit cures that
        guarded.turn(0.1)
    found = verifications(guarded)[-1]
    assert found is not None
    assert found.drops is Drops.CONTINUING
    assert len(guarded.logged("guard.drops_continue")) == 1
    guarded.stop()


def test_a_raise_again_ends_the_watch_on_the_one_before(host: Host) -> None:
    """Each raise is verified while it is the last one."""
    guarded = raised(host)
    host.table(STEP, drop=400)
    guarded.turn(1.5)
    guarded.turn(0.6)
    first = verifications(guarded)[0]
    assert first is not None
    assert (first.end, first.dropped, first.drops) == (End.RAISED_AGAIN, 395, Drops.CONTINUING)
    guarded.stop()


def test_a_limit_that_is_changed_ends_the_watch(host: Host) -> None:
    """By another writer, or by an override: what comes then is not the raise's doing."""
    guarded = raised(host)
    host.limit = 2 * STEP
    guarded.turn(0.5)
    (found,) = verifications(guarded)
    assert found is not None
    assert found.end is End.LIMIT_CHANGED
    guarded.stop()


def test_an_override_to_revert_ends_it_too(host: Host) -> None:
    """A revert is no failure of the raise."""
    guarded = raised(host)
    order = an_override(guarded, OverrideKind.REVERT, LIMIT)
    guarded.runtime_dir.overrides.put(order.key, encode(order))
    host.limit = LIMIT
    host.table(1000, drop=5)
    guarded.turn(0.5)
    found = verifications(guarded)[0]
    assert found is not None
    assert found.end is End.LIMIT_CHANGED
    guarded.stop()


@pytest.mark.parametrize("gone", [None, 0])
def test_a_limit_that_is_gone_ends_it_at_once(host: Host, gone: int | None) -> None:
    """Unlimited, or no conntrack any more: an hour later the raise is not praised for that hour."""
    guarded = raised(host)
    limit = host.root / "proc/sys/net/netfilter/nf_conntrack_max"
    limit.unlink() if gone is None else limit.write_text(f"{gone}\n")
    guarded.turn(0.5)
    host.limit = STEP
    guarded.turn(3600.0)
    found = verifications(guarded)[0]
    assert found is not None
    assert found.end is End.LIMIT_CHANGED
    assert found.seconds < 1
    guarded.stop()


def test_drops_that_only_the_next_raise_saw_count(host: Host) -> None:
    """A message between two readings of the watch belongs to the raise before."""
    guarded = raised(host)
    host.table(STEP, drop=405)
    guarded.message()
    guarded.turn(0.24)  # no tick of the watch is due
    found = verifications(guarded)[0]
    assert found is not None
    assert (found.end, found.dropped, found.drops) == (End.RAISED_AGAIN, 400, Drops.CONTINUING)
    guarded.stop()


def test_a_table_that_nobody_can_read_is_no_proof(host: Host) -> None:
    """The message names a namespace that is out of reach: that all others drop nothing proves nothing about it."""
    guarded = Guarded(host, Policy(trust_user_namespaces=True))
    host.table(1000)
    guarded.message(namespace=999)
    guarded.turn()
    assert guarded.reasons() == ["raise kernel_message unknown applied"]
    for _ in range(41):
        guarded.turn(0.25)
    (found,) = verifications(guarded)
    assert found is not None
    assert (found.drops, found.dropped) == (Drops.UNKNOWN, None)
    guarded.stop()


def test_a_history_that_refuses_keeps_no_warning_back(host: Host, refusing: threading.Event) -> None:
    """The disk is full and the raise no cure: that is when somebody must hear of it."""
    refusing.set()
    guarded = raised(host)
    for tenth in range(1, 110):
        host.table(70_000, drop=5 + tenth)
        guarded.turn(0.1)
    until(lambda: guarded.logged("guard.drops_continue"))
    refusing.clear()
    assert [found and found.drops for found in verifications(guarded)] == [Drops.CONTINUING]
    assert len(guarded.logged("guard.drops_continue")) == 1
    guarded.stop()


def test_history_show_and_json_tell_it(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Every view of a raise shows its verification."""
    guarded = raised(host)
    for _ in range(41):
        guarded.turn(0.25)
    guarded.written()
    sentence = "No packets were dropped after the raise to 98,304 within 10 s. No table grew."
    for command in (["history"], ["show", "1"]):
        main([*command, "--no-dry-run"], guarded.paths)
        assert sentence in capsys.readouterr().out
    main(["history", "--json", "--no-dry-run"], guarded.paths)
    (decision,) = json.loads(capsys.readouterr().out)["decisions"]
    assert decision["verification"]["drops"] == "none"
    main(["show", "1", "--json", "--no-dry-run"], guarded.paths)
    assert json.loads(capsys.readouterr().out)["decision"]["verification"]["end"] == "watched"
    guarded.stop()


def test_a_guard_that_stopped_early_reports_nothing(host: Host) -> None:
    """No proof is no proof."""
    guarded = raised(host)
    assert verifications(guarded) == [None]
    guarded.stop()
