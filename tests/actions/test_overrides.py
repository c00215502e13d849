"""Overrides from the command line, on a made-up host: pauses, settings, permissions."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from testbed.another_user import run_as_another
from testbed.guarded import LIMIT, Guarded, Host
from testbed.overridden import STEP, refuse_rows

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.model import Pause
from conntrackd_guard.history.details import detail
from conntrackd_guard.host.conntrack.limit import Sysctl
from conntrackd_guard.host.paths import Paths

HOUR = 3600.0


def pause_until(guarded: Guarded) -> float | None:
    """Return when the pause in force ends; there must be one."""
    pause = guarded.runtime_dir.pause(time.clock_gettime(time.CLOCK_BOOTTIME))
    assert pause is not None
    return pause.until_seconds


def refuse_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel refuse every write of the limit."""

    def refused(_: Sysctl, target: int) -> int:
        raise HostError(f"write {target} to", "the limit", OSError(errno.EROFS, "Read-only file system"), "See why.")

    monkeypatch.setattr(Sysctl, "write", refused)


def test_a_revert_pauses_for_an_hour(guarded: Guarded) -> None:
    """Limit and drop-in are as before the raise; raising pauses, or the next message would undo it."""
    assert main(["revert"], guarded.paths) is Exit.DONE
    assert (guarded.host.limit, guarded.host.persisted) == (LIMIT, None)
    until = pause_until(guarded)
    assert until is not None
    assert 0 < until - time.clock_gettime(time.CLOCK_BOOTTIME) <= HOUR


@pytest.mark.parametrize(("options", "lasts"), [([], None), (["--for", "3h"], 3 * HOUR)])
def test_a_revert_shortens_no_pause(
    guarded: Guarded, capsys: pytest.CaptureFixture[str], options: list[str], lasts: float | None
) -> None:
    """A pause that lasts longer than the revert's own stays, and the command prints so."""
    assert main(["pause", "--reason", "drill", *options], guarded.paths) is Exit.DONE
    before = pause_until(guarded)
    assert (before is None) is (lasts is None)
    assert main(["revert"], guarded.paths) is Exit.DONE
    assert pause_until(guarded) == before
    printed = capsys.readouterr().err
    assert "for 1 h" not in printed
    assert "raising stays paused" in printed


def test_a_revert_lengthens_a_shorter_pause(guarded: Guarded) -> None:
    """A pause that would end within the hour is replaced by the revert's own."""
    main(["pause", "--for", "10min"], guarded.paths)
    assert main(["revert"], guarded.paths) is Exit.DONE
    assert (pause_until(guarded) or 0) > time.clock_gettime(time.CLOCK_BOOTTIME) + HOUR / 2


@pytest.mark.parametrize("seconds", [None, 600.0, 3 * HOUR, 0.0])
def test_a_refused_revert_leaves_the_pause_as_it_was(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    """If the kernel refuses, drop-in and an earlier pause are kept, and the revert's own pause is not."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    if seconds != 0.0:
        guarded.runtime_dir.put_pause(Pause(by="root", reason="drill", until_seconds=seconds and now + seconds))
    before = guarded.runtime_dir.pause(now)
    refuse_writes(monkeypatch)
    assert main(["revert"], guarded.paths) is Exit.FAILED
    assert guarded.runtime_dir.pause(now) == before
    assert guarded.runtime_dir.overrides.all() == []
    assert guarded.host.persisted == STEP
    assert guarded.reasons()[-1] == "override revert rejected"


def test_an_override_stays_small_on_a_crowded_host(guarded: Guarded) -> None:
    """Any user can create thousands of namespaces: an override's record has the small ones as a sum, as a decision has."""
    for pid in range(300, 400):
        guarded.host.namespace(str(pid), 1)
    assert main(["pause"], guarded.paths) is Exit.DONE
    with guarded.history() as history:
        found = detail(history, 2)
        assert found is not None
        seen = found.record.observation
        assert len(seen.tables) + seen.small_tables == 101  # and the empty container is idle
        assert seen.small_tables > 50


@pytest.fixture(name="bad_settings")
def settings_that_cannot_be_used(host: Host) -> Path:
    """An operator mistyped the settings under a running guard."""
    path = host.root / "etc/conntrackd-guard/guard.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("budgett: 5%\n")
    return path


@pytest.mark.usefixtures("bad_settings")
def test_overrides_work_with_bad_settings(guarded: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator can still pause, revert and resume; the error in the settings is printed."""
    for arguments in (["pause"], ["revert"], ["resume"]):
        assert main(arguments, guarded.paths) is Exit.DONE
        assert "guard.yaml:1: 'budgett': found an unknown key" in capsys.readouterr().err
    assert guarded.host.limit == LIMIT


@pytest.mark.parametrize("arguments", [["pause"], ["resume"], ["revert"]])
def test_an_override_stands_if_history_refuses_it(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """On a full disk the override is carried out, prints that it is not in history, and is left for the guard."""
    refuse_rows(monkeypatch)
    assert main(arguments, guarded.paths) is Exit.DONE
    assert (
        "not in history yet: Can't write a decision to history.db: disk is full. Free space." in capsys.readouterr().err
    )
    assert len(guarded.runtime_dir.overrides.all()) == 1
    assert (guarded.host.limit == LIMIT) is (arguments == ["revert"])


OVERRIDES = """
import sys
from pathlib import Path
from conntrackd_guard.cli.main import main
from conntrackd_guard.history.details import detail
from conntrackd_guard.host.paths import Paths
sys.exit(main(sys.argv[2:], Paths(Path(sys.argv[1]))))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
@pytest.mark.parametrize("arguments", [["pause"], ["resume"], ["revert"]])
def test_another_user_may_not_override(guarded: Guarded, tmp_path: Path, arguments: list[str]) -> None:
    """The command exits with 77, names who may, and changes nothing."""
    ended = run_as_another(OVERRIDES, str(guarded.host.root), *arguments, tmp_path=tmp_path)
    assert ended.returncode == Exit.NOT_PERMITTED
    assert "Run this as root." in ended.stderr or "Run as root" in ended.stderr
    assert guarded.runtime_dir.overrides.all() == []
    assert guarded.host.limit == STEP


def test_what_is_moved_out_of_the_way_is_named(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A command sets aside what a start would."""
    (host.root / "run/conntrackd-guard").mkdir(parents=True)
    (host.root / "run/conntrackd-guard/overrides").write_text("no folder")
    assert main(["pause"], Paths(host.root)) is Exit.DONE
    assert "run/conntrackd-guard/overrides is no folder. Moved it to " in capsys.readouterr().err
