"""Two processes write the drop-in at once: the newest decision wins, and neither waits forever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.stalled_writer import BOOT, LIMIT, StalledWriter, start

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host import dropin_lock
from conntrackd_guard.host.dropin_lock import DropInLock
from conntrackd_guard.host.dropin_request import Persisted
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn

REVERTED = Persisted(
    limit=70_000, limit_before=98_304, wall_seconds=0, decision="revert", memory_total_bytes=0, budget_bytes=0
)
IS_AHEAD = dropin_lock._is_ahead
BEFORE_RENAME, AFTER_RENAME = ".conf.new", "/sysctl.d"
FILE_STATES = pytest.mark.parametrize("stalls_at", [BEFORE_RENAME, AFTER_RENAME])


@pytest.fixture(name="paths")
def a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Give a tree of files; writers wait 50 ms for the lock."""
    monkeypatch.setattr("conntrackd_guard.host.dropin_lock.WAIT_SECONDS", 0.05)
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text(f"{BOOT}\n")
    return Paths(tmp_path)


@pytest.fixture(name="writer")
def a_writer_that_stalls(paths: Paths, stalls_at: str) -> Iterator[StalledWriter]:
    """Give a process that is writing a raise decided at 100 s."""
    writer = StalledWriter(paths.root, stalls_at, decided_seconds=100.0)
    yield writer
    writer.kill()


@FILE_STATES
@pytest.mark.parametrize("wanted", [None, REVERTED])
def test_a_stalled_writer_follows_the_revert_in_the_end(
    paths: Paths, writer: StalledWriter, wanted: Persisted | None
) -> None:
    """The revert stops waiting and names the process; the file follows it once the write has ended."""
    drop_in = SysctlDropIn(paths)
    with pytest.raises(HostError, match=f"process {writer.pid} is still writing it"):
        drop_in.override(wanted, 101.0)
    writer.finish()
    assert drop_in.limit() == (wanted and wanted.limit)


@pytest.mark.parametrize("by", ["raise", "revert"])
def test_a_decision_dated_ahead_of_now_blocks_no_later_one(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """A snapshot of /run, or damage, may leave one: the drop-in follows the decisions of now."""
    drop_in = SysctlDropIn(paths)
    if by == "raise":
        drop_in.put(REVERTED, 1e9)
    else:
        DropInLock(paths).leave_override(drop_in._request(REVERTED, 1e9))
    monkeypatch.setattr("conntrackd_guard.host.dropin_lock._is_ahead", IS_AHEAD)
    drop_in.put(replace(REVERTED, limit=131_072), 1.0)
    assert drop_in.limit() == 131_072
    drop_in.override(None, 2.0)
    assert drop_in.limit() is None


@FILE_STATES
def test_a_killed_writer_frees_the_lock(paths: Paths, writer: StalledWriter) -> None:
    """A revert need not wait for it."""
    writer.kill()
    SysctlDropIn(paths).override(None, 101.0)
    assert SysctlDropIn(paths).limit() is None


@pytest.mark.parametrize("stalls_at", [AFTER_RENAME])
def test_an_override_outlives_the_writer_that_should_follow_it(paths: Paths, writer: StalledWriter) -> None:
    """The reverted limit no longer counts as persisted, and the next writer removes it."""
    drop_in = SysctlDropIn(paths)
    with pytest.raises(HostError):
        drop_in.override(None, 101.0)
    writer.kill()
    assert drop_in.limit() == LIMIT
    assert drop_in.persisted() is None
    drop_in.follow_override()
    assert drop_in.limit() is None


def test_an_older_raise_replaces_nothing_newer(paths: Paths) -> None:
    """It waited behind a stalled disk while a revert, or a later raise, was decided and written."""
    drop_in = SysctlDropIn(paths)
    drop_in.override(None, 101.0)
    drop_in.put(REVERTED, 100.0)
    assert drop_in.limit() is None
    drop_in.put(REVERTED, 103.0)
    drop_in.put(replace(REVERTED, limit=1), 102.0)
    assert drop_in.limit() == REVERTED.limit


def test_times_of_another_boot_do_not_count(paths: Paths) -> None:
    """If /run outlives a boot, CLOCK_BOOTTIME still starts at 0."""
    drop_in = SysctlDropIn(paths)
    drop_in.override(None, 5_000.0)
    paths.boot_id.write_text("another\n")
    drop_in.put(REVERTED, 10.0)
    assert drop_in.limit() == REVERTED.limit


def test_two_writers_take_turns(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both write as fast as they can; neither fails, and no temporary file is left."""
    monkeypatch.undo()
    writers = [start(paths.root, "nothing", *(100 + 2 * number + odd for number in range(50))) for odd in (0, 1)]
    assert [writer.wait(30) for writer in writers] == [0, 0]
    assert SysctlDropIn(paths).limit() == LIMIT
    assert list(paths.drop_in.parent.iterdir()) == [paths.drop_in]


def test_an_override_of_another_version_persists_nothing(paths: Paths) -> None:
    """Its fields are unknown; without a drop-in the next boot has the limit from before the guard."""
    drop_in = SysctlDropIn(paths)
    drop_in.put(REVERTED, 100.0)
    left = {"boot_id": BOOT, "decided_us": 101_000_000, "content": {"ceiling": 5}}
    paths.drop_in_override.write_text(json.dumps(left))
    assert drop_in.persisted() is None
    drop_in.follow_override()
    assert drop_in.limit() is None


@pytest.mark.parametrize("left", [b"0" * 5_000, b"1 2 3 4\n" * 20, b"\xff" * 81], ids=["digits", "words", "no text"])
def test_a_damaged_lock_file_ends_with_the_next_decision(paths: Paths, left: bytes) -> None:
    """Nothing of its content stays, however long: else the override would be carried out again and again."""
    drop_in = SysctlDropIn(paths)
    DropInLock(paths).leave_override(drop_in._request(REVERTED, 101.0))
    paths.drop_in_lock.write_bytes(left)
    drop_in.follow_override()
    assert (drop_in.limit(), DropInLock(paths).followed_us()) == (REVERTED.limit, 101_000_000)
    assert DropInLock(paths).pending_override() is None


def test_an_override_is_carried_out_once_whatever_the_lock_file_shows(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the time of the last decision can't be kept, the recorder goes on."""
    drop_in = SysctlDropIn(paths)
    DropInLock(paths).leave_override(drop_in._request(REVERTED, 101.0))
    monkeypatch.setattr(DropInLock, "followed_us", lambda _: 0)
    drop_in.follow_override()
    assert drop_in.limit() == REVERTED.limit
