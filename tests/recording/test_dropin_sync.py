"""The persisted limit: it follows raises, is never below what other programs set, and never undoes a revert."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from testbed.disks import until
from testbed.guarded import BARRIER_SECONDS, LIMIT, Guarded, Host, again, an_override

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core import tuning
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.model import Outcome, OutcomeKind, OverrideKind
from conntrackd_guard.host.dropin_lock import DropInLock
from conntrackd_guard.host.dropin_request import DropInRequest
from conntrackd_guard.host.requested_dropin import RequestedDropIn
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn

STEP = 98_304
"""65,536 × 1.5."""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry a due drop-in at every turn of the recorder."""
    monkeypatch.setattr("conntrackd_guard.recording.worker._RETRY_SECONDS", 0.0)


def raised(host: Host) -> Guarded:
    """Return a guard that raised once, with its table empty again."""
    guarded = Guarded(host)
    host.table(host.limit)
    guarded.message()
    guarded.turn()
    host.table(10)
    guarded.written()
    assert host.limit == STEP
    return guarded


def revert(guarded: Guarded) -> None:
    """Revert limit and drop-in as the command does, and have the running guard read the override."""
    guarded.clock.now += 1.0
    order = an_override(guarded, OverrideKind.REVERT, LIMIT)
    guarded.runtime_dir.overrides.put(order.key, encode(order))
    guarded.host.limit = LIMIT
    with suppress(HostError):  # the folder may refuse it
        SysctlDropIn(guarded.paths).override(None, guarded.clock.now)
    guarded.turn(5.0)
    assert guarded.runtime_dir.overrides.all() == []


@pytest.fixture
def _stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another program sets has stood long enough at once."""
    monkeypatch.setattr(tuning, "STANDING_SECONDS", 0.0)


@pytest.mark.usefixtures("_stands")
@pytest.mark.parametrize("limit", [1_000_000, 0])
def test_a_higher_limit_of_another_writer_is_not_lowered_at_the_next_boot(host: Host, limit: int) -> None:
    """The drop-in, which would override the admin's file, is removed, and the log names both limits; 0 is unlimited."""
    guarded = raised(host)
    assert host.persisted == STEP
    host.limit = limit
    guarded.turn(5.0)
    guarded.turn(5.0)
    guarded.written()
    assert host.persisted is None
    (line,) = guarded.logged("guard.info")
    assert "98,304" in line["message"]
    assert f"{limit:,}" in line["message"]
    guarded.stop()


def test_the_next_raise_is_persisted_again(host: Host) -> None:
    """A raise above another program's limit is persisted as a whole."""
    guarded = raised(host)
    host.limit = 1_000_000
    guarded.turn(5.0)
    host.table(1_000_000)
    guarded.message()
    guarded.turn(5.0)
    guarded.written()
    assert host.limit > 1_000_000
    assert host.persisted == host.limit
    guarded.stop()


