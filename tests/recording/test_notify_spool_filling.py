"""Decisions queued for the `notify` command: holds that only an operator can end, as rarely as they are logged."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.history.database import History
from conntrackd_guard.history.documents import decision_document
from conntrackd_guard.host import notify_spool
from conntrackd_guard.host.notify_spool import NotifySpool
from conntrackd_guard.recording import history_writer

MAX_LIMIT = Policy(max_limit=LIMIT, raise_early=False)


def notifying(host: Host, policy: Policy = MAX_LIMIT) -> Guarded:
    """Return a guard with the setting `notify`."""
    guarded = Guarded(host, policy)
    guarded.recorder._worker.notices = NotifySpool(guarded.paths.notices)
    return guarded


def full(guarded: Guarded, pid: str = "1", namespace: int | None = None) -> None:
    """Fill a table, and have the guard decide."""
    guarded.host.table(LIMIT, pid=pid)
    guarded.message(namespace)
    guarded.turn(1.0)
    guarded.written()


def left(guarded: Guarded) -> list[Path]:
    """Return the files left, oldest first."""
    guarded.written()
    folder = guarded.paths.notices
    return [folder / name for name in NotifySpool(guarded.paths.notices).files()]


def spooled(guarded: Guarded) -> list[dict[str, Any]]:
    """Return their content."""
    return [json.loads(path.read_bytes()) for path in left(guarded)]


def test_a_hold_for_an_operator_is_queued_once(host: Host) -> None:
    """Repeats add no file; the content is the decision as `guard history --json` lists it."""
    guarded = notifying(host)
    for _ in range(5):
        full(guarded)
    (path,) = left(guarded)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with History(guarded.paths.history, mode="reader") as history:
        (row,) = [row for row in history.rows(arithmetic=True) if row.reason == "at_ceiling"]
    assert spooled(guarded) == [{"version": 1, "decision": decision_document(row)}]
    assert row.arithmetic
    assert "`max_limit` allows" in row.sentence
    guarded.stop()


def test_a_hold_is_queued_again_when_it_is_logged_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hold that lasts is logged once an hour, with the id of its one row."""
    guarded = notifying(host)
    full(guarded)
    monkeypatch.setattr(history_writer, "LOG_AGAIN_SECONDS", 0.0)
    full(guarded)
    assert [document["decision"]["id"] for document in spooled(guarded)] == [1, 1]
    guarded.stop()


@pytest.mark.parametrize("setting", [True, False])
def test_other_decisions_are_not_queued(host: Host, setting: bool) -> None:  # noqa: FBT001 - a case
    """Neither a raise nor a contradicted message is queued, and nothing without the setting."""
    guarded = notifying(host, Policy() if setting else MAX_LIMIT)
    if not setting:
        guarded.recorder._worker.notices = None
    full(guarded)
    guarded.host.table(10)
    guarded.message(host.container)
    guarded.turn(10.0)
    guarded.written()
    assert not guarded.paths.notices.exists()
    guarded.stop()


def test_a_full_disk_does_not_delay_a_notification(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision is queued without an id."""

    def add(self: History, *_: Any, **__: Any) -> int:
        raise HostError("write a decision to", self.path, OSError(28, "No space left on device"), "Free space.")

    monkeypatch.setattr(History, "add", add)
    guarded = notifying(host)
    guarded.host.table(LIMIT)
    guarded.message()
    guarded.turn(1.0)
    guarded.recorder.close(10.0)
    (document,) = documents_of(guarded.paths.notices)
    assert (document["decision"]["id"], document["decision"]["reason"]) == (None, "at_ceiling")


def documents_of(folder: Path) -> list[dict[str, Any]]:
    """Return the documents in a folder."""
    return [json.loads((folder / name).read_bytes()) for name in os.listdir(folder)]


def test_a_full_queue_drops_and_logs_the_oldest(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the command takes none, /run does not fill, and the log names the dropped decision."""
    monkeypatch.setattr(notify_spool, "MAX_QUEUED", 3)
    monkeypatch.setattr(history_writer, "LOG_AGAIN_SECONDS", 0.0)
    guarded = notifying(host)
    full(guarded)
    (first,) = left(guarded)
    for _ in range(3):
        full(guarded)
    assert len(left(guarded)) == 3
    assert first not in left(guarded)
    (line,) = guarded.logged("guard.error")
    assert (line["level"], line["key"]) == ("error", first.stem)
    assert "Dropped the oldest notification" in line["message"]
    guarded.stop()


def test_a_queue_that_cannot_be_written_is_logged_and_stops_nothing(host: Host) -> None:
    """The decision is recorded all the same."""
    guarded = notifying(host)
    guarded.paths.notices.write_text("no folder")
    full(guarded)
    assert "hold at_ceiling none" in guarded.reasons()
    (line,) = guarded.logged("guard.error")
    assert str(guarded.paths.notices) in line["message"]
    guarded.stop()
