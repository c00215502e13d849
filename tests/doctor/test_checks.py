"""`guard doctor` on hosts made of files: what it finds, what it can't, and that it changes nothing."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.fake_host import BOOT, HEALTHY, FakeHost
from testbed.records import add, raised

from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.errors import HostError, SettingsError
from conntrackd_guard.core.model import Outcome, OutcomeKind
from conntrackd_guard.doctor import checks, facts
from conntrackd_guard.history.database import History
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.keys import Settings


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A healthy host whose kernel warned at 7 µs, and whose journal has that."""
    monkeypatch.setattr(checks, "JOURNAL_SECONDS", 0.0)
    monkeypatch.setattr(checks, "_newest_warning", lambda _: 7)
    monkeypatch.setattr(checks, "newest_line", lambda _: (True, BOOT, 7))
    return FakeHost(tmp_path)


def test_a_healthy_host_is_good_throughout(host: FakeHost) -> None:
    """Every check is made and good; nothing is wrong."""
    found = host.examine()
    assert {name: check.evidence for name, check in found.items() if check.verdict.value != "good"} == {}
    assert list(found) == list(checks._CHECKS)
    assert "98,304 is kept in" in found["drop_in"].evidence
    assert "newest decision 1 at 1970-01-01T00:16:40.000Z" in found["history"].evidence


def test_nothing_is_changed(host: FakeHost) -> None:
    """Neither content nor rights nor time of any file is another afterwards, and no file is new."""
    before = host.everything()
    assert host.examine(running=False)["guard"].verdict.value == "wrong"
    assert host.everything() == before


