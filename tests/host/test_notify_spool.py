"""The notify queue: order, and files in it that the guard did not write."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from conntrackd_guard.host.notify_spool import NoDecision, NotifySpool, QueuedDecision
from conntrackd_guard.host.paths import Paths

DOCUMENT = {"version": 1, "decision": {"id": 12, "sentence": "Held.\x1b[2J"}}


@pytest.fixture
def spool(tmp_path: Path) -> NotifySpool:
    """An empty queue."""
    Paths(tmp_path).notices.mkdir(parents=True)
    return NotifySpool(Paths(tmp_path).notices)


def test_the_oldest_comes_first(spool: NotifySpool) -> None:
    """Files are listed by age; one being written or set aside is not listed."""
    for age, name in enumerate(("a", "c", "b")):
        spool.put(name, json.dumps(DOCUMENT))
        os.utime(spool.folder / f"{name}.json", ns=(age, age))
    (spool.folder / ".d.json.new").touch()
    assert spool.files() == ["a.json", "c.json", "b.json"]


def test_a_decision_is_read_with_its_number_and_sentence(spool: NotifySpool) -> None:
    """Number and sentence are made safe to print; the content is unchanged."""
    spool.put("5-1", json.dumps(DOCUMENT))
    content = (spool.folder / "5-1.json").read_bytes()
    assert spool.read("5-1.json") == QueuedDecision(name="12", sentence="Held.\\x1b[2J", content=content)
    spool.put("5-2", '{"decision": {"id": null, "sentence": 1, "new": []}}')
    assert spool.read("5-2.json") == QueuedDecision(
        name="5-2", sentence="", content=b'{"decision": {"id": null, "sentence": 1, "new": []}}'
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a JSON object"),
        (b'{"decision": {"id": 1', "not a JSON object"),
        (b"\xff", "not a JSON object"),
        (b"[" * 50_000, "not a JSON object: nested too deeply"),
        (b"[]", "not a JSON object"),
        (b'{"decision": []}', "no object `decision`"),
        (b'{"decision": {}}' + b" " * 70_000, "larger than 64 KiB"),
    ],
)
def test_foreign_content_is_refused(spool: NotifySpool, content: bytes, why: str) -> None:
    """The error names bad JSON, foreign JSON and too much of it."""
    (spool.folder / "x.json").write_bytes(content)
    with pytest.raises(NoDecision, match=why):
        spool.read("x.json")


def test_only_regular_files_are_read(spool: NotifySpool) -> None:
    """A folder, a FIFO and a link are refused; none of them blocks."""
    (spool.folder / "folder").mkdir()
    os.mkfifo(spool.folder / "fifo")
    (spool.folder.parent / "elsewhere").write_text(json.dumps(DOCUMENT))
    (spool.folder / "link").symlink_to("../elsewhere")
    for name in spool.files():
        with pytest.raises(NoDecision):
            spool.read(name)


def test_a_file_set_aside_is_no_longer_queued(spool: NotifySpool) -> None:
    """It is kept under a hidden name; even the longest name fits."""
    name = "ü" * 127
    (spool.folder / name).mkdir()
    assert Path(spool.set_aside(name)).is_dir()
    assert spool.files() == []


def test_without_a_folder_the_queue_is_empty(tmp_path: Path) -> None:
    """Before the first decision there is no folder; a file removed in the meantime is no error."""
    spool = NotifySpool(Paths(tmp_path).notices)
    assert spool.files() == []
    assert spool.read("x.json") is None
    spool.drop("x.json")
