"""What `guard status` finds on a made-up host: the guard that runs, as it is, and what it would do."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.actions import status
from conntrackd_guard.actions.status import Status, gather
from conntrackd_guard.cli.render.status_text import print_status
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, Pause, Raise, State
from conntrackd_guard.daemon.status_file import status_file, status_line
from conntrackd_guard.history.database import History
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

STEP = 98_304


@pytest.fixture(autouse=True)
def a_quick_look(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look twice without the pause between, and at the kernel's own list of locks."""
    (host.root / "proc/locks").symlink_to("/proc/locks")
    monkeypatch.setattr(status, "LOOK_SECONDS", 0.0)


def told(**changed: Any) -> dict[str, Any]:
    """Return what a guard in this process says of itself now."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    plain: dict[str, Any] = {
        "mode": Mode.ACT, "since_seconds": 1.0, "wall_seconds": 2.0, "boottime_seconds": now, "limit": LIMIT,
        "policy": Policy(), "state": State(), "pause": None, "over_budget": False, "episodes": 0,
        "sources": {"ring_buffer": "following", "journal": "following", "notes": []}, "recorder": {"trouble": []},
    }  # fmt: skip
    return status_file(**plain | changed)


def a_guard_runs(host: Host, mode: Mode = Mode.ACT, document: dict[str, Any] | None = None) -> RuntimeDir:
    """Have this process hold the lock, and have it said this of itself."""
    runtime_dir = RuntimeDir(Paths(host.root, mode))
    runtime_dir.prepare()
    runtime_dir.take_lock()
    if document is not None:
        runtime_dir.put_status(document)
    return runtime_dir


def settings(host: Host, text: str) -> None:
    """Write the operator's settings."""
    path = host.root / "etc/conntrackd-guard/guard.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def printed(found: Status, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a pipe gets."""
    print_status(Console(), found)
    return capsys.readouterr().out


def test_the_running_guards_own_policy_counts(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--config`, or before a reload, next step and budget are those the guard goes by; that is said."""
    settings(host, "max_limit: 1_000_000\n")
    kept = a_guard_runs(host, document=told(policy=Policy(max_limit=LIMIT)))
    found = gather(Paths(host.root))
    assert isinstance(found.next_step, Hold)
    assert found.next_step.reason is HoldReason.AT_CEILING
    assert "the settings in /etc differ from those the running guard goes by" in printed(found, capsys)
    kept.put_status(told(policy=Policy(max_limit=1_000_000)))
    assert "differ" not in printed(gather(Paths(host.root)), capsys)


def test_settings_that_are_bad_now_leave_the_running_guards(host: Host) -> None:
    """What can't be used is told, and the guard's own is shown instead of the defaults."""
    settings(host, "ceilling: 1\n")
    assert isinstance(gather(Paths(host.root)).next_step, Raise)
    kept = a_guard_runs(host, document=told(policy=Policy(max_limit=LIMIT)))
    found = gather(Paths(host.root))
    assert isinstance(found.next_step, Hold)
    assert any("ceilling" in text and "the running guard's" in text for text in found.unread)
    assert kept


def test_a_guard_that_says_nothing_any_more_is_degraded(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped or hung it still holds the lock: what it said last is old, and so is told."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    kept = a_guard_runs(host, document=told(boottime_seconds=now - 42.0))
    found = gather(Paths(host.root))
    assert found.degraded
    assert "silent for 42s" in printed(found, capsys)
    kept.put_status(told())
    found = gather(Paths(host.root))
    assert not found.degraded
    assert "running since" in printed(found, capsys)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"recorder": {"trouble": ["disk full"]}}, "trouble: disk full"),
        ({"over_budget": True}, "more than this host can bear; `guard revert --all` undoes it"),
        ({"state": State(conflict_seconds=(1e9,) * 3)}, "`guard resume` ends it"),
    ],
)
def test_what_needs_a_person_is_degraded(
    host: Host, capsys: pytest.CaptureFixture[str], document: dict[str, Any], says: str
) -> None:
    """Trouble with the disk, a limit that is too much for this host, and a stand-off each come with a next step."""
    kept = a_guard_runs(host, document=told(**document))
    found = gather(Paths(host.root))
    assert found.degraded
    assert says in printed(found, capsys)
    assert kept


def test_what_an_earlier_guard_said_is_not_this_ones(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A guard that has just begun holds the lock, while the file under /run is its predecessor's."""
    kept = a_guard_runs(host, document=told(policy=Policy(max_limit=LIMIT)) | {"pid": 1})
    found = gather(Paths(host.root))
    assert (found.live, isinstance(found.next_step, Raise)) == (None, True)
    assert f"starting, pid {os.getpid()}" in printed(found, capsys)
    assert kept


@pytest.mark.parametrize(("asked", "runs", "flag"), [(Mode.DRY_RUN, Mode.ACT, "--no-"), (Mode.ACT, Mode.DRY_RUN, "--")])
def test_a_guard_in_the_other_mode_is_pointed_at(
    host: Host, capsys: pytest.CaptureFixture[str], asked: Mode, runs: Mode, flag: str
) -> None:
    """After `mode` was changed without a restart, nobody is led to believe that no guard runs."""
    kept = a_guard_runs(host, runs, told())
    out = printed(gather(Paths(host.root, asked)), capsys)
    assert "not running" in out
    assert f"one in mode {runs} runs: `guard status {flag}dry-run`" in out
    assert kept


@pytest.mark.parametrize(("in_force", "shown"), [(LIMIT, STEP), (300_000, 300_000), (0, 0)])
def test_a_rehearsed_limit_counts_while_it_is_the_higher(host: Host, tmp_path: Path, in_force: int, shown: int) -> None:
    """What a dry run rehearsed before the limit was raised past it (or made unlimited) is of no account any more."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.written()
    guarded.stop()
    rehearsal = Paths(tmp_path, Mode.DRY_RUN)
    rehearsal.state_folder.mkdir(parents=True)
    with History(guarded.paths.history, mode="reader") as history:
        history._database.execute("VACUUM INTO ?", (str(rehearsal.history),))
    host.limit = in_force
    assert gather(rehearsal).observation.limit == shown


def test_the_service_managers_line() -> None:
    """One line for `systemctl status`, in words where there is no limit, and with what stops the guard."""
    assert status_line(told()) == "watching: limit 65,536"
    assert status_line(told(mode=Mode.DRY_RUN, episodes=2)) == "rehearsing: limit 65,536, 2 full or filling up"
    assert status_line(told(limit=None)) == "watching: no limit, as this kernel tracks no connections yet"
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    bad = told(state=State(conflict_seconds=(now - 1.0,) * 3), recorder={"trouble": ["disk full"]}, over_budget=True)
    assert status_line(bad) == (
        "stopped by a stand-off, over budget, in trouble (disk full): limit 65,536; see `guard status`"
    )
    paused = told(pause=Pause(by="guard pause", reason="drill"))
    assert status_line(paused) == "paused by guard pause: limit 65,536; see `guard status`"
