"""What `guard revert` undoes and refuses, and what an interrupted one leaves behind."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from testbed.guarded import LIMIT, Guarded, Host, Killed
from testbed.overridden import STEP, fill_and_turn, refuse_rows

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.model import Pause
from conntrackd_guard.history.database import History
from conntrackd_guard.host.conntrack.limit import Sysctl
from conntrackd_guard.host.dropin_lock import DropInLock
from conntrackd_guard.host.runtime_dir import JsonFolder, RuntimeDir
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn

SETTING = "net.netfilter.nf_conntrack_max"


def another_writes(guarded: Guarded, limit: int) -> None:
    """Set the limit as another program does, and have the guard notice."""
    guarded.host.table(10)
    guarded.host.limit = limit
    guarded.turn(15.0)
    guarded.written()


def test_a_revert_stops_at_another_writers_value(guarded: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    """Raises above another program's limit are undone down to that limit, and no further."""
    another_writes(guarded, 1_000_000)
    fill_and_turn(guarded)
    assert guarded.host.limit == 1_500_000
    assert main(["revert", "--all"], guarded.paths) is Exit.DONE
    assert guarded.host.limit == 1_000_000
    assert main(["revert"], guarded.paths) is Exit.NO
    assert guarded.host.limit == 1_000_000
    assert "Nothing to revert: no raise of the guard led to the limit of 1,000,000" in capsys.readouterr().err


def test_a_value_set_while_no_guard_ran_is_not_reverted(guarded: Guarded) -> None:
    """Nobody recorded who set it, but the guard's last raise did not."""
    guarded.stop()
    guarded.host.limit = 1_000_000
    assert main(["revert", "--all"], guarded.paths) is Exit.NO
    assert main(["revert", "1"], guarded.paths) is Exit.NO
    again = Guarded(guarded.host, clock=guarded.clock)
    fill_and_turn(again)
    guarded.host.table(10)
    assert main(["revert", "--all"], guarded.paths) is Exit.DONE
    assert guarded.host.limit == 1_000_000
    again.stop()


