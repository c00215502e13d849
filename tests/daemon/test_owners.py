"""Whose table is raised for: never a namespace that any user can have made, however it is kept."""

from __future__ import annotations

import os
from typing import cast

import pytest
from testbed.guarded import LIMIT, Guarded, Host, watch

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.health import START_HELPER
from conntrackd_guard.host.conntrack import namespaces
from conntrackd_guard.host.conntrack.owner_client import OwnerClient

GONE = 999
"""A number that no process and no mount leads to."""
UNREACHABLE = {"hold unreachable_namespace none"}


def test_a_namespace_that_nothing_leads_to_is_not_raised_for(host: Host) -> None:
    """A user keeps it by a descriptor or a socket alone. The hold says how root makes one known."""
    guarded = Guarded(host)
    for _ in range(3):
        guarded.message(GONE)
        watch(guarded, 6.0)
    assert guarded.kernel.writes == []
    assert set(guarded.reasons()) == UNREACHABLE
    assert "`ip netns attach NAME PID`" in guarded.rows()[0].sentence
    guarded.stop()


def test_one_scan_looks_for_all_numbers_that_come_together(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with ten such tables and thousands of namespaces must not delay other raises by ten long scans."""
    scans: list[float] = []
    scan = namespaces.NamespaceScanner.scan
    guarded = Guarded(host)
    guarded.turn()

    def counted(scanner: namespaces.NamespaceScanner) -> object:
        scans.append(guarded.clock.now)
        return scan(scanner)

    monkeypatch.setattr(namespaces.NamespaceScanner, "scan", counted)
    for number in range(GONE, GONE + 10):
        guarded.message(number)
    guarded.turn(0.25)
    assert len(scans) == 1
    host.namespace("300", LIMIT)
    guarded.message((host.root / "proc/300/ns/net").stat().st_ino)
    guarded.turn(0.25)
    assert guarded.reasons()[-1] == "raise kernel_message confirmed applied"
    guarded.stop()


def test_entries_that_nothing_leads_to_are_not_raised_for(rootless: Host) -> None:
    """The same before 6.17, whose messages have no number: they are in no table that can be read."""
    rootless.table(LIMIT, pid="200")
    rootless.end("200", memory_is_kept=True)
    guarded = Guarded(rootless)
    guarded.message(None)
    watch(guarded, 12.0)
    assert guarded.kernel.writes == []
    assert set(guarded.reasons()) == UNREACHABLE
    guarded.stop()


@pytest.mark.parametrize("number", [GONE, None])
def test_where_user_namespaces_are_trusted_it_is_stepped_for(rootless: Host, number: int | None) -> None:
    """By the settings, no user is an attacker."""
    rootless.table(LIMIT, pid="200")
    rootless.end("200", memory_is_kept=True)
    guarded = Guarded(rootless, Policy(trust_user_namespaces=True))
    guarded.message(number)
    guarded.turn(0.25)
    assert guarded.reasons() == ["raise kernel_message unknown applied"]
    guarded.stop()


def test_a_hidden_process_may_be_roots(host: Host) -> None:
    """The scan is incomplete, and nothing more is known of the number: one plain step, as ever."""
    (host.root / "proc/201/net").mkdir(parents=True)
    (host.root / "proc/201/net/stat").symlink_to("stat")  # ELOOP
    guarded = Guarded(host)
    guarded.message(GONE)
    guarded.turn(0.25)
    assert guarded.reasons() == ["raise kernel_message unknown applied"]
    guarded.stop()


def test_a_number_stays_a_users_for_ten_seconds(rootless: Host) -> None:
    """Its namespace has ended; its last messages are no evidence of another one, of a process that is hidden."""
    (rootless.root / "proc/201/net").mkdir(parents=True)
    (rootless.root / "proc/201/net/stat").symlink_to("stat")
    guarded = Guarded(rootless)
    guarded.turn()
    rootless.end("200", memory_is_kept=False)
    for _ in range(2):
        guarded.message(rootless.container)
        watch(guarded, 4.0)
    assert guarded.kernel.writes == []
    assert guarded.reasons()[0] == "hold untrusted_namespace none"
    watch(guarded, 11.0)
    guarded.message(rootless.container)
    guarded.turn(0.25)
    assert guarded.reasons()[-1] == "raise kernel_message unknown applied"
    guarded.stop()


def test_the_owner_read_now_beats_the_memory(rootless: Host) -> None:
    """The kernel gives the number of a user's namespace to the next one at once, and that is root's and full."""
    guarded = Guarded(rootless)
    rootless.table(LIMIT, drop=50, pid="200")
    guarded.message(rootless.container)
    guarded.turn(0.25)
    assert guarded.reasons() == ["hold untrusted_namespace none"]
    rootless.end("200", memory_is_kept=False)
    rootless.namespace("300", LIMIT)
    (rootless.root / "proc/300/ns/net").unlink()
    os.link(rootless.root / "ended-200/ns/net", rootless.root / "proc/300/ns/net")
    guarded.message(rootless.container)
    guarded.turn(0.25)
    assert guarded.reasons()[-1] == "raise kernel_message confirmed applied"
    guarded.stop()


def test_a_table_of_an_unknown_owner_is_held(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rights to see who owns the container, the guard raises for the host's own table alone."""

    def inspect(path: str) -> tuple[int, bool]:
        if "/200/" in path:
            raise PermissionError
        return os.stat(path).st_ino, False

    monkeypatch.setattr(namespaces, "inspect_namespace", inspect)
    host.table(LIMIT, pid="200")
    guarded = Guarded(host)
    guarded.message(host.container)
    watch(guarded, 6.0)
    assert guarded.kernel.writes == []
    assert set(guarded.reasons()) == {"hold owner_unknown none"}
    assert "`systemctl start conntrackd-guard-namespaces`" in guarded.rows()[0].sentence
    host.table(LIMIT)
    guarded.turn(0.25)
    assert guarded.kernel.writes != []
    guarded.stop()


class Helper:
    """The guard's end of a helper, as the test has it."""

    def __init__(self) -> None:
        self.is_missing = False
        self.changed = False

    def has_changed(self) -> bool:
        """Return whether the test has changed it since."""
        changed, self.changed = self.changed, False
        return changed


def test_a_helper_that_is_missing_is_warned_of_once(host: Host) -> None:
    """One warning names the cure; the status has it until the helper is back, and a new end is news."""
    guarded = Guarded(host)
    guarded.parts.owners = helper = cast("OwnerClient", Helper())
    for is_missing in (True, True, False, True):
        have(helper, is_missing=is_missing)
        guarded.turn(2.5)
        status = guarded.runtime_dir.status()
        assert status is not None
        assert status["owners_read_by"] == ("nobody" if is_missing else "helper")
    guarded.written()
    warnings = [line["message"] for line in guarded.logged("guard.info") if line["level"] == "warning"]
    assert len(warnings) == 2
    assert START_HELPER in warnings[0]
    guarded.stop()


def have(helper: OwnerClient, **values: bool) -> None:
    """Set what the made-up helper shows."""
    for name, value in values.items():
        setattr(helper, name, value)


def test_a_helper_that_comes_is_a_reason_to_scan(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that was held for its unknown owner is raised for within a tick or two."""
    rights = [False]

    def inspect(path: str) -> tuple[int, bool]:
        if "/200/" in path and not rights[0]:
            raise PermissionError
        return os.stat(path).st_ino, False

    monkeypatch.setattr(namespaces, "inspect_namespace", inspect)
    host.table(LIMIT, pid="200")
    guarded = Guarded(host)
    guarded.parts.owners = helper = cast("OwnerClient", Helper())
    watch(guarded, 1.0)
    assert guarded.reasons() == ["hold owner_unknown none"]
    rights[0] = True
    have(helper, changed=True)
    watch(guarded, 6.0)
    assert guarded.reasons()[1].startswith("raise filling_up confirmed")
    guarded.stop()


def test_messages_of_users_without_a_number_cause_few_scans(rootless: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.17 each may be about a namespace that is new: looking for it takes a bounded share of a core."""
    scans: list[float] = []
    scan = namespaces.NamespaceScanner.scan
    rootless.table(LIMIT, pid="200")
    guarded = Guarded(rootless)
    guarded.turn()

    def slow(scanner: namespaces.NamespaceScanner) -> object:
        scans.append(guarded.clock.now)
        guarded.clock.now += 0.5
        return scan(scanner)

    monkeypatch.setattr(namespaces.NamespaceScanner, "scan", slow)
    for _ in range(20):
        guarded.message()
        guarded.turn(0.25)
    assert guarded.reasons()[-1] == "hold untrusted_namespace none"
    assert 1 <= len(scans) <= 2
    guarded.stop()
