"""What a kill leaves, and what the next start makes of it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.guarded import LIMIT, Guarded, Host, Killed, again, an_override

from conntrackd_guard.core import tuning
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.model import (
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Record,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.daemon import recovery
from conntrackd_guard.history.database import History

STEP = 98_304


def die() -> None:
    """End the process, as kill -9 does."""
    raise Killed


def killed_after_write(host: Host) -> Guarded:
    """Return a guard that was killed right after it wrote its first raise."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.kernel.after_write = die
    with pytest.raises(Killed):
        guarded.turn()
    guarded.stop()
    return guarded


@pytest.mark.parametrize(
    ("found", "outcome", "limit_after", "persisted", "raises"),
    [
        (STEP, "applied", STEP, STEP, 1),
        (LIMIT, "not_applied", LIMIT, None, 0),
        (300_000, "unknown", None, None, 1),  # it may have been written: it paces
    ],
)
def test_an_open_intent_is_closed_by_what_the_kernel_shows(  # noqa: PLR0913, PLR0917 - a row of the table
    host: Host, found: int, outcome: str, limit_after: int | None, persisted: int | None, raises: int
) -> None:
    """The limit at start shows if the write was made, was not, or is unknown; each is a row, and the intent goes."""
    before = killed_after_write(host)
    host.limit = found
    guarded = again(before)
    (row,) = guarded.rows()
    assert (row.outcome, row.limit_after, row.from_limit, row.to_limit) == (outcome, limit_after, LIMIT, STEP)
    assert host.persisted == persisted
    assert len(guarded.recovered.state.raise_seconds) == raises
    assert guarded.recovered.state.set_limit == (STEP if outcome == "applied" else None)
    assert guarded.intents() == 0
    guarded.stop()


def test_killed_before_the_write(host: Host) -> None:
    """An intent without its write is `not applied`, and the table that is still full is raised for."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.intents_folder.meanwhile = [die]
    with pytest.raises(Killed):
        guarded.turn()
    guarded.stop()
    after = again(guarded)
    after.turn()
    assert host.limit == STEP
    assert [row.outcome for row in after.rows()] == ["not_applied", "applied"]
    after.stop()


def test_killed_between_row_and_intent(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that was written is not written again, nor folded twice; the intent goes."""
    guarded = Guarded(host)
    monkeypatch.setattr(guarded.runtime_dir.intents, "drop", lambda _: None)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.stop()
    assert guarded.intents() == 1
    after = again(guarded)
    assert len(after.rows()) == 1
    assert after.recovered.state == guarded.state
    assert after.intents() == 0
    after.stop()


def test_a_redelivered_record_does_no_harm(host: Host) -> None:
    """The same record handed over twice is one row."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.written()
    with History(guarded.paths.history, mode="reader") as history:
        (record,) = history.records("boot-1")
    guarded.recorder.submit(record, guarded.policy)
    assert len(guarded.rows()) == 1
    guarded.stop()


def test_the_folded_state_is_the_continuous_one(host: Host) -> None:
    """After raises, a fight and a refused write, a restart remembers what the killed guard knew."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    host.table(10)
    host.limit = LIMIT
    guarded.turn(20.0)
    guarded.kernel.refusing = errno.EROFS
    host.table(LIMIT)
    guarded.message()
    guarded.turn(1.0)
    guarded.turn(1.5)
    guarded.written()
    state = guarded.state
    assert (len(state.raise_seconds), len(state.conflict_seconds)) == (1, 1)
    assert state.refusal is not None
    assert state.refusal.count >= 2
    guarded.stop()
    after = again(guarded)
    assert after.recovered.state == state
    after.stop()


def test_a_boot_begins_with_an_empty_state(host: Host) -> None:
    """What another boot did is history, and no state."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.written()
    past = guarded.recorder.call(lambda worker: worker.past("boot-2", guarded.clock.boottime)).result(5.0)
    assert past.state == State()
    guarded.stop()


def test_twenty_kills_reach_nothing_that_one_run_does_not(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after every write, the limit is never above that of a guard that ran on, and every write is explained."""
    monkeypatch.setattr(tuning, "MIN_STEP", 1)
    monkeypatch.setattr(tuning, "LOOKAHEAD_SECONDS", 0.0)
    other = Host(tmp_path / "other")
    host.limit = other.limit = 1_000  # twenty steps of × 1.5 are affordable from here
    continuous, killed = Guarded(other), Guarded(host)
    killed.kernel.after_write = die
    kills = 0
    for _ in range(110):
        for each in (continuous, killed):
            each.host.table(each.host.limit)
            each.message()
        continuous.turn(0.051)
        try:
            killed.turn(0.05)
        except Killed:
            kills += 1
            killed.stop()
            killed = again(killed)
            killed.kernel.after_write = die
        else:
            killed.clock.now += 0.001
        assert host.limit <= other.limit
    assert kills >= 20
    applied = [row for row in killed.rows() if row.outcome == "applied"]
    assert len(applied) == kills
    assert applied[-1].limit_after == host.limit == host.persisted
    continuous.stop()
    killed.stop()


