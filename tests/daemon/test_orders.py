"""Orders as they are typed, on a made-up host: what they do to limit, pause and drop-in, and what they refuse."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from guarded import LIMIT, Guarded, Host, Killed

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.model import Pause
from conntrackd_guard.history import History
from conntrackd_guard.host import settings_files
from conntrackd_guard.host.kernel import LiveKernel

STEP = 98_304
"""65,536 × 1.5."""
HOUR = 3600.0


@pytest.fixture(name="guarded")
def a_guard_that_raised(host: Host) -> Guarded:
    """A guard that raised once, to STEP, and watches an empty table since."""
    guarded = Guarded(host)
    fill_and_turn(guarded)
    host.table(10)
    guarded.written()
    return guarded


def fill_and_turn(guarded: Guarded) -> None:
    """Fill the table, and let the guard answer the line about it."""
    guarded.host.table(guarded.host.limit)
    guarded.line()
    guarded.turn(5.0)
    guarded.written()


def another_writes(guarded: Guarded, limit: int) -> None:
    """Have another program set the limit, and the guard notice."""
    guarded.host.table(10)
    guarded.host.limit = limit
    guarded.turn(15.0)
    guarded.written()


def pause_until(guarded: Guarded) -> float | None:
    """Return when the pause in force ends; there must be one."""
    pause = guarded.run_files.pause(time.clock_gettime(time.CLOCK_BOOTTIME))
    assert pause is not None
    return pause.until_seconds


def refuse_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the disk under the history be full."""

    def full(*_: object, **__: object) -> int:
        raise HostError("write a decision to", "history.db", OSError(errno.ENOSPC, "disk is full"), "Free space.")

    monkeypatch.setattr(History, "add", full)


def refuse_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel refuse every write of the limit."""

    def refused(_: LiveKernel, target: int) -> int:
        raise HostError(f"writing {target} to", "the limit", OSError(errno.EROFS, "Read-only file system"), "See why.")

    monkeypatch.setattr(LiveKernel, "set_limit", refused)


def test_a_revert_pauses_for_an_hour(guarded: Guarded) -> None:
    """The limit, and the file for the next boot, are as before the raise; raising pauses, or the next line would undo it."""
    assert main(["revert"], guarded.paths) is Exit.DONE
    assert (guarded.host.limit, guarded.host.persisted) == (LIMIT, None)
    until = pause_until(guarded)
    assert until is not None
    assert 0 < until - time.clock_gettime(time.CLOCK_BOOTTIME) <= HOUR


@pytest.mark.parametrize(("ordered", "lasts"), [([], None), (["--for", "3h"], 3 * HOUR)])
def test_a_revert_shortens_no_pause(
    guarded: Guarded, capsys: pytest.CaptureFixture[str], ordered: list[str], lasts: float | None
) -> None:
    """A pause that lasts longer than the revert's own stays as it was ordered, and the revert says so."""
    assert main(["pause", "--reason", "drill", *ordered], guarded.paths) is Exit.DONE
    before = pause_until(guarded)
    assert (before is None) is (lasts is None)
    assert main(["revert"], guarded.paths) is Exit.DONE
    assert pause_until(guarded) == before
    told = capsys.readouterr().err
    assert "for 1 h" not in told
    assert "raising stays paused" in told


def test_a_revert_lengthens_a_shorter_pause(guarded: Guarded) -> None:
    """A pause that would end within the hour makes way for the revert's own."""
    main(["pause", "--for", "10min"], guarded.paths)
    assert main(["revert"], guarded.paths) is Exit.DONE
    assert (pause_until(guarded) or 0) > time.clock_gettime(time.CLOCK_BOOTTIME) + HOUR / 2