@pytest.mark.parametrize("passing", [1_000_000, 0])
def test_a_passing_limit_of_another_writer_leaves_the_file(
    host: Host, passing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 0 or a higher limit that stands for seconds; the same is removed once it has stood long enough."""
    guarded = raised(host)
    for limit in (passing, STEP):
        host.limit = limit
        guarded.turn(3.0)
        guarded.written()
    monkeypatch.setattr(tuning, "STANDING_SECONDS", 0.0)
    guarded.written()
    assert host.persisted == STEP
    host.limit = passing
    guarded.turn(3.0)
    guarded.written()
    assert host.persisted is None
    guarded.stop()


def test_a_passing_limit_does_not_void_a_due_raise(host: Host) -> None:
    """/etc can't be written at the raise; a 0 that stands for seconds does not void it."""
    folder = host.root / "etc/sysctl.d"
    folder.write_text("no folder")
    guarded = raised(host)
    for limit in (0, STEP):
        host.limit = limit
        guarded.turn(3.0)
    folder.unlink()
    until(lambda: host.persisted == STEP)
    guarded.stop()


def test_a_higher_limit_found_at_start_ends_the_persisted_one(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had not stood long enough when the last guard stopped. What another boot ended with does not count."""
    boot = host.root / "proc/sys/kernel/random/boot_id"
    boot.write_text("b001\n")
    guarded = raised(host)
    host.limit = 1_000_000
    guarded.turn(3.0)
    guarded.stop()
    assert host.persisted == STEP
    monkeypatch.setattr(tuning, "STANDING_SECONDS", 0.0)
    for name, persisted in (("b002", STEP), ("b001", None)):
        boot.write_text(f"{name}\n")
        guarded = again(guarded)
        guarded.loop.start()
        guarded.written()
        assert host.persisted == persisted
        guarded.stop()


def test_another_writers_lower_limit_leaves_the_file(host: Host) -> None:
    """Neither a lowering nor a raise below the persisted limit removes it."""
    guarded = raised(host)
    for limit in (LIMIT, 80_000):
        host.limit = limit
        guarded.turn(5.0)
    guarded.written()
    assert host.persisted == STEP
    guarded.stop()


@pytest.mark.usefixtures("_stands")
def test_a_limit_raised_while_no_guard_ran_is_not_lowered_either(host: Host) -> None:
    """The start notices the other program, and the drop-in is removed."""
    guarded = raised(host)
    guarded.stop()
    host.limit = 1_000_000
    after = again(guarded)
    after.loop.start()
    after.written()
    assert host.persisted is None
    after.stop()


@pytest.mark.usefixtures("_stands")
def test_a_file_that_cannot_be_removed_is_removed_later(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed removal is logged once and retried; the error is over once it succeeds."""
    remove = SysctlDropIn._remove

    def refuse(_: SysctlDropIn) -> None:
        raise HostError("remove", "the file", OSError(30, "Read-only file system"), "Remove it by hand.")

    guarded = raised(host)
    monkeypatch.setattr(SysctlDropIn, "_remove", refuse)
    host.limit = 1_000_000
    guarded.turn(5.0)
    guarded.written()
    guarded.written()
    assert host.persisted == STEP
    assert len(guarded.recorder.report()["trouble"]) == len(guarded.logged("guard.error")) == 1
    monkeypatch.setattr(SysctlDropIn, "_remove", remove)
    until(lambda: host.persisted is None)
    guarded.written()
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


@pytest.mark.usefixtures("_stands")
def test_a_due_limit_below_another_writers_is_not_written(host: Host) -> None:
    """/etc can't be written at the raise; later the drop-in would lower the limit at the next boot."""
    folder = host.root / "etc/sysctl.d"
    folder.write_text("no folder")
    guarded = raised(host)
    host.limit = 1_000_000
    guarded.turn(5.0)
    guarded.written()
    folder.unlink()
    guarded.written()
    guarded.written()
    assert host.persisted is None
    assert guarded.intents() == 0
    guarded.stop()


def test_a_due_drop_in_keeps_its_intent(host: Host) -> None:
    """The next start writes the drop-in after a kill; a lowering by another program changes nothing."""
    folder = host.root / "etc/sysctl.d"
    folder.write_text("no folder")
    guarded = raised(host)
    host.limit = LIMIT
    guarded.turn(5.0)
    guarded.written()
    assert guarded.intents() == 1
    folder.unlink()
    until(lambda: host.persisted == STEP)
    guarded.written()
    assert guarded.intents() == 0
    guarded.stop()


def test_a_revert_voids_a_due_drop_in(host: Host) -> None:
    """/etc can't be written at the raise, the operator reverts, /etc is writable again: the old limit stays."""
    folder = host.root / "etc/sysctl.d"
    folder.write_text("no folder")
    guarded = raised(host)
    revert(guarded)
    guarded.written()
    folder.unlink()
    guarded.written()
    guarded.written()
    assert host.persisted is None
    assert guarded.intents() == 0
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


def test_a_start_does_what_a_revert_could_not(host: Host) -> None:
    """The disk stalled until both the command and the guard were killed; the raise's intent is still open."""
    guarded = raised(host)
    guarded.stop()
    guarded.clock.now += 1.0
    override = DropInRequest(boot_id="boot-1", decided_us=int(guarded.clock.now * 1e6), content=None)
    DropInLock(guarded.paths).leave_override(override)
    host.limit = LIMIT
    after = again(guarded)
    assert after.kept is None
    until(lambda: host.persisted is None)
    after.stop()


def test_a_failed_revert_voids_nothing(host: Host) -> None:
    """A limit that could not be reverted is persisted."""
    folder = host.root / "etc/sysctl.d"
    folder.write_text("no folder")
    guarded = raised(host)
    order = an_override(guarded, OverrideKind.REVERT, LIMIT)
    guarded.recorder.submit(replace(order, outcome=Outcome(kind=OutcomeKind.REJECTED, errno=30)), guarded.policy)
    guarded.written()
    folder.unlink()
    until(lambda: host.persisted == STEP)
    guarded.stop()


def test_a_revert_voids_raises_that_wait(host: Host, stalled: threading.Event) -> None:
    """A raise waits behind a stalled disk while the command reverts limit and drop-in: it is recorded, not persisted."""
    guarded = Guarded(host)
    for _ in range(2):
        host.table(host.limit)
        guarded.message()
        guarded.turn(3.0)
    until(lambda: host.persisted == STEP)  # its row is stuck, and the second raise behind it
    host.table(10)
    revert(guarded)
    stalled.set()
    assert "override revert applied" in guarded.reasons()
    assert guarded.reasons().count("raise kernel_message confirmed applied") == 2
    assert host.persisted is None
    assert guarded.intents() == 0
    guarded.stop()


def test_an_override_recorded_twice_is_one_row(host: Host) -> None:
    """The command and the running guard both record it, in either order."""
    guarded = raised(host)
    order = an_override(guarded, OverrideKind.REVERT, LIMIT)
    for _ in range(2):
        guarded.recorder.submit(order, guarded.policy)
    assert guarded.reasons().count("override revert applied") == 1
    guarded.stop()


@pytest.mark.parametrize("patience", [0.0, 3600.0], ids=["too slow", "slow"])
def test_an_intent_stays_until_the_service_has_written(
    host: Host, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """In the sandbox: row and message come at once, and the limit is read back before the intent goes.

    Status has the cure once the service should have started; until then it is waited for, and that is no error.
    """
    monkeypatch.setattr("conntrackd_guard.host.requested_dropin.WAIT_SECONDS", 0.05)
    monkeypatch.setattr("conntrackd_guard.host.requested_dropin.PATIENCE_SECONDS", patience)
    monkeypatch.setattr(RequestedDropIn, "_is_forbidden", lambda _: True)
    monkeypatch.setattr("testbed.guarded.SysctlDropIn", RequestedDropIn)
    (host.root / "etc/sysctl.d").mkdir(parents=True)
    guarded = raised(host)
    assert guarded.reasons() == ["raise kernel_message confirmed applied"]
    assert len(guarded.logged("guard.raise")) == 1
    trouble = "".join(guarded.recorder.report()["trouble"])
    assert ("conntrackd-guard-persist.service did not start" in trouble) == (not patience)
    assert bool(guarded.logged("guard.error")) == (not patience)
    assert (host.persisted, guarded.intents()) == (None, 1)
    service = SysctlDropIn(guarded.paths)
    until(lambda: service.serve() or guarded.intents() == 0)
    until(lambda: guarded.intents() == 0)
    assert host.persisted == STEP
    guarded.written()
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()


class StalledCall:
    """A system call on the drop-in that returns only once `returns` is set; `begun` once it was made."""

    def __init__(self) -> None:
        self.begun, self.returns = threading.Event(), threading.Event()

    def wait(self) -> None:
        """Stall the first call; later ones return at once."""
        if not self.begun.is_set():
            self.begun.set()
            assert self.returns.wait(BARRIER_SECONDS)


@pytest.fixture(params=["fsync of the file", "rename", "fsync of the folder"])
def stalled_write(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[StalledCall]:
    """Stall one of the three system calls that make a drop-in durable."""
    call, rename, fsync = StalledCall(), os.rename, os.fsync

    def stalling_rename(source: str, target: Any) -> None:
        if request.param == "rename" and "99-zz" in str(target):
            call.wait()
        rename(source, target)

    def stalling_fsync(descriptor: int) -> None:
        suffix = {"fsync of the file": ".conf.new", "fsync of the folder": "/sysctl.d"}.get(request.param)
        if suffix and os.readlink(f"/proc/self/fd/{descriptor}").endswith(suffix):
            call.wait()
        fsync(descriptor)

    monkeypatch.setattr(os, "rename", stalling_rename)
    monkeypatch.setattr(os, "fsync", stalling_fsync)
    yield call
    call.returns.set()


def test_a_revert_voids_a_write_at_work(
    host: Host, stalled_write: StalledCall, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk stalls inside a raise's write. The command does not wait for it, and the reverted limit is not persisted."""
    monkeypatch.setattr("conntrackd_guard.host.dropin_lock.WAIT_SECONDS", 0.05)
    guarded = Guarded(host)
    monkeypatch.setattr("conntrackd_guard.actions.overrides.Clock", lambda: guarded.clock)
    host.table(host.limit)
    guarded.message()
    guarded.turn()
    host.table(10)
    assert stalled_write.begun.wait(BARRIER_SECONDS)
    guarded.clock.now += 1.0
    assert main(["revert", "--all"], guarded.paths) is Exit.DONE
    assert "is still writing it" in capsys.readouterr().err
    assert host.limit == LIMIT
    stalled_write.returns.set()
    guarded.written()
    guarded.turn(5.0)
    guarded.written()
    assert host.persisted is None
    assert guarded.intents() == 0
    assert "override revert applied" in guarded.reasons()
    guarded.stop()


def order_lines(guarded: Guarded) -> list[tuple[str, str]]:
    """Return level and text of the messages about lines that override the drop-in."""
    guarded.written()
    lines = guarded.logged("guard.info")
    return [(line["level"], line["message"]) for line in lines if "is overridden" in line["message"]]


@pytest.mark.parametrize(
    ("path", "value", "level", "text"),
    [
        (
            "sysctl.d/k8s.conf",
            "7",
            "warning",
            "at the next boot: {}/sysctl.d/k8s.conf:1 is applied after it and sets 7.",
        ),
        ("sysctl.d/k8s.conf", "9999999", "info", "sets 9999999"),
        ("sysctl.d/999.conf", "1M", "warning", "{}/sysctl.d/999.conf:1 is applied after it and sets 1M."),
        ("sysctl.conf", "7", "warning", "when somebody calls `sysctl --system`: {}/sysctl.conf:1"),
        ("sysctl.d/50-x.conf", "7", "", ""),
    ],
)
def test_lines_that_override_the_drop_in_are_logged_at_each_write_and_start(
    host: Host, path: str, value: str, level: str, text: str
) -> None:
    """Once for each finding, and again by the next run; a line that is applied before the drop-in is no news."""
    file = host.root / "etc" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"net.netfilter.nf_conntrack_max = {value}\n")
    guarded = raised(host)
    found = order_lines(guarded)
    assert len(found) == bool(level)
    if level:
        assert found[0][0] == level
        assert text.format(host.root / "etc") in found[0][1]
    host.table(host.limit)
    guarded.message()
    guarded.turn(5.0)
    host.table(10)
    assert order_lines(guarded) == found
    guarded.stop()
    after = again(guarded)
    after.loop.start()
    assert len(order_lines(after)) == bool(level)
    after.stop()
