"""The status of a made-up host: the running daemon, its settings, and its next step."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.actions import status
from conntrackd_guard.actions.status import Status, gather
from conntrackd_guard.actions.status import document as as_document
from conntrackd_guard.cli.commands.status import status as status_command
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.render.status_text import print_status
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.episode import Episode
from conntrackd_guard.core.health import Level
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, Pause, Raise, State
from conntrackd_guard.daemon.status_line import sources_text, status_line
from conntrackd_guard.doctor.checks import examine
from conntrackd_guard.doctor.verdicts import Verdict
from conntrackd_guard.history import documents
from conntrackd_guard.history.database import History
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

STEP = 98_304


@pytest.fixture(autouse=True)
def a_quick_look(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the tables twice without the pause between; the list of locks is the kernel's own."""
    (host.root / "proc/locks").symlink_to("/proc/locks")
    monkeypatch.setattr(status, "LOOK_SECONDS", 0.0)


def published(**changed: Any) -> dict[str, Any]:
    """Return the status that a daemon in this process publishes now."""
    return {
        "version": 1, "pid": os.getpid(), "since": 1.0, "at": 2.0, "mode": "act", "limit": LIMIT,
        "boottime_seconds": time.clock_gettime(time.CLOCK_BOOTTIME), "paused": None, "conflict": False,
        "over_budget": False, "memory_exceeded": False, "long_chains": None, "not_writable": None, "write_refused": None,
        "needs": 0, "unmet": [], "unread": [],
        "memory_unknown": "", "memory_total_bytes": 24 << 30, "recorder": {"trouble": []},
        "sources": {"ring_buffer": "following", "journal": "following", "notes": []}, "policy": encode(Policy()),
    } | changed  # fmt: skip


def a_guard_runs(host: Host, mode: Mode = Mode.ACT, document: dict[str, Any] | None = None) -> RuntimeDir:
    """Let this process hold the lock and publish a status."""
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


def test_the_daemon_publishes_this_status(host: Host) -> None:
    """A pause and a conflict show in it; its keys are those of `published`."""
    guarded = Guarded(host)
    guarded.runtime_dir.put_pause(Pause(by="guard pause", reason="drill"))
    guarded.controller.publish({})
    before = guarded.runtime_dir.status()
    guarded.controller.state = State(conflict_seconds=(guarded.clock.now - 1.0,) * 3)
    full = Episode(namespace=host.container, needed_seconds=guarded.clock.now - 1.0, reason=HoldReason.AT_CEILING)
    past = Episode(namespace=1, needed_seconds=guarded.clock.now - 5.0, reason=HoldReason.AT_CEILING)
    guarded.controller.publish({1: past, host.container: full})
    after = guarded.runtime_dir.status()
    assert before is not None
    assert after is not None
    unmet = [{"table": "process 200", "reason": "at_ceiling"}]
    changed = {"conflict": True, "needs": 1, "unmet": unmet, "blocked_by": "conflict", "at": after["at"]}
    changed["recorder"] = after["recorder"]
    assert after == before | changed
    assert before == published() | {
        "since": before["since"], "at": before["at"], "boottime_seconds": guarded.clock.now, "sources": {},
        "root": str(host.root), "owners_read_by": "guard",
        "paused": {"by": "guard pause", "reason": "drill", "until": None}, "blocked_by": "paused",
        "recorder": before["recorder"],
    }  # fmt: skip
    guarded.stop()


