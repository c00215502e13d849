"""Work on a disk that answers, refuses, or stalls."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host import disk

PLACE = Path("/var/lib/place")


def test_an_answer_and_an_error_come_through() -> None:
    """Whatever thread found them."""
    assert disk.answer(lambda: 7, "read", PLACE, "") == 7
    with pytest.raises(ZeroDivisionError):
        disk.answer(lambda: 1 // 0, "read", PLACE, "")


def test_a_disk_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work goes on."""
    monkeypatch.setattr(disk, "PATIENCE_SECONDS", 0.05)
    answers, done = threading.Event(), threading.Event()

    def work() -> None:
        assert answers.wait(10.0)
        done.set()

    with pytest.raises(HostError, match=r"^Can't read /var/lib/place: its disk does not answer\. Wait for it\.$"):
        disk.answer(work, "read", PLACE, "Wait for it.")
    answers.set()
    assert done.wait(10.0)


def test_a_disk_that_stalls_keeps_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked, as by a view that redraws; once it answers, it is read again."""
    monkeypatch.setattr(disk, "PATIENCE_SECONDS", 0.05)
    answers, before = threading.Event(), threading.active_count()
    for _ in range(5):
        with pytest.raises(HostError, match="its disk does not answer"):
            disk.answer(lambda: answers.wait(10.0), "read", PLACE, "")
    assert threading.active_count() == before + 1
    with pytest.raises(HostError, match="its disk does not answer"):
        disk.answer(lambda: answers.wait(10.0), "write", PLACE, "")
    assert disk.answer(lambda: 7, "write", PLACE, "") == 7  # it may undo the one before
    answers.set()
    assert disk._late[PLACE].result(10.0)
    assert disk.answer(lambda: 8, "read", PLACE, "") == 8