def test_each_fault_is_found_by_its_check(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check that reads the host turns with what is broken on it, and no other check does."""
    host.put("etc/sysctl.d/99-zzz.conf", "net.nf_conntrack_max = 65536\n")
    assert host.verdicts() == {"at_boot": "wrong", "sysctl_system": "wrong"}
    (host.root / "etc/sysctl.d/99-zzz.conf").unlink()
    host.put("etc/sysctl.conf", "net.nf_conntrack_max = 65536\n")
    assert host.verdicts() == {"sysctl_system": "wrong"}
    (host.root / "etc/sysctl.conf").unlink()
    host.put("sys/module/nf_conntrack/initstate", "live\n")
    assert host.verdicts() == {"boot_trap": "wrong"}
    host.put("etc/modules-load.d/x.conf", "nf_conntrack\n")
    host.put("etc/rc.local", "sysctl -w net.netfilter.nf_conntrack_max=1\n")
    assert host.verdicts() == {"other_writers": "note"}
    (host.root / "etc/rc.local").unlink()
    host.put("etc/conntrackd-guard/pause", "")
    assert host.verdicts() == {"pause": "note"}
    (host.root / "etc/conntrackd-guard/pause").unlink()
    host.put("proc/sys/net/netfilter/nf_conntrack_buckets", "1024\n")
    assert host.verdicts() == {"buckets": "wrong"}
    host.put("proc/sys/net/netfilter/nf_conntrack_buckets", "65536\n")
    monkeypatch.setattr(checks, "_newest_warning", lambda _: 9)
    assert host.verdicts() == {"journal": "wrong"}


def test_another_limit_in_force(host: FakeHost) -> None:
    """A limit that was lowered since is no longer the one kept."""
    host.put("proc/sys/net/netfilter/nf_conntrack_max", "65536\n")
    found = host.examine()["drop_in"]
    assert found.verdict.value == "wrong"
    assert found.next_step.startswith("To have what was kept: `sysctl -w net.netfilter.nf_conntrack_max=98304`")


def test_a_child_namespace(host: FakeHost) -> None:
    """Where the kernel shows the limit read-only even to its owner, this is not the host's namespace."""
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").chmod(0o444)
    assert host.examine()["namespace"].verdict.value == "wrong"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own settings: bad settings were NOT tested")
def test_bad_settings(host: FakeHost) -> None:
    """Problems are told with file and line, and what takes effect meanwhile."""
    host.put("etc/conntrackd-guard/guard.yaml", "growth_factor: 0\nmodus: act\n").chmod(0o644)
    found = host.examine()["settings"]
    assert found.verdict.value == "wrong"
    assert "guard.yaml:1: growth_factor: found '0'" in found.evidence
    assert "guard.yaml:2: 'modus'" in found.evidence


def test_a_damaged_history(host: FakeHost) -> None:
    """A page that went bad is found although reading the newest decision works; the other checks go on."""
    with History(host.paths.history, mode="writer") as history:
        for number in range(2, 200):
            add(history, raised(str(number), boot_id="earlier"))
    with host.paths.history.open("r+b") as file:
        file.seek(-4096 * 3, os.SEEK_END)
        file.write(b"\xff" * 4096)
    found = host.examine()
    assert found["history"].verdict.value == "wrong"
    assert "set aside" in found["history"].next_step
    assert found["clock"].verdict.value == "good"


def test_a_history_of_a_newer_guard(host: FakeHost) -> None:
    """A schema that this guard does not know is told as such."""
    import sqlite3  # noqa: PLC0415 - for this test only

    database = sqlite3.connect(host.paths.history)
    database.execute("PRAGMA user_version = 99")
    database.close()
    found = host.examine()["history"]
    assert found.verdict.value == "wrong"
    assert "it has schema 99, this guard knows" in found.evidence


def test_a_history_too_large_to_check(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be checked in time is unknown, not good."""
    monkeypatch.setattr("conntrackd_guard.history.file.PROGRESS_STEPS", 1)
    monkeypatch.setattr(facts, "CHECK_SECONDS", -1.0)
    found = host.examine()
    assert found["history"].verdict.value == "unknown"
    assert found["drop_in"].verdict.value == "good"


def test_a_clock_that_was_set_back(host: FakeHost) -> None:
    """A newest decision from the future tells of a clock set back."""
    with History(host.paths.history, mode="writer") as history:
        add(history, raised("2", boot_id=BOOT, wall_seconds=9e9))
    assert host.examine()["clock"].verdict.value == "wrong"


def test_a_refused_write(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only /proc/sys is told as the guard would meet it."""
    refused = OSError(30, "Read-only file system")
    monkeypatch.setattr(facts, "open_error", lambda _path, flags: refused if flags & os.O_WRONLY else None)
    found = host.examine()["writable"]
    assert found.verdict.value == "wrong"
    assert "Read-only file system" in found.evidence


def test_a_write_that_the_kernel_refused(host: FakeHost) -> None:
    """A refusal counts as long as the limit is the one it was met at."""
    host.put("proc/sys/net/netfilter/nf_conntrack_max", "65536\n")
    refused = Outcome(kind=OutcomeKind.REJECTED, errno=22)
    with History(host.paths.history, mode="writer") as history:
        add(history, replace(raised("2", boot_id=BOOT, limit=65536), outcome=refused))
    found = host.examine()["writable"]
    assert (found.verdict.value, "Invalid argument" in found.evidence) == ("wrong", True)
    host.put("proc/sys/net/netfilter/nf_conntrack_max", "131072\n")
    assert host.examine()["writable"].verdict.value == "good"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the guard's own view was NOT tried")
def test_the_guards_own_view_counts(host: FakeHost) -> None:
    """What is writable here may not be in the guard's sandbox: its root is looked into."""
    inside = host.root / "proc/42/root/proc/sys/net/netfilter/nf_conntrack_max"
    inside.mkdir(parents=True)  # opening a folder for writing fails for root too
    assert host.verdicts() == {"writable": "wrong"}


def test_kernel_lines_of_another_boot_are_not_todays(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal whose newest kernel line is of an earlier boot holds none of this one, however late its stamp."""
    monkeypatch.setattr(checks, "newest_line", lambda _: (True, "earlier", 10**12))
    assert "no kernel line of this boot" in host.examine()["journal"].evidence


def test_a_line_that_is_on_its_way_is_waited_for(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is looked at again before it is said that lines don't reach it."""
    monkeypatch.setattr(checks, "JOURNAL_SECONDS", 5.0)
    monkeypatch.setattr("conntrackd_guard.doctor.checks.time.sleep", lambda _: None)
    stamps = iter([5, 6, 7])
    monkeypatch.setattr(checks, "newest_line", lambda _: (True, BOOT, next(stamps)))
    assert host.examine()["journal"].verdict.value == "good"


def test_a_damaged_journal_is_unknown(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that can't be read names the command that tells which file it is."""
    monkeypatch.setattr(checks, "newest_line", _damaged)
    found = host.examine()["journal"]
    assert (found.verdict.value, "journalctl --verify" in found.next_step) == ("unknown", True)


def test_before_the_first_decision(host: FakeHost) -> None:
    """A fresh host has no history and keeps nothing, and that is good."""
    host.paths.history.unlink()
    host.paths.drop_in.unlink()
    assert host.verdicts() == {}


def test_a_rehearsing_guard_raises_nothing(host: FakeHost) -> None:
    """Beside a dry run, the guard that should act is missed all the same."""
    rehearsing = FakeHost(host.root / "other")
    rehearsing.paths = Paths(host.root, Mode.DRY_RUN)
    host.put("run/conntrackd-guard/dry-run/lock", "43\n")
    with rehearsing.running():
        found = host.examine(running=False)["guard"]
    assert (found.verdict.value, found.evidence) == ("wrong", "none runs, only one in dry run: nothing is raised")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own settings: mode dry-run was NOT tested")
def test_mode_dry_run_is_examined_as_such(host: FakeHost) -> None:
    """With `mode: dry-run` in the settings the rehearsing guard is the one looked for, and nothing need be kept."""
    host.put("etc/conntrackd-guard/guard.yaml", "mode: dry-run\n").chmod(0o644)
    host.paths.drop_in.unlink()
    host.put("sys/module/nf_conntrack/initstate", "live\n")
    lock = host.put("run/conntrackd-guard/dry-run/lock", "43\n")
    host.put("run/conntrackd-guard/dry-run/status.json", json.dumps({**HEALTHY, "mode": "dry-run"}))
    descriptor = os.open(lock, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    found = host.examine(running=False)
    os.close(descriptor)
    assert "mode dry-run" in found["guard"].evidence
    assert (found["drop_in"].verdict.value, found["boot_trap"].verdict.value) == ("good", "note")


def test_a_value_set_over_what_is_kept(host: FakeHost) -> None:
    """Another writer's value is held against what is kept, not against what it has already done."""
    host.put("proc/sys/net/netfilter/nf_conntrack_max", "65536\n")
    host.put("etc/ufw/ufw.conf", "ENABLED=yes\n")
    host.put("etc/default/ufw", "IPT_SYSCTL=/etc/ufw/sysctl.conf\n")
    host.put("etc/ufw/sysctl.conf", "net/netfilter/nf_conntrack_max=65536\n")
    assert host.examine()["other_writers"].verdict.value == "wrong"


def test_settings_that_may_not_be_read(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a plain user settings out of reach are unknown, not wrong."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(facts, "load_settings", _forbidden)
    found = host.examine()["settings"]
    assert (found.verdict.value, found.next_step) == ("unknown", "Run this as root.")


def test_without_rights_what_can_be_told_is_told(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain user gets the checks that need no rights; the others are unknown and say what would make them known."""
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(facts, "open_error", lambda _path, _flags: denied)
    monkeypatch.setattr(checks, "_newest_warning", lambda _: None)
    monkeypatch.setattr(checks, "newest_line", lambda _: (False, "", None))
    monkeypatch.setattr(facts, "History", _unreadable)
    found = host.examine(running=False)
    unknown = {name: check for name, check in found.items() if check.verdict.value == "unknown"}
    assert sorted(unknown) == ["history", "journal", "other_writers", "ring_buffer", "writable"]
    assert all("root" in check.next_step for check in unknown.values())
    assert found["at_boot"].verdict.value == found["drop_in"].verdict.value == "good"


def test_a_bare_host_is_examined(tmp_path: Path) -> None:
    """Where nothing is there at all, not even /proc, every check still has a verdict."""
    found = {check.name: check.verdict.value for check in checks.examine(Paths(tmp_path)).checks}
    assert list(found) == list(checks._CHECKS)
    assert (found["guard"], found["clock"], found["conntrack"]) == ("wrong", "wrong", "note")


def _unreadable(path: Path, **_: object) -> History:
    cause = PermissionError(13, "Permission denied")
    raise HostError("open the history", path, cause, "Run as root or as a member of adm.")


def _damaged(_: object) -> tuple[bool, str, int | None]:
    raise OSError(74, "Bad message")


def _forbidden(*_: object) -> Settings:
    raise SettingsError("/etc/conntrackd-guard/guard.yaml: can't be opened: Permission denied; make it readable")
