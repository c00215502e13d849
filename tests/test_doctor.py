"""`guard doctor` on hosts made of files: what it finds, what it can't, and that it changes nothing."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from records import add, raised

from conntrackd_guard import doctor, readings
from conntrackd_guard.core.checkup import Check
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.history import History
from conntrackd_guard.host import reach
from conntrackd_guard.host.paths import Paths

BOOT = "f2a6c0de-0000-4000-8000-000000000000"
HEALTHY: dict[str, Any] = {
    "version": 1,
    "pid": 42,
    "mode": "act",
    "sources": {"ring_buffer": "following", "journal": "following", "notes": []},
    "recorder": {"trouble": [], "stuck_seconds": 0.0, "lost_lines": 0, "lost_holds": 0},
}


class FakeHost:
    """A healthy host on which the guard has raised the limit to 98,304, as files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(root)
        self.put("proc/sys/net/netfilter/nf_conntrack_max", "98304\n")
        self.put("proc/sys/net/netfilter/nf_conntrack_buckets", "65536\n")
        self.put("proc/sys/kernel/random/boot_id", f"{BOOT}\n")
        self.put("proc/1/comm", "systemd\n")
        self.put("sys/module/nf_conntrack/parameters/hashsize", "65536\n")
        self.put("etc/sysctl.d/99-zz-conntrackd-guard.conf", "net.netfilter.nf_conntrack_max = 98304\n")
        self.put("run/conntrackd-guard/lock", "42\n")
        self.put("run/conntrackd-guard/status.json", json.dumps(HEALTHY))
        with History(self.paths.history, mode="writer") as history:
            add(history, raised("1", boot_id=BOOT, limit=65536))

    def put(self, path: str, content: str) -> Path:
        """Write a file and its folders."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the lock as a running guard does."""
        descriptor = os.open(self.paths.lock, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def examine(self, *, running: bool = True) -> dict[str, Check]:
        """Return every check by name."""
        if not running:
            return {check.name: check for check in doctor.examine(self.paths).checks}
        with self.running():
            return self.examine(running=False)

    def verdicts(self) -> dict[str, str]:
        """Return the verdicts that are not good."""
        return {name: check.verdict.value for name, check in self.examine().items() if check.verdict.value != "good"}

    def everything(self) -> dict[str, tuple[object, ...]]:
        """Return each file and folder with its content, rights and time of change."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[str(path)] = (content, status.st_mode, status.st_mtime_ns, status.st_ino)
        return found


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A healthy host whose kernel warned at 7 µs, and whose journal has that."""
    monkeypatch.setattr(doctor, "JOURNAL_SECONDS", 0.0)
    monkeypatch.setattr(doctor, "_newest_warning", lambda _: 7)
    monkeypatch.setattr(doctor, "newest_line", lambda _: (True, BOOT, 7))
    return FakeHost(tmp_path)


def test_a_healthy_host_is_good_throughout(host: FakeHost) -> None:
    """Every check is made and good; nothing is wrong."""
    found = host.examine()
    assert {name: check.evidence for name, check in found.items() if check.verdict.value != "good"} == {}
    assert list(found) == list(doctor._CHECKS)
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
    monkeypatch.setattr(doctor, "_newest_warning", lambda _: 9)
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


def test_bad_settings(host: FakeHost) -> None:
    """Problems are told with file and line, and what takes effect meanwhile."""
    host.put("etc/conntrackd-guard/guard.yaml", "factor: 0\nmodus: act\n").chmod(0o644)
    found = host.examine()["settings"]
    assert found.verdict.value == "wrong"
    assert "guard.yaml:1: factor: found '0'" in found.evidence
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
    monkeypatch.setattr("conntrackd_guard.history_file.PROGRESS_STEPS", 1)
    monkeypatch.setattr(readings, "CHECK_SECONDS", -1.0)
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
    monkeypatch.setattr(reach, "refusal", lambda _path, flags: refused if flags & os.O_WRONLY else None)
    found = host.examine()["writable"]
    assert found.verdict.value == "wrong"
    assert "Read-only file system" in found.evidence


def test_without_rights_what_can_be_told_is_told(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain user gets the checks that need no rights; the others are unknown and say what would make them known."""
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(reach, "refusal", lambda _path, _flags: denied)
    monkeypatch.setattr(doctor, "_newest_warning", lambda _: None)
    monkeypatch.setattr(doctor, "newest_line", lambda _: (False, "", None))
    monkeypatch.setattr(readings, "History", _unreadable)
    found = host.examine(running=False)
    unknown = {name: check for name, check in found.items() if check.verdict.value == "unknown"}
    assert sorted(unknown) == ["history", "journal", "other_writers", "ring_buffer", "writable"]
    assert all("root" in check.next_step for check in unknown.values())
    assert found["at_boot"].verdict.value == found["drop_in"].verdict.value == "good"


def test_a_bare_host_is_examined(tmp_path: Path) -> None:
    """Where nothing is there at all, not even /proc, every check still has a verdict."""
    found = {check.name: check.verdict.value for check in doctor.examine(Paths(tmp_path)).checks}
    assert list(found) == list(doctor._CHECKS)
    assert (found["guard"], found["clock"], found["conntrack"]) == ("wrong", "wrong", "note")


def _unreadable(path: Path, **_: object) -> History:
    cause = PermissionError(13, "Permission denied")
    raise HostError("open the history", path, cause, "Run as root or as a member of adm.")