def test_the_policy_of_the_running_daemon_counts(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--config`, or before a reload, next step and budget follow the daemon's own settings, with a note."""
    settings(host, "max_limit: 1_000_000\n")
    kept = a_guard_runs(host, document=published(policy=encode(Policy(max_limit=LIMIT))))
    found = gather(Paths(host.root))
    assert isinstance(found.next_step, Hold)
    assert found.next_step.reason is HoldReason.AT_CEILING
    assert "new settings in /etc are not in effect yet" in printed(found, capsys)
    kept.put_status(published(policy=encode(Policy(max_limit=1_000_000))))
    assert "not in effect" not in printed(gather(Paths(host.root)), capsys)


def test_with_bad_settings_those_of_the_running_daemon_count(host: Host) -> None:
    """The problem is shown, and the daemon's own settings count instead of the defaults."""
    settings(host, "ceilling: 1\n")
    assert isinstance(gather(Paths(host.root)).next_step, Raise)
    kept = a_guard_runs(host, document=published(policy=encode(Policy(max_limit=LIMIT))))
    found = gather(Paths(host.root))
    assert isinstance(found.next_step, Hold)
    assert any("ceilling" in text and "those of the running daemon" in text for text in found.unread)
    assert kept


def test_an_unresponsive_daemon_is_degraded(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped or hung it still holds the lock: its last status is old, and its age is shown."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    kept = a_guard_runs(host, document=published(boottime_seconds=now - 42.0))
    found = gather(Paths(host.root))
    assert found.health.level is Level.DOWN
    assert "not answered for 42s" in printed(found, capsys)
    kept.put_status(published())
    found = gather(Paths(host.root))
    assert found.health.level is Level.HEALTHY
    assert "running since" in printed(found, capsys)


@pytest.mark.parametrize(
    ("document", "level", "text"),
    [
        ({"recorder": {"trouble": ["disk full"]}}, Level.ACTION_REQUIRED, "action required: disk full"),
        ({"unread": ["/proc/x"]}, Level.DEGRADED, "degraded: not read: /proc/x"),
        ({"over_budget": True}, Level.ACTION_REQUIRED, "`guard revert --all` restores the original limit"),
        ({"conflict": True}, Level.ACTION_REQUIRED, "then `guard resume`"),
        (
            {"not_writable": {"why": "/x: read-only", "next_step": "Mount."}},
            Level.ACTION_REQUIRED,
            "can't write /x: read-only. Mount.",
        ),
    ],
)
def test_every_view_has_the_same_health(  # noqa: PLR0913, PLR0917
    host: Host,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    document: dict[str, Any],
    level: Level,
    text: str,
) -> None:
    """A condition is shown with its next step, and exit code, JSON, doctor and metrics say the same."""
    kept = a_guard_runs(host, document=published(**document))
    monkeypatch.setenv("TZ", "UTC")
    found = gather(Paths(host.root))
    assert found.health.level is level
    assert text in printed(found, capsys)
    assert status_command(argparse.Namespace(watch=False), Paths(host.root)).code is (
        Exit.DONE if level is Level.DEGRADED else Exit.NO
    )
    assert json.loads(documents.document(as_document(found)))["health"]["level"] == level.value
    checks = {check.name: check for check in examine(Paths(host.root)).checks}
    assert checks["guard"].verdict is Verdict.GOOD
    assert checks["health"].verdict is (Verdict.WRONG if level is Level.ACTION_REQUIRED else Verdict.NOTE)
    assert kept


def test_the_status_of_an_earlier_daemon_is_ignored(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon that has just started holds the lock, while the file under /run is its predecessor's."""
    kept = a_guard_runs(host, document=published(policy=encode(Policy(max_limit=LIMIT))) | {"pid": 1})
    found = gather(Paths(host.root))
    assert (found.live, isinstance(found.next_step, Raise)) == (None, True)
    assert f"starting (pid {os.getpid()})" in printed(found, capsys)
    assert kept


@pytest.mark.parametrize(("asked", "runs", "flag"), [(Mode.DRY_RUN, Mode.ACT, "--no-"), (Mode.ACT, Mode.DRY_RUN, "--")])
def test_a_guard_in_the_other_mode_is_pointed_at(
    host: Host, capsys: pytest.CaptureFixture[str], asked: Mode, runs: Mode, flag: str
) -> None:
    """After a change of `mode` without a restart, the status names the daemon that runs."""
    kept = a_guard_runs(host, runs, published())
    out = printed(gather(Paths(host.root, asked)), capsys)
    assert "not running" in out
    assert f"one in mode {runs} runs: `guard status {flag}dry-run`" in out
    assert kept


@pytest.mark.parametrize(("in_force", "shown"), [(LIMIT, STEP), (300_000, 300_000), (0, 0)])
def test_a_rehearsed_limit_counts_while_it_is_the_higher(host: Host, tmp_path: Path, in_force: int, shown: int) -> None:
    """The limit of a dry run no longer counts once the real limit is higher, or unlimited."""
    guarded = Guarded(host)
    host.table(LIMIT)
    guarded.message()
    guarded.turn()
    guarded.written()
    guarded.stop()
    dry_run = Paths(tmp_path, Mode.DRY_RUN)
    dry_run.state_folder.mkdir(parents=True)
    with History(guarded.paths.history, mode="reader") as history:
        history._database.execute("VACUUM INTO ?", (str(dry_run.history),))
    host.limit = in_force
    assert gather(dry_run).observation.limit == shown


def test_the_service_managers_line() -> None:
    """One line for `systemctl status`, in words where there is no limit, and with what stops the guard."""
    assert status_line(published()) == "watching: limit 65,536"
    assert status_line(published(mode="dry-run", needs=2)) == "dry run: limit 65,536, 2 full or filling up"
    assert status_line(published(limit=None)) == "watching: no limit: this kernel tracks no connections yet"
    bad = published(conflict=True, recorder={"trouble": ["disk full"]}, over_budget=True)
    assert status_line(bad) == (
        "ACTION NEEDED: raising is off, another program keeps lowering the limit; the limit is too high for this host's "
        "memory: a full table would exceed the memory budget; disk full; limit 65,536; see `guard status`"
    )
    paused = published(paused={"by": "guard pause", "reason": "drill"})
    assert status_line(paused) == (
        "degraded: raising is paused by guard pause until resumed; limit 65,536; see `guard status`"
    )


def test_the_sources_of_messages_in_words() -> None:
    """What the daemon follows, and what this host lacks."""
    assert sources_text({"ring_buffer": "following", "journal": "not found on this host"}) == (
        "following /dev/kmsg; no journal on this host"
    )
    assert sources_text({"ring_buffer": "absent", "journal": "following"}) == "/dev/kmsg absent; journal following"
