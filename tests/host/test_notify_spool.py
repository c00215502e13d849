"""The folder of waiting decisions: order, and what is found in it that no guard wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from conntrackd_guard.host.notify_spool import NoDecision, NotifySpool, Waiting
from conntrackd_guard.host.paths import Paths

DOCUMENT = {"version": 1, "decision": {"id": 12, "sentence": "Held.\x1b[2J"}}


@pytest.fixture
def notices(tmp_path: Path) -> NotifySpool:
    """An empty folder of decisions."""
    Paths(tmp_path).notices.mkdir(parents=True)
    return NotifySpool(Paths(tmp_path))


def test_the_oldest_comes_first(notices: NotifySpool) -> None:
    """Files come in the order in which they were left; one being written, or set aside, does not count."""
    for age, name in enumerate(("a", "c", "b")):
        notices.put(name, json.dumps(DOCUMENT))
        os.utime(notices.folder / f"{name}.json", ns=(age, age))
    (notices.folder / ".d.json.new").touch()
    assert notices.files() == ["a.json", "c.json", "b.json"]


def test_a_decision_is_understood_as_far_as_needed(notices: NotifySpool) -> None:
    """Number and sentence are for the log, safe to print; the content goes on untouched."""
    notices.put("5-1", json.dumps(DOCUMENT))
    content = (notices.folder / "5-1.json").read_bytes()
    assert notices.read("5-1.json") == Waiting(name="12", sentence="Held.\\x1b[2J", content=content)
    notices.put("5-2", '{"decision": {"id": null, "sentence": 1, "new": []}}')
    assert notices.read("5-2.json") == Waiting(
        name="5-2", sentence="", content=b'{"decision": {"id": null, "sentence": 1, "new": []}}'
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it holds no JSON"),
        (b'{"decision": {"id": 1', "it holds no JSON"),
        (b"\xff", "it holds no JSON"),
        (b"[" * 50_000, "it holds no JSON"),
        (b"[]", "it holds no object `decision`"),
        (b'{"decision": []}', "it holds no object `decision`"),
        (b'{"decision": {}}' + b" " * 70_000, "it is larger than 64 KiB"),
    ],
)
def test_what_no_guard_wrote_is_refused(notices: NotifySpool, content: bytes, why: str) -> None:
    """Bad JSON, JSON of another kind and too much of it: each says what is wrong."""
    (notices.folder / "x.json").write_bytes(content)
    with pytest.raises(NoDecision, match=why):
        notices.read("x.json")


def test_what_is_no_file_is_refused(notices: NotifySpool) -> None:
    """A folder, a FIFO and a link are neither followed nor waited for."""
    (notices.folder / "folder").mkdir()
    os.mkfifo(notices.folder / "fifo")
    (notices.folder.parent / "elsewhere").write_text(json.dumps(DOCUMENT))
    (notices.folder / "link").symlink_to("../elsewhere")
    for name in notices.files():
        with pytest.raises(NoDecision):
            notices.read(name)


def test_what_was_set_aside_waits_no_longer(notices: NotifySpool) -> None:
    """It is kept beside, under a name that the watching unit passes over; even the longest name fits."""
    name = "ü" * 127
    (notices.folder / name).mkdir()
    assert Path(notices.set_aside(name)).is_dir()
    assert notices.files() == []


def test_without_a_folder_nothing_waits(tmp_path: Path) -> None:
    """Before the first decision there is no folder; a file that went meanwhile is no error."""
    notices = NotifySpool(Paths(tmp_path))
    assert notices.files() == []
    assert notices.read("x.json") is None
    notices.drop("x.json")
