"""The drop-in of a daemon that may not write it: what it waits for, and what it reports."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.stalled_writer import LIMIT, StalledWriter

from conntrackd_guard.core.errors import GuardError, Unfinished
from conntrackd_guard.host.dropin_lock import DropInLock
from conntrackd_guard.host.dropin_request import Persisted
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.requested_dropin import RequestedDropIn
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn

PERSISTED = Persisted(
    limit=98_304, limit_before=65_536, wall_seconds=1, decision="7", memory_total_bytes=8, budget_bytes=1
)
PATIENCE = "conntrackd_guard.host.requested_dropin.WAIT_SECONDS"


@pytest.fixture(name="paths")
def a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Give a tree whose sysctl.d the daemon may not write."""
    monkeypatch.setattr(RequestedDropIn, "_is_forbidden", lambda _: True)
    paths = Paths(tmp_path)
    for folder in (paths.boot_id.parent, paths.drop_in.parent, paths.run_folder):
        folder.mkdir(parents=True)
    paths.boot_id.write_text("boot-1\n")
    return paths


@contextmanager
def served(serve: Callable[[], object]) -> Iterator[None]:
    """Have a thread do what the service does, again and again."""
    ends = threading.Event()

    def work() -> None:
        while not ends.wait(0.005):
            with suppress(GuardError):
                serve()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def test_it_waits_until_the_service_has_written(paths: Paths) -> None:
    """Raise, release and a pending override are done when the call returns."""
    drop_in, service = RequestedDropIn(paths), SysctlDropIn(paths)
    with served(service.serve):
        drop_in.put(PERSISTED, 1.0)
        assert drop_in.limit() == PERSISTED.limit
        drop_in.put(replace(PERSISTED, limit=200_000), 2.0)
        assert drop_in.release(150_000, 3.0) is None
        assert drop_in.release(300_000, 4.0) == 200_000
        assert drop_in.limit() is None
        drop_in.put(PERSISTED, 5.0)
        DropInLock(paths).leave_override(drop_in._request(replace(PERSISTED, limit=5), 6.0))
        drop_in.follow_override()
        assert drop_in.limit() == 5


def test_twenty_raises_end_with_the_last(paths: Paths) -> None:
    """Each is written, in order."""
    drop_in = RequestedDropIn(paths)
    with served(SysctlDropIn(paths).serve):
        for number in range(1, 21):
            drop_in.put(replace(PERSISTED, limit=number), float(number))
            assert drop_in.limit() == number