@pytest.mark.parametrize("seconds", [None, 600.0, 3 * HOUR, 0.0])
def test_a_refused_revert_leaves_the_pause_as_it_was(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    """Where the kernel refuses, neither is an earlier pause lost nor does the revert's own stay."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    if seconds != 0.0:
        guarded.run_files.put_pause(Pause(by="root", reason="drill", until_seconds=seconds and now + seconds))
    before = guarded.run_files.pause(now)
    refuse_writes(monkeypatch)
    assert main(["revert"], guarded.paths) is Exit.FAILED
    assert guarded.run_files.pause(now) == before
    assert guarded.run_files.orders() == []
    assert guarded.reasons()[-1] == "order revert rejected"


def test_a_revert_stops_at_another_writers_value(guarded: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    """What the guard built on another's value is undone down to that value, and no further."""
    another_writes(guarded, 1_000_000)
    fill_and_turn(guarded)
    assert guarded.host.limit == 1_500_000
    assert main(["revert", "--all"], guarded.paths) is Exit.DONE
    assert guarded.host.limit == 1_000_000
    assert main(["revert"], guarded.paths) is Exit.NO
    assert guarded.host.limit == 1_000_000
    assert "Nothing to revert: no raise of the guard led to the limit of 1,000,000" in capsys.readouterr().err


def test_a_value_set_while_no_guard_ran_is_not_reverted(guarded: Guarded) -> None:
    """Nobody recorded who set it, but the limit is not what the guard's last raise left."""
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
    """Each revert goes back one raise; one already undone, or one that never was, can't be named."""
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


def test_a_raise_by_number_is_undone_with_all_after_it(guarded: Guarded) -> None:
    """Naming the first of two goes back to where it began."""
    fill_and_turn(guarded)
    guarded.host.table(10)
    assert main(["revert", "1"], guarded.paths) is Exit.DONE
    assert guarded.host.limit == LIMIT


def test_live_flows_are_not_squeezed_without_force(guarded: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that holds more than the target would drop new connections: refused, unless that is meant."""
    guarded.host.table(70_000)
    assert main(["revert", "--dry-run"], guarded.paths) is Exit.NO
    assert main(["revert"], guarded.paths) is Exit.NO
    assert guarded.host.limit == STEP
    assert "holds 70,000 entries" in capsys.readouterr().err
    assert main(["revert", "--force"], guarded.paths) is Exit.DONE
    assert guarded.host.limit == LIMIT


@pytest.mark.parametrize("arguments", [["revert"], ["revert", "--all"], ["revert", "7"], ["revert", "--dry-run"]])
def test_without_a_history_there_is_nothing_to_revert(
    host: Host, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A host on which no guard ever ran: the answer is no, and no failure."""
    guarded = Guarded(host)
    guarded.stop()
    for path in guarded.paths.state_folder.glob("history.db*"):
        path.unlink()
    assert main(arguments, guarded.paths) is Exit.NO
    assert "Nothing to revert" in capsys.readouterr().err
    assert not guarded.paths.history.exists()


@pytest.fixture(name="bad_settings")
def settings_that_cannot_be_used(host: Host) -> Path:
    """An operator mistyped the settings under a running guard."""
    path = host.root / "etc/conntrackd-guard/guard.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("budgett: 5%\n")
    return path


@pytest.mark.usefixtures("bad_settings")
def test_orders_need_no_good_settings(guarded: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    """With settings that can't be used the operator can still stop, undo and resume; what is wrong is told."""
    for arguments in (["pause"], ["revert"], ["resume"]):
        assert main(arguments, guarded.paths) is Exit.DONE
        assert "guard.yaml:1: 'budgett': found an unknown key" in capsys.readouterr().err
    assert guarded.host.limit == LIMIT


@pytest.mark.parametrize("arguments", [["pause"], ["resume"], ["revert"]])
def test_an_order_that_history_refuses_stands(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """On a full disk the order is carried out all the same, says that it is not in history, and stays for the guard."""
    refuse_rows(monkeypatch)
    assert main(arguments, guarded.paths) is Exit.DONE
    assert "not in history yet: write a decision to history.db: disk is full. Free space." in capsys.readouterr().err
    assert len(guarded.run_files.orders()) == 1
    assert (guarded.host.limit == LIMIT) is (arguments == ["revert"])


def test_a_raise_that_history_has_not_taken_yet_can_be_undone(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk refuses rows the intent tells what was raised: nobody has to wait for the disk to go back."""
    with monkeypatch.context() as patch:
        refuse_rows(patch)
        guarded.host.table(STEP)
        guarded.line()
        guarded.turn(5.0)
        assert not guarded.recorder.close(5.0)  # the row is owed
    assert (guarded.host.limit, guarded.intents()) == (147_456, 1)
    guarded.host.table(10)
    for limit in (STEP, LIMIT):
        assert main(["revert"], guarded.paths) is Exit.DONE
        assert guarded.host.limit == limit


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (LIMIT, ("applied", LIMIT, "Reverted")),
        (STEP, ("not_applied", STEP, "Ordered to revert")),
        (300_000, ("unknown", None, "Ordered to revert")),
    ],
)
def test_a_killed_revert_is_recorded_as_the_kernel_shows_it(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, found: int, told: tuple[str, int | None, str]
) -> None:
    """Its file is written before the limit: the next start tells a revert that was made from one that was not."""

    def killed(*_: object) -> int:
        raise Killed

    guarded.stop()
    monkeypatch.setattr(LiveKernel, "set_limit", killed)
    with pytest.raises(Killed):
        main(["revert"], guarded.paths)
    guarded.host.limit = found
    after = Guarded(guarded.host, clock=guarded.clock)
    row = after.rows()[-1]
    assert (row.outcome, row.limit_after, row.sentence.split(" 98,304")[0]) == told
    assert after.recovered.state.set_limit == (None if told[0] == "applied" else STEP)
    assert after.run_files.orders() == []
    after.stop()


ORDERS = """
import os, sys
from pathlib import Path
from conntrackd_guard.cli.main import main
from conntrackd_guard.host.paths import Paths
os.setgroups([]); os.setuid(65534)
sys.exit(main(sys.argv[2:], Paths(Path(sys.argv[1]))))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
@pytest.mark.parametrize("arguments", [["pause"], ["resume"], ["revert"]])
def test_another_user_may_not_order(guarded: Guarded, arguments: list[str]) -> None:
    """Without the rights an order ends with 77, says who may, and leaves everything as it was."""
    for folder in (guarded.host.root, *list(guarded.host.root.parents)[:2]):
        folder.chmod(0o755)
    command = [sys.executable, "-c", ORDERS, str(guarded.host.root), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == Exit.NOT_PERMITTED
    assert "Run this as root." in ended.stderr or "Run as root" in ended.stderr
    assert guarded.run_files.orders() == []
    assert guarded.host.limit == STEP


@pytest.fixture(autouse=True)
def settings_of_whoever_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings belong to root on a host, and here to whoever runs the tests."""
    monkeypatch.setattr(settings_files, "_ROOT", os.geteuid())