def test_raises_are_undone_one_after_the_other(guarded: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    """Each revert undoes one raise; one already undone, or one that never happened, can't be selected."""
    fill_and_turn(guarded)
    guarded.host.table(10)
    assert guarded.host.limit == 147_456
    assert main(["revert"], guarded.paths) is Exit.DONE
    assert (guarded.host.limit, guarded.host.persisted) == (STEP, STEP)
    assert main(["revert", "2"], guarded.paths) is Exit.NO
    assert "Decision 2 is no raise that led to the present limit. Those that did: 1." in capsys.readouterr().err
    assert main(["revert"], guarded.paths) is Exit.DONE
    assert (guarded.host.limit, guarded.host.persisted) == (LIMIT, None)
    assert main(["revert"], guarded.paths) is Exit.NO


def test_a_number_that_is_no_raise_is_named_for_what_it_is(
    guarded: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether or not there is anything to revert."""
    for arguments in (["pause"], ["resume"]):
        assert main(arguments, guarded.paths) is Exit.DONE
    capsys.readouterr()
    for _ in range(2):
        assert main(["revert", "99"], guarded.paths) is Exit.NO
        assert capsys.readouterr().err == (
            "guard: There is no decision 99. `guard history --verdict raise` lists the raises.\n"
        )
        assert main(["revert", "2"], guarded.paths) is Exit.NO
        assert capsys.readouterr().err.startswith("guard: Decision 2 is no raise but an override. `guard history")
        guarded.host.limit = 1_000_000
    for text in ("0", "x", "99999999999999999999"):
        with pytest.raises(SystemExit):
            main(["revert", text], guarded.paths)
        assert "expected a whole number from 1" in capsys.readouterr().err


def test_a_raise_by_number_is_undone_with_all_after_it(guarded: Guarded) -> None:
    """The first of two raises undoes both."""
    fill_and_turn(guarded)
    guarded.host.table(10)
    assert main(["revert", "1"], guarded.paths) is Exit.DONE
    assert guarded.host.limit == LIMIT


def test_live_flows_are_not_squeezed_without_force(guarded: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    """A table with more entries than the target would drop new connections: refused without --force."""
    guarded.host.table(70_000)
    assert main(["revert", "--dry-run"], guarded.paths) is Exit.NO
    assert main(["revert"], guarded.paths) is Exit.NO
    assert guarded.host.limit == STEP
    assert "has 70,000 entries" in capsys.readouterr().err
    assert main(["revert", "--force"], guarded.paths) is Exit.DONE
    assert guarded.host.limit == LIMIT


@pytest.mark.parametrize("arguments", [["revert"], ["revert", "--all"], ["revert", "7"], ["revert", "--dry-run"]])
def test_without_a_history_there_is_nothing_to_revert(
    host: Host, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """On a host where no guard ever ran the answer is no, not a failure."""
    guarded = Guarded(host)
    guarded.stop()
    for path in guarded.paths.state_folder.glob("history.db*"):
        path.unlink()
    assert main(arguments, guarded.paths) is Exit.NO
    assert "Nothing to revert" in capsys.readouterr().err
    assert not guarded.paths.history.exists()


def test_a_raise_that_history_has_not_taken_yet_can_be_undone(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk refuses rows the intent has the raise: a revert need not wait for the disk."""
    with monkeypatch.context() as patch:
        refuse_rows(patch)
        guarded.host.table(STEP)
        guarded.message()
        guarded.turn(5.0)
        assert not guarded.recorder.close(5.0)  # the row is owed
    assert (guarded.host.limit, guarded.intents()) == (147_456, 1)
    guarded.host.table(10)
    for limit in (STEP, LIMIT):
        assert main(["revert"], guarded.paths) is Exit.DONE
        assert guarded.host.limit == limit


@pytest.mark.parametrize(
    ("found", "recorded"),
    [
        (LIMIT, ("applied", LIMIT, "reverted the limit from")),
        (STEP, ("not_applied", STEP, "tried to revert the limit from")),
        (300_000, ("unknown", None, "tried to revert the limit from")),
    ],
)
def test_a_killed_revert_is_recorded_as_the_kernel_shows_it(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, found: int, recorded: tuple[str, int | None, str]
) -> None:
    """The override is left before the limit is written: the next start goes by the limit in force."""

    def killed(*_: object) -> int:
        raise Killed

    guarded.stop()
    monkeypatch.setattr(Sysctl, "write", killed)
    with pytest.raises(Killed):
        main(["revert"], guarded.paths)
    guarded.host.limit = found
    after = Guarded(guarded.host, clock=guarded.clock)
    row = after.rows()[-1]
    assert (row.outcome, row.limit_after, row.sentence.split(" 98,304")[0].split(" ", 1)[1]) == recorded
    assert after.recovered.state.set_limit == (None if recorded[0] == "applied" else STEP)
    assert after.runtime_dir.overrides.all() == []
    after.stop()


@pytest.mark.parametrize("arguments", [["revert"], ["revert", "--all"]])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("place", "step"),
    [
        (RuntimeDir, "put_pause"),
        (JsonFolder, "put"),
        (DropInLock, "leave_override"),
        (SysctlDropIn, "_carry_out"),
        (DropInLock, "follow"),
        (Sysctl, "write"),
        (History, "add"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_killed_revert_is_not_undone_by_the_next_boot_and_can_be_repeated(  # noqa: PLR0913, PLR0917 - a row of the table
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, place: type, step: str, when: str, arguments: list[str]
) -> None:
    """Whatever the step: the next boot starts with no more than the limit in force, and another revert completes it."""
    host = guarded.host
    fill_and_turn(guarded)
    host.table(10)
    guarded.stop()
    wanted = (LIMIT, None) if arguments[1:] else (STEP, STEP)
    done = getattr(place, step)

    def killed(*args: Any, **options: Any) -> None:
        if when == "after":
            done(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, step, killed)
        with pytest.raises(Killed):
            main(arguments, guarded.paths)
    assert (host.persisted or LIMIT) <= host.limit
    if host.limit == wanted[0]:
        assert host.persisted == wanted[1]
    else:
        assert main(arguments, guarded.paths) is Exit.DONE
    assert (host.limit, host.persisted) == wanted


@contextmanager
def stalled_until(answers: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have commands wait 50 ms for a disk that answers at the end; then wait for what they left at work."""
    monkeypatch.setattr("conntrackd_guard.host.disk.PATIENCE_SECONDS", 0.05)
    before = set(threading.enumerate())
    try:
        yield
    finally:
        answers.set()
        for thread in set(threading.enumerate()) - before:
            thread.join(10.0)


def test_a_stalled_disk_does_not_keep_the_limit_up(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command writes the file first, and waits for it no longer than a moment; the file follows."""
    guarded.stop()
    unlink, answers = os.unlink, threading.Event()

    def stalling(path: Any, *args: Any, **options: Any) -> None:
        if str(path).endswith("99-zz-conntrackd-guard.conf"):
            assert answers.wait(10.0)
        unlink(path, *args, **options)

    monkeypatch.setattr(os, "unlink", stalling)
    with stalled_until(answers, monkeypatch):
        assert main(["revert"], guarded.paths) is Exit.DONE
        assert (guarded.host.limit, guarded.host.persisted) == (LIMIT, STEP)
        assert "its disk does not answer" in capsys.readouterr().err
    assert guarded.host.persisted is None


def test_a_history_on_a_stalled_disk_keeps_no_operator_waiting(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A revert needs it, and names what works without; a pause is in force, and `guard status` shows the rest."""
    guarded.stop()
    answers, init = threading.Event(), History.__init__

    def stalling(self: History, *args: Any, **options: Any) -> None:
        assert answers.wait(10.0)
        init(self, *args, **options)

    monkeypatch.setattr(History, "__init__", stalling)
    with stalled_until(answers, monkeypatch):
        assert main(["revert"], guarded.paths) is Exit.FAILED
        assert "its disk does not answer. Until it does, `guard pause`, then `sysctl -w" in capsys.readouterr().err
        assert guarded.host.limit == STEP
        assert main(["pause"], guarded.paths) is Exit.DONE
        assert "not in history yet: Can't write to" in capsys.readouterr().err
        main(["status", "--json"], guarded.paths)
        (unread,) = [text for text in json.loads(capsys.readouterr().out)["unread"] if "history" in text]
        assert "its disk does not answer" in unread


@pytest.mark.parametrize("raised", [False, True])
def test_a_revert_stands_whatever_comes_right_after_it(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, *, raised: bool
) -> None:
    """Interrupted while it waits for a raise on its way, it is persisted all the same; such a raise is undone too."""

    def meanwhile(_: float) -> None:
        if not raised:
            raise KeyboardInterrupt
        if guarded.host.limit == LIMIT:
            monkeypatch.setattr(time, "sleep", lambda _: None)
            guarded.host.limit = 147_456
            (guarded.host.root / "etc/sysctl.d/99-zz-conntrackd-guard.conf").write_text(f"{SETTING} = 147456\n")

    monkeypatch.setattr(time, "sleep", meanwhile)
    if raised:
        assert main(["revert"], guarded.paths) is Exit.DONE
    else:
        with pytest.raises(KeyboardInterrupt):
            main(["revert"], guarded.paths)
    assert (guarded.host.limit, guarded.host.persisted) == (LIMIT, None)


@pytest.mark.parametrize("shown", [0, -1])
def test_an_unlimited_limit_is_never_reverted(guarded: Guarded, shown: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Another program's -1 or 0 is higher than anything a revert would write."""
    guarded.host.limit = shown
    assert main(["revert", "--all"], guarded.paths) is Exit.NO
    assert f"The limit is {shown} (unlimited): no raise led to it" in capsys.readouterr().err
    assert guarded.host.limit == shown


@pytest.mark.parametrize("shown", [0, -1])
def test_a_limit_that_becomes_unlimited_before_the_write_stays(
    guarded: Guarded, shown: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan was made for another limit; nothing is written, and raising is not paused."""
    put_pause = RuntimeDir.put_pause

    def another_writes_first(runtime_dir: RuntimeDir, pause: Pause) -> None:
        put_pause(runtime_dir, pause)
        guarded.host.limit = shown

    monkeypatch.setattr(RuntimeDir, "put_pause", another_writes_first)
    assert main(["revert"], guarded.paths) is not Exit.DONE
    assert f"the limit has become {shown} (unlimited)" in capsys.readouterr().err
    assert guarded.host.limit == shown
    assert guarded.runtime_dir.pause(guarded.clock.now) is None