def test_a_service_that_does_not_start_is_named_with_the_cure(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request stays, and is carried out when the service starts."""
    monkeypatch.setattr(PATIENCE, 0.05)
    drop_in = RequestedDropIn(paths)
    with pytest.raises(
        GuardError, match=r"persist\.service did not start within .* or unmask them, then `systemctl restart"
    ):
        drop_in.put(PERSISTED, 1.0)
    assert drop_in.limit() is None
    SysctlDropIn(paths).serve()
    assert drop_in.limit() == PERSISTED.limit
    drop_in.put(PERSISTED, 1.0)


def test_a_request_at_work_is_not_made_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service took it and is slow: the call that goes on with it finds it done, or asks again after the error."""
    monkeypatch.setattr(PATIENCE, 0.0)
    drop_in, lock = RequestedDropIn(paths), DropInLock(paths)
    with pytest.raises(Unfinished):
        drop_in.put(PERSISTED, 1.0)
    taken = lock.take_request()
    assert taken is not None
    with pytest.raises(Unfinished):
        drop_in.put(PERSISTED, 1.0)
    assert lock.is_taken()
    lock.leave_request(taken)
    SysctlDropIn(paths).serve()
    drop_in.put(PERSISTED, 1.0)
    assert (lock.is_taken(), drop_in.limit()) == (True, PERSISTED.limit)
    with pytest.raises(Unfinished):
        drop_in.put(PERSISTED, 2.0)
    lock.take_request()
    monkeypatch.setattr("conntrackd_guard.host.requested_dropin.PATIENCE_SECONDS", 0.0)
    with pytest.raises(GuardError, match="did not finish within 0 s"):
        drop_in.put(PERSISTED, 2.0)
    assert lock.is_taken()
    with pytest.raises(GuardError, match="did not start within 0 s"):
        drop_in.put(PERSISTED, 2.0)
    assert not lock.is_taken()


def test_the_next_raise_does_not_wait_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody takes requests, rows and messages of raises are not held up."""
    monkeypatch.setattr(PATIENCE, 0.05)
    drop_in = RequestedDropIn(paths)
    for number, patience in enumerate((0.05, 3600.0), 1):
        monkeypatch.setattr(PATIENCE, patience)
        with pytest.raises(GuardError, match="did not start"):
            drop_in.put(PERSISTED, float(number))
    SysctlDropIn(paths).serve()
    drop_in.put(PERSISTED, 2.0)


def test_another_programs_higher_limit_voids_a_request_that_waits(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service starts later: it must not persist what would lower that limit at the next boot."""
    monkeypatch.setattr(PATIENCE, 0.05)
    drop_in = RequestedDropIn(paths)
    with pytest.raises(GuardError):
        drop_in.put(PERSISTED, 1.0)
    assert drop_in.release(1_000_000, 2.0) is None
    assert not SysctlDropIn(paths).serve()
    assert drop_in.limit() is None


def test_another_programs_higher_limit_waits_for_a_write_at_work(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk stalls in the service; once it has written the lower limit, that is removed."""
    monkeypatch.setattr("conntrackd_guard.host.dropin_lock.WAIT_SECONDS", 0.05)
    drop_in, writer = RequestedDropIn(paths), StalledWriter(paths.root, ".conf.new", decided_seconds=1.0)
    try:
        with pytest.raises(GuardError, match="is still writing it"):
            drop_in.release(1_000_000, 2.0)
    finally:
        writer.finish()
    assert drop_in.limit() == LIMIT
    with served(SysctlDropIn(paths).serve):
        assert drop_in.release(1_000_000, 2.0) == LIMIT
    assert drop_in.limit() is None


def test_a_service_that_does_not_finish_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the request and was killed."""
    monkeypatch.setattr(PATIENCE, 0.1)
    with (
        served(lambda: DropInLock(paths).take_request()),
        pytest.raises(GuardError, match=r"persist\.service did not finish within"),
    ):
        RequestedDropIn(paths).put(PERSISTED, 1.0)


def test_a_stalled_disk_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is in the middle of an earlier write; once that ends, the newer request follows."""
    monkeypatch.setattr(PATIENCE, 0.05)
    writer = StalledWriter(paths.root, ".conf.new", decided_seconds=1.0)
    try:
        with pytest.raises(GuardError, match=f"process {writer.pid} is still writing it, so the disk may be stalled"):
            RequestedDropIn(paths).put(replace(PERSISTED, limit=5), 2.0)
    finally:
        writer.finish()
    SysctlDropIn(paths).serve()
    RequestedDropIn(paths).put(replace(PERSISTED, limit=5), 2.0)
    assert SysctlDropIn(paths).limit() == 5


def test_the_error_of_the_service_is_reported(paths: Paths) -> None:
    """A request that is refused, and a file that can't be written; the next try forgets the answer."""
    drop_in = RequestedDropIn(paths)
    paths.drop_in.mkdir()
    with served(SysctlDropIn(paths).serve), pytest.raises(GuardError, match=r"Can't .*: Is a directory\."):
        drop_in.put(PERSISTED, 1.0)
    paths.drop_in.rmdir()
    with served(SysctlDropIn(paths).serve), pytest.raises(GuardError, match="limit is 0, expected a whole number"):
        drop_in.put(replace(PERSISTED, limit=0), 2.0)
    with served(SysctlDropIn(paths).serve):
        drop_in.put(PERSISTED, 3.0)


def test_a_file_that_holds_something_else_is_not_taken_for_written(paths: Paths) -> None:
    """Another program replaced it right after the write; the next try writes it again."""

    def serve() -> None:
        lock = DropInLock(paths)
        if (request := lock.take_request()) is not None:
            with lock.held():
                paths.drop_in.write_text("net.netfilter.nf_conntrack_max = 5\n")
                lock.follow(request.decided_us)

    with served(serve), pytest.raises(GuardError, match="it holds 5 after a write of 98,304"):
        RequestedDropIn(paths).put(PERSISTED, 1.0)
    with served(SysctlDropIn(paths).serve):
        RequestedDropIn(paths).put(PERSISTED, 1.0)
    assert SysctlDropIn(paths).limit() == PERSISTED.limit


def test_a_revert_meanwhile_voids_the_request(paths: Paths) -> None:
    """The newer decision has the file: the raise is done with."""
    SysctlDropIn(paths).override(None, 2.0)
    RequestedDropIn(paths).put(PERSISTED, 1.0)
    assert SysctlDropIn(paths).limit() is None


def test_an_answer_to_another_request_is_not_taken(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service answered an earlier one late."""
    monkeypatch.setattr(PATIENCE, 0.1)
    drop_in, lock = RequestedDropIn(paths), DropInLock(paths)
    with (
        served(lambda: lock.leave_answer(5, "an old error")),
        pytest.raises(GuardError, match="did not start"),
    ):
        drop_in.put(PERSISTED, 1.0)
    assert json.loads((paths.run_folder / "drop-in.answer").read_text())["error"] == "an old error"


def test_where_it_may_write_it_asks_nobody(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the foreground, and in a unit that an operator allowed to."""
    monkeypatch.undo()
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    RequestedDropIn(paths).put(PERSISTED, 1.0)
    assert SysctlDropIn(paths).limit() == PERSISTED.limit
    assert not paths.drop_in_request.exists()
