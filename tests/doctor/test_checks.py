"""`guard doctor` on hosts made of files."""

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
    """A healthy host whose kernel logged a warning at 7 µs that has reached the journal."""
    monkeypatch.setattr(checks, "JOURNAL_SECONDS", 0.0)
    monkeypatch.setattr(checks, "_newest_warning", lambda _: 7)
    monkeypatch.setattr(checks, "newest_message", lambda _: (True, BOOT, 7))
    return FakeHost(tmp_path)


def test_a_healthy_host_passes_all_checks(host: FakeHost) -> None:
    """Every check runs and passes."""
    found = host.examine()
    assert {name: check.evidence for name, check in found.items() if check.verdict.value != "good"} == {}
    assert list(found) == list(checks._CHECKS)
    assert "98,304 is saved in" in found["drop_in"].evidence
    assert "newest decision 1 at 1970-01-01T00:16:40.000Z" in found["history"].evidence


def test_nothing_is_changed(host: FakeHost) -> None:
    """Content, rights and time of every file stay the same, and no file is created."""
    before = host.everything()
    assert host.examine(running=False)["guard"].verdict.value == "wrong"
    assert host.everything() == before


def test_each_fault_is_found_by_its_check(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault changes the verdict of its check and of no other."""
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
    assert host.verdicts() == {"buckets": "wrong", "settings": "note"}  # no raise fits such chains
    host.put("proc/sys/net/netfilter/nf_conntrack_buckets", "65536\n")
    meminfo = (host.root / "proc/meminfo").read_text()
    host.put("proc/meminfo", meminfo.replace("MemAvailable", "MemFree"))
    assert host.verdicts() == {"figures": "note" if os.geteuid() == 0 else "unknown"}
    host.put("proc/meminfo", "\n")
    assert host.verdicts() == {"figures": "wrong", "memory": "unknown"}
    host.put("proc/meminfo", meminfo)
    monkeypatch.setattr(checks, "_newest_warning", lambda _: 9)
    assert host.verdicts() == {"journal": "wrong"}


def test_another_limit_in_force(host: FakeHost) -> None:
    """A limit that was lowered since differs from the saved one."""
    host.put("proc/sys/net/netfilter/nf_conntrack_max", "65536\n")
    found = host.examine()["drop_in"]
    assert found.verdict.value == "wrong"
    assert found.next_step.startswith("To apply it: `sysctl -w net.netfilter.nf_conntrack_max=98304`")


def test_a_child_namespace(host: FakeHost) -> None:
    """If the limit is read-only even for its owner, this is not the initial namespace."""
    (host.root / "proc/sys/net/netfilter/nf_conntrack_max").chmod(0o444)
    assert host.examine()["namespace"].verdict.value == "wrong"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own settings: bad settings were NOT tested")
def test_bad_settings(host: FakeHost) -> None:
    """Problems are reported with file and line."""
    host.put("etc/conntrackd-guard/guard.yaml", "growth_factor: 0\nmodus: act\n").chmod(0o644)
    found = host.examine()["settings"]
    assert found.verdict.value == "wrong"
    assert "guard.yaml:1: growth_factor: found '0'" in found.evidence
    assert "guard.yaml:2: 'modus'" in found.evidence


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own settings: warnings were NOT tested")
def test_settings_that_switch_the_guard_off(host: FakeHost) -> None:
    """They are valid, so it is a note."""
    host.put("etc/conntrackd-guard/guard.yaml", "max_limit: 98304\n").chmod(0o644)
    found = host.examine()["settings"]
    assert found.verdict.value == "note"
    assert "guard.yaml:1: max_limit: 98,304 is not above the limit in force (98,304)" in found.evidence


def test_a_damaged_history(host: FakeHost) -> None:
    """A damaged page is found although the newest decision can be read; the other checks go on."""
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
    """An unknown schema is reported."""
    import sqlite3  # noqa: PLC0415 - for this test only

    database = sqlite3.connect(host.paths.history)
    database.execute("PRAGMA user_version = 99")
    database.close()
    found = host.examine()["history"]
    assert found.verdict.value == "wrong"
    assert "it has schema 99, this guard knows" in found.evidence


def test_a_history_too_large_to_check(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history that could not be checked in time is unknown."""
    monkeypatch.setattr("conntrackd_guard.history.file.PROGRESS_STEPS", 1)
    monkeypatch.setattr(facts, "CHECK_SECONDS", -1.0)
    found = host.examine()
    assert found["history"].verdict.value == "unknown"
    assert found["drop_in"].verdict.value == "good"


def test_a_clock_that_was_set_back(host: FakeHost) -> None:
    """A decision from the future means that the clock was set back."""
    with History(host.paths.history, mode="writer") as history:
        add(history, raised("2", boot_id=BOOT, wall_seconds=9e9))
    assert host.examine()["clock"].verdict.value == "wrong"


def test_a_refused_write(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only /proc/sys is reported with the kernel's error."""
    refused = OSError(30, "Read-only file system")
    monkeypatch.setattr(facts, "open_error", lambda _path, flags: refused if flags & os.O_WRONLY else None)
    found = host.examine()["writable"]
    assert found.verdict.value == "wrong"
    assert "Read-only file system" in found.evidence


@pytest.mark.parametrize(("errno", "text"), [(22, "Invalid argument"), (None, "the write had no effect")])
def test_a_write_refused_by_the_kernel(host: FakeHost, errno: int | None, text: str) -> None:
    """A refusal counts until the limit changes."""
    host.put("proc/sys/net/netfilter/nf_conntrack_max", "65536\n")
    refused = Outcome(kind=OutcomeKind.REJECTED, errno=errno)
    with History(host.paths.history, mode="writer") as history:
        add(history, replace(raised("2", boot_id=BOOT, limit=65536), outcome=refused))
    found = host.examine()["writable"]
    assert (found.verdict.value, text in found.evidence) == ("wrong", True)
    host.put("proc/sys/net/netfilter/nf_conntrack_max", "131072\n")
    assert host.examine()["writable"].verdict.value == "good"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the guard's sandbox was NOT tested")
def test_the_guards_sandbox_counts(host: FakeHost) -> None:
    """Paths are checked inside the guard's sandbox: they may be writable only outside."""
    inside = host.root / "proc/42/root/proc/sys/net/netfilter/nf_conntrack_max"
    inside.mkdir(parents=True)  # opening a folder for writing fails for root too
    assert host.verdicts() == {"writable": "wrong"}


def test_kernel_messages_of_another_boot_do_not_count(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal with messages of an earlier boot only has none of this one, whatever their stamps."""
    monkeypatch.setattr(checks, "newest_message", lambda _: (True, "earlier", 10**12))
    assert "without kernel messages of this boot" in host.examine()["journal"].evidence


def test_the_journal_gets_time_to_store_a_message(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is read again before the check fails."""
    monkeypatch.setattr(checks, "JOURNAL_SECONDS", 5.0)
    monkeypatch.setattr("conntrackd_guard.doctor.checks.time.sleep", lambda _: None)
    stamps = iter([5, 6, 7])
    monkeypatch.setattr(checks, "newest_message", lambda _: (True, BOOT, next(stamps)))
    assert host.examine()["journal"].verdict.value == "good"


def test_a_damaged_journal_is_unknown(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step is the command that names the damaged file."""
    monkeypatch.setattr(checks, "newest_message", _damaged)
    found = host.examine()["journal"]
    assert (found.verdict.value, "journalctl --verify" in found.next_step) == ("unknown", True)


def test_before_the_first_decision(host: FakeHost) -> None:
    """A new host without history and saved limit passes."""
    host.paths.history.unlink()
    host.paths.drop_in.unlink()
    assert host.verdicts() == {}


def test_a_dry_run_does_not_count_as_running(host: FakeHost) -> None:
    """The check fails while only a dry run is running."""
    dry_run = FakeHost(host.root / "other")
    dry_run.paths = Paths(host.root, Mode.DRY_RUN)
    host.put("run/conntrackd-guard/dry-run/lock", "43\n")
    with dry_run.running():
        found = host.examine(running=False)["guard"]
    assert (found.verdict.value, found.evidence) == (
        "wrong",
        "no guard is running: nothing is raised (only a dry run is running)",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own settings: mode dry-run was NOT tested")
def test_mode_dry_run_is_checked_as_such(host: FakeHost) -> None:
    """With `mode: dry-run` the dry run is checked, and no limit need be saved."""
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


def test_a_value_set_over_the_saved_limit(host: FakeHost) -> None:
    """Another program's value is compared with the saved limit, not with the one it has already set."""
    host.put("proc/sys/net/netfilter/nf_conntrack_max", "65536\n")
    host.put("etc/ufw/ufw.conf", "ENABLED=yes\n")
    host.put("etc/default/ufw", "IPT_SYSCTL=/etc/ufw/sysctl.conf\n")
    host.put("etc/ufw/sysctl.conf", "net/netfilter/nf_conntrack_max=65536\n")
    assert host.examine()["other_writers"].verdict.value == "wrong"


def test_unreadable_settings_are_unknown(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that this user can't read are unknown, not wrong."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(facts, "load_settings", _forbidden)
    found = host.examine()["settings"]
    assert (found.verdict.value, found.next_step) == ("unknown", "Run this as root.")


def test_without_rights_other_checks_still_run(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that need rights are unknown, with the next step; the others run."""
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(facts, "open_error", lambda _path, _flags: denied)
    monkeypatch.setattr(checks, "_newest_warning", lambda _: None)
    monkeypatch.setattr(checks, "newest_message", lambda _: (False, "", None))
    monkeypatch.setattr(facts, "History", _unreadable)
    found = host.examine(running=False)
    unknown = {name: check for name, check in found.items() if check.verdict.value == "unknown"}
    assert sorted(unknown) == ["health", "history", "journal", "other_writers", "owners", "ring_buffer", "writable"]
    assert all(
        "root" in check.next_step for name, check in unknown.items() if name not in {"health", "owners"}
    )  # no guard runs
    assert found["at_boot"].verdict.value == found["drop_in"].verdict.value == "good"


def test_an_empty_tree_is_examined(tmp_path: Path) -> None:
    """On an empty tree, without /proc, every check has a verdict."""
    found = {check.name: check.verdict.value for check in checks.examine(Paths(tmp_path)).checks}
    assert list(found) == list(checks._CHECKS)
    assert (found["guard"], found["clock"], found["conntrack"]) == ("wrong", "wrong", "note")


def _unreadable(path: Path, **_: object) -> History:
    cause = PermissionError(13, "Permission denied")
    raise HostError("open the history", path, cause, "Run as root or as a member of adm.")


def _damaged(_: object) -> tuple[bool, str, int | None]:
    raise OSError(74, "Bad message")


def _forbidden(*_: object, **__: object) -> Settings:
    raise SettingsError("/etc/conntrackd-guard/guard.yaml: can't be opened: Permission denied; make it readable")


def test_entries_that_no_listing_shows(host: FakeHost) -> None:
    """A leak in a driver: 263 counted, 4 listed. Packets in flight are none."""
    host.table(count=263, listed=4)
    found = host.examine()["entries"]
    assert found.verdict.value == "wrong"
    assert "the initial namespace counts 263 entries, and the listing shows 4" in found.evidence
    assert "taint" in found.next_step
    host.table(count=263, listed=240)
    assert host.verdicts() == {}
    host.table(count=99, listed=0)
    assert host.verdicts() == {}


@pytest.mark.parametrize(("count", "text"), [(-5, "-5 entries"), (50_000, "at most 11,024 exist")])
def test_a_count_that_can_not_be_true(host: FakeHost, count: int, text: str) -> None:
    """It is named with its table, and nothing else."""
    host.table(count=count, listed=300)
    found = host.examine()["figures"]
    assert found.verdict.value == "wrong"
    assert "the count of the initial namespace can't be true" in found.evidence
    assert text in found.evidence


def test_sysctl_files_are_judged_as_this_kernel_reads_them(host: FakeHost) -> None:
    """A later -1 makes the tables unlimited on 5.10; later kernels refuse it, and the saved limit stands."""
    host.put("etc/sysctl.d/99-zzz.conf", "net.nf_conntrack_max = -1\n")
    host.put("proc/sys/kernel/osrelease", "5.10.0-32-amd64\n")
    assert host.verdicts() == {"at_boot": "note", "sysctl_system": "note"}
    assert "sets -1 (" in host.examine()["at_boot"].evidence
    host.put("proc/sys/kernel/osrelease", "6.12.57+deb13-amd64\n")
    found = host.examine()["at_boot"]
    assert found.verdict.value == "good"
    assert "sets 98,304" in found.evidence
    assert "this kernel refuses -1 in " in found.evidence
    host.put("etc/sysctl.d/99-zzz.conf", "net.nf_conntrack_max = 0\n")
    assert host.verdicts() == {"at_boot": "note", "sysctl_system": "note"}
    host.put("proc/sys/kernel/osrelease", "7.3.4\n")
    assert host.verdicts() == {}


@pytest.mark.parametrize("shown", ["-1", "0"])
def test_an_unlimited_limit_in_force(host: FakeHost, shown: str) -> None:
    """It is no good news, no reason to enlarge the hash table, and nothing to lower by the saved limit."""
    host.put("proc/sys/net/netfilter/nf_conntrack_max", f"{shown}\n")
    found = host.examine()
    assert host.verdicts() == {
        "conntrack": "note",
        "buckets": "unknown",
        "drop_in": "note",
        "memory": "unknown",
        "tables": "unknown",
    }
    assert f"the limit is {shown} (unlimited)" in found["conntrack"].evidence
    assert f"another program has set {shown} (unlimited)" in found["drop_in"].evidence
    assert found["drop_in"].next_step == ""
