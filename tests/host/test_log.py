"""One record a decision: text for people, JSON for collectors, fields for the journal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import pytest

from conntrackd_guard.core.log_events import MESSAGE_IDS
from conntrackd_guard.host.journal_socket import JournalSender, Value
from conntrackd_guard.host.log import BACKLOG, Log

Fields = dict[str, Value]


class FakeJournald(JournalSender):
    """Takes records while `takes` is true."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")
        self.takes = True
        self.taken: list[Fields] = []

    def send(self, fields: Mapping[str, Value]) -> bool:
        """Take a record, or say no."""
        if self.takes:
            self.taken.append(dict(fields))
        return self.takes


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


class Broken(io.StringIO):
    """A stream without a reader."""

    def write(self, _text: str) -> int:
        """Fail as a closed pipe does."""
        raise BrokenPipeError


def raised(log: Log) -> None:
    """Log a raise."""
    fields = {"from": 65536, "to": 98304, "verdict": "raise", "reason": "confirmed", "advice": "a\nb", "key": "k1"}
    log.emit("guard.raise", "warning", "Raised.", **fields)


def test_the_journal_gets_native_fields() -> None:
    """Each figure to filter by is a field; each kind of event has a fixed MESSAGE_ID."""
    journald = FakeJournald()
    raised(Log("journal", io.StringIO(), journald))
    (fields,) = journald.taken
    expected = {
        "MESSAGE": "Raised.",
        "PRIORITY": 4,
        "SYSLOG_IDENTIFIER": "guard",
        "MESSAGE_ID": MESSAGE_IDS["guard.raise"],
        "GUARD_FROM": 65536,
        "GUARD_TO": 98304,
        "GUARD_VERDICT": "raise",
        "GUARD_REASON": "confirmed",
    }
    assert expected.items() <= fields.items()
    assert all(name == name.upper() for name in fields)  # journald drops lower-case names silently
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)


def test_messages_for_a_frozen_journald_are_kept_in_order_and_bounded() -> None:
    """Up to the bound none is lost; beyond it the oldest are dropped and counted."""
    journald = FakeJournald()
    log = Log("journal", io.StringIO(), journald)
    journald.takes = False
    for number in range(BACKLOG + 5):
        log.emit("guard.info", "info", str(number))
    assert (journald.taken, log.lost) == ([], 5)
    journald.takes = True
    log.emit("guard.info", "info", "last")
    messages = [fields["MESSAGE"] for fields in journald.taken]
    assert messages == [*(str(number) for number in range(5, BACKLOG + 5)), "last"]


def test_json_is_one_object_a_line() -> None:
    """Whatever the fields contain, a collector gets one valid line."""
    stream = io.StringIO()
    log = Log("json", stream)
    log.emit("guard.hold", "info", "line\nbreak", sources={"a": 1}, odd=Path("/x"))
    (line,) = stream.getvalue().splitlines()
    logged = json.loads(line)
    assert (logged["event"], logged["message"], logged["sources"]) == ("guard.hold", "line\nbreak", {"a": 1})
    assert log.lost == 0


def test_text_is_one_safe_line() -> None:
    """Text from outside can neither clear the screen nor fake a second line; only a terminal gets colour."""
    stream = io.StringIO()
    log = Log("text", stream)
    log.emit("guard.raise", "warning", "evil \x1b[2J\n\u202eline", detail="x\r\ny")
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert r"evil \x1b[2J\n\u202eline" in line
    assert r"detail=x\r\ny" in line


def test_only_a_terminal_without_no_color_gets_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is respected."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    raised(Log("text", coloured))
    monkeypatch.setenv("NO_COLOR", "1")
    raised(Log("text", plain))
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()


def test_a_message_that_cannot_be_rendered_is_counted() -> None:
    """A closed pipe or an unprintable value never stops the daemon."""
    broken = Log("text", Broken())
    raised(broken)
    assert broken.lost == 1

    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    log = Log("json", io.StringIO())
    log.emit("guard.info", "info", "x", value=Unprintable())
    assert log.lost == 1
    unknown_level = Log("journal", io.StringIO(), FakeJournald())
    unknown_level.emit("guard.info", "loud", "x")
    assert unknown_level.lost == 1


def test_auto_follows_what_stderr_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal's own stream gets native fields; another one gets text."""

    def journaled(stream: TextIO) -> list[Fields]:
        journald = FakeJournald()
        raised(Log("auto", stream, journald))
        return journald.taken

    with (tmp_path / "stderr").open("w+", encoding="utf-8") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert len(journaled(stream)) == 1
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        assert journaled(stream) == []
        stream.seek(0)
        assert "Raised." in stream.read()


def test_the_daemon_does_not_pay_for_rich() -> None:
    """The rich library, 5 MB that structlog imports where it can, is not in the daemon."""
    code = "import conntrackd_guard.daemon.import_stubs, conntrackd_guard.host.log, sys; print(sys.modules.get('rich'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


@pytest.mark.parametrize(("level", "emitted"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_less_severe_messages_are_filtered(level: str, emitted: int) -> None:
    """For a stream and for the journal alike; debug is priority 7 there."""
    stream, journald = io.StringIO(), FakeJournald()
    for log in (Log("json", stream, level=level), Log("journal", stream, journald, level=level)):
        for severity in ("error", "warning", "info", "debug"):
            log.emit("guard.info", severity, "x")
        assert log.lost == 0
    assert len(stream.getvalue().splitlines()) == emitted
    assert [fields["PRIORITY"] for fields in journald.taken] == [3, 4, 6, 7][:emitted]
