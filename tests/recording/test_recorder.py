"""A disk that refuses or stalls delays no raise, and loses neither record nor log message."""

from __future__ import annotations

import threading
import time

import pytest
from testbed.disks import until
from testbed.guarded import BARRIER_SECONDS, LIMIT, Guarded, Host
from testbed.records import a_record

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import MessageKind
from conntrackd_guard.history.database import History
from conntrackd_guard.recording import recorder


def fill_and_raise(guarded: Guarded, times: int) -> list[int]:
    """Fill the table and turn, `times` over; return the limits reached."""
    limits = []
    for _ in range(times):
        guarded.host.table(guarded.host.limit)
        guarded.message()
        guarded.turn(3.0)
        limits.append(guarded.host.limit)
    return limits


def raised(guarded: Guarded) -> list[int | None]:
    """Return the limits of the raises in history, oldest first."""
    return [row.limit_after for row in guarded.rows() if row.verdict == "raise"]


def test_a_full_disk_delays_no_raise(host: Host, refusing: threading.Event) -> None:
    """Raises, their log messages and the drop-in come all the same; the error is logged once, and shown in status."""
    guarded = Guarded(host)
    refusing.set()
    limits = fill_and_raise(guarded, 3)
    assert limits == sorted(set(limits))
    assert limits[0] > LIMIT
    until(lambda: len(guarded.logged("guard.raise")) == 3 and host.persisted == limits[-1])
    time.sleep(0.1)  # some more tries
    assert len(guarded.logged("guard.error")) == 1
    assert len(guarded.recorder.report()["trouble"]) == 1
    assert guarded.intents() == 3
    refusing.clear()
    assert raised(guarded) == limits
    assert guarded.intents() == 0
    assert guarded.recorder.report()["trouble"] == []
    assert len(guarded.logged("guard.raise")) == 3
    guarded.stop()


def test_rows_that_were_refused_to_the_end_come_at_the_next_start(host: Host, refusing: threading.Event) -> None:
    """The intents have the rows that could not be written before the guard was stopped."""
    guarded = Guarded(host)
    refusing.set()
    limits = fill_and_raise(guarded, 2)
    guarded.recorder.close(BARRIER_SECONDS)
    refusing.clear()
    after = Guarded(host, clock=guarded.clock)
    assert raised(after) == limits
    assert after.recovered.state == guarded.state
    assert after.intents() == 0
    after.stop()


def test_the_last_messages_are_logged_although_the_history_refuses(host: Host, refusing: threading.Event) -> None:
    """What waits behind a row is logged and persisted before the recorder ends."""
    guarded = Guarded(host)
    refusing.set()
    (reached,) = fill_and_raise(guarded, 1)
    until(lambda: guarded.recorder.report()["trouble"])
    guarded.recorder.submit(a_record("hold"), Policy())
    guarded.recorder.log("guard.stopped", "info", "Stopped.")
    assert guarded.recorder.close(BARRIER_SECONDS) is False
    assert [len(guarded.logged(event)) for event in ("guard.raise", "guard.hold", "guard.stopped")] == [1, 1, 1]
    assert host.persisted == reached


def test_a_stalled_disk_delays_no_raise_and_loses_none(host: Host, stalled: threading.Event) -> None:
    """While a row is stuck, the loop keeps raising; when the disk returns, all rows are written."""
    guarded = Guarded(host)
    began = time.monotonic()
    limits = fill_and_raise(guarded, 4)
    assert time.monotonic() - began < 2.0
    assert limits == sorted(set(limits))
    report = guarded.recorder.report()
    assert report["backlog"] >= 4
    until(lambda: guarded.recorder.report()["stuck_seconds"] > 0)
    stalled.set()
    assert raised(guarded) == limits
    assert host.persisted == limits[-1]
    guarded.stop()


def test_equal_holds_are_merged_while_the_disk_stalls(host: Host, stalled: threading.Event) -> None:
    """Two hundred equal holds wait as one, and their row counts all."""
    guarded = Guarded(host)
    fill_and_raise(guarded, 1)  # its row is stuck
    host.table(10)
    for _ in range(200):
        guarded.message(kind=MessageKind.NEIGHBOUR_FULL)
        guarded.turn(0.01)
    assert guarded.recorder.report()["backlog"] < 10
    stalled.set()
    guarded.written()
    guarded.stop()  # repeats are counted in memory for some seconds
    with History(guarded.paths.history, mode="reader") as history:
        (row,) = [row for row in history.rows() if row.reason == "neighbour_table"]
    assert row.repeats == 200


def test_beyond_a_bound_holds_are_counted_and_raises_are_kept(
    host: Host, stalled: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded while the disk stalls, and status has the number of lost holds; no raise is lost."""
    monkeypatch.setattr(recorder, "MOST_HOLDS_QUEUED", 5)
    guarded = Guarded(host)
    (reached,) = fill_and_raise(guarded, 1)
    host.table(10)
    for limit in range(20):  # twenty different pieces of news
        guarded.recorder.submit(a_record(f"hold-{limit}", limit=limit), Policy())
    assert guarded.recorder.report()["lost_holds"] >= 14
    limits = [reached, *fill_and_raise(guarded, 2)]
    stalled.set()
    assert raised(guarded) == limits
    guarded.stop()


def test_a_drop_in_that_cannot_be_written_delays_no_row(host: Host) -> None:
    """If /etc can't be written, the raise is recorded all the same, and the error logged once."""
    (host.root / "etc/sysctl.d").write_text("no folder")
    guarded = Guarded(host)
    limits = fill_and_raise(guarded, 2)
    assert raised(guarded) == limits
    assert len(guarded.logged("guard.error")) == 1
    assert "sysctl.d" in guarded.logged("guard.error")[0]["message"]
    guarded.stop()