def test_a_lost_history_starts_with_half_of_the_rate_limit(host: Host) -> None:
    """A history that can't be read is set aside and reported; the cooldown starts now, and half of the raises are used up."""
    history = host.root / "var/lib/conntrackd-guard/history.db"
    history.parent.mkdir()
    history.write_bytes(b"this is no database" * 1000)
    guarded = Guarded(host)
    state = guarded.recovered.state
    assert state.last_raise_seconds == guarded.clock.now
    assert len(state.raise_seconds) == 10
    host.table(LIMIT)
    guarded.message()
    guarded.turn(0.1)
    assert host.limit == LIMIT
    guarded.turn(0.25)
    assert host.limit > LIMIT
    guarded.written()
    assert "set aside" in guarded.log.getvalue() or "Moved it to" in guarded.log.getvalue()
    guarded.stop()


def test_a_disk_that_stalls_at_start_keeps_no_table_waiting(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard starts without its history, raises after `cooldown`, and writes all of it once the disk returns."""
    before = killed_after_write(host)
    returns, records = threading.Event(), History.records

    def stalled(self: History, boot_id: str) -> Iterator[Record]:
        assert returns.wait(10.0)
        return records(self, boot_id)

    monkeypatch.setattr(History, "records", stalled)
    monkeypatch.setattr(recovery, "HISTORY_SECONDS", 0.05)
    guarded = again(before)
    assert len(guarded.recovered.state.raise_seconds) == 11  # half of the rate limit, and the open intent
    host.table(host.limit)
    guarded.message()
    guarded.turn(0.25)
    assert host.limit > STEP
    returns.set()
    assert [row.limit_after for row in guarded.rows() if row.verdict == "raise"] == [STEP, host.limit]
    guarded.stop()


def test_an_override_given_while_no_guard_ran_is_known(host: Host) -> None:
    """A resume between two runs ends the conflict, and its file goes."""
    guarded = Guarded(host)
    for _ in range(3):
        host.table(LIMIT)
        guarded.message()
        guarded.turn(5.0)
        host.table(10)
        host.limit = LIMIT
        guarded.turn(15.0)
    assert len(guarded.state.conflict_seconds) == 3
    guarded.stop()
    record = Record(
        key="order-resume",
        mode=Mode.ACT,
        trigger=Trigger(kind=TriggerKind.OVERRIDE),
        observation=guarded.observer.observe(),
        state=State(),
        decision=Override(kind=OverrideKind.RESUME),
        outcome=Outcome(kind=OutcomeKind.NONE),
    )
    guarded.runtime_dir.overrides.put(record.key, encode(record))
    after = again(guarded)
    assert after.recovered.state.conflict_seconds == ()
    assert after.runtime_dir.overrides.all() == []
    assert after.reasons()[-1] == "override resume none"
    after.stop()


def test_a_revert_that_ended_before_the_limit_names_what_the_next_boot_may_start_with(host: Host) -> None:
    """The command writes the drop-in first, so the limit in force and that of the next boot may differ."""
    guarded = Guarded(host)
    record = an_override(guarded, OverrideKind.REVERT, LIMIT // 2)
    guarded.runtime_dir.overrides.put(record.key, encode(record))
    guarded.stop()
    after = again(guarded)
    (row,) = [row for row in after.rows() if row.verdict == "override"]
    assert (row.outcome, row.detail) == (
        "not_applied",
        "not applied: the command ended before the write. The next boot may start with 32,768 already: repeat it",
    )
    assert host.limit == LIMIT
    after.stop()


@pytest.mark.parametrize("folder", ["intents", "overrides"])
def test_an_unreadable_file_is_reported_and_set_aside(host: Host, folder: str) -> None:
    """Half a file, or one of another program, keeps no guard from starting."""
    first = Guarded(host)
    first.stop()
    (host.root / "run/conntrackd-guard" / folder / "1-2-3.json").write_text('{"key": ')
    guarded = again(first)
    guarded.written()
    assert len(guarded.logged("guard.error")) == 1
    (aside,) = (host.root / "run/conntrackd-guard" / folder).iterdir()
    assert aside.name.startswith(".set-aside-1-2-3.json-")
    guarded.stop()
    assert again(first).logged("guard.error") == []


def test_a_raise_dated_ahead_of_the_clock_holds_up_none(host: Host) -> None:
    """As after a return to a snapshot with a newer disk: it counts as made at the start, and that is logged."""
    first = Guarded(host)
    first.clock.now += 9e6
    host.table(LIMIT)
    first.message()
    first.turn()
    raised_to = host.limit
    first.stop()
    first.clock.now -= 9e6
    guarded = again(first)
    host.table(raised_to)
    guarded.message()
    guarded.turn()
    guarded.turn(2.1)
    assert host.limit > raised_to
    guarded.written()
    (warning,) = [line for line in guarded.logged("guard.info") if line["level"] == "warning"]
    assert warning["message"] == "1 decisions of this boot are dated ahead of its clock. They count as made now."
    guarded.stop()
