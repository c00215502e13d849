"""The log: text for people, JSON for collectors, native fields for the journal. It never blocks and never raises."""

import json
import os
from collections import deque
from collections.abc import MutableMapping
from functools import partial
from typing import Any, NoReturn, TextIO

import structlog

from conntrackd_guard.core.log_events import message_id
from conntrackd_guard.core.text import printable
from conntrackd_guard.host.journal_socket import JournalSender

BACKLOG = 1000
"""Messages kept while journald does not take them (about 2 KiB each)."""
Event = MutableMapping[str, Any]
_PRIORITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7}
"""syslog's numbers: the lower, the more severe."""
_COLOURS = {"error": "\x1b[31m", "warning": "\x1b[33m", "info": "", "debug": "\x1b[2m"}
_SHOWN = ("detail", "outcome", "key")
"""Fields that people see after the sentence; the others are in the journal, in history and in `guard show`."""


class Log:
    """Emits messages from `level` up to one sink. `lost` counts those that could not be delivered."""

    def __init__(self, form: str, stream: TextIO, sender: JournalSender | None = None, *, level: str = "info") -> None:
        self._most = _PRIORITIES[level]
        self._stream = stream
        self._sender = sender or JournalSender()
        self._backlog: deque[dict[str, str | int]] = deque()
        self.lost = 0
        form = ("journal" if _is_journal(stream) else "text") if form == "auto" else form
        coloured = stream.isatty() and "NO_COLOR" not in os.environ
        stamped = structlog.processors.TimeStamper(fmt="iso", utc=True)
        chains: dict[str, list[Any]] = {  # the last processor of each takes what the one before it made
            "json": [stamped, structlog.processors.JSONRenderer(default=str), self._print],
            "journal": [_native, self._to_journal],
            "text": [stamped, partial(_text, coloured=coloured), self._print],
        }
        self._log = structlog.wrap_logger(None, processors=chains[form], wrapper_class=structlog.BoundLogger)

    def logs(self, level: str) -> bool:
        """Return whether messages of this level are emitted."""
        return _PRIORITIES[level] <= self._most

    def emit(self, event: str, level: str, message: str, **fields: Any) -> None:
        """Emit one message. One that can't be delivered is counted, and for journald kept for later."""
        try:
            if not self.logs(level):
                return
            self._log.msg(event, level=level, message=message, **fields)
        except structlog.DropEvent:
            pass  # the chain's ordinary end
        except Exception:  # noqa: BLE001 - a message that can't be rendered must not stop its sender
            self.lost += 1

    def flush(self) -> None:
        """Send the messages that journald did not take before, in order."""
        while self._backlog and self._sender.send(self._backlog[0]):
            self._backlog.popleft()

    def _print(self, _logger: object, _method: str, line: str) -> NoReturn:
        """End the chain at the stream."""
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self.lost += 1
        raise structlog.DropEvent

    def _to_journal(self, _logger: object, _method: str, fields: dict[str, str | int]) -> NoReturn:
        """End the chain at journald; keep the message if it does not take it now."""
        self.flush()
        if self._backlog or not self._sender.send(fields):
            if len(self._backlog) >= BACKLOG:
                self._backlog.popleft()
                self.lost += 1
            self._backlog.append(fields)
        raise structlog.DropEvent


def _is_journal(stream: TextIO) -> bool:
    """Return whether systemd connected this stream to the journal (JOURNAL_STREAM=device:inode)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _native(_logger: object, _method: str, event: Event) -> dict[str, str | int]:
    """Return the journal's fields: MESSAGE, PRIORITY, MESSAGE_ID, and GUARD_… for everything else."""
    name, level, message = event.pop("event"), event.pop("level"), event.pop("message")
    fields: dict[str, str | int] = {
        "MESSAGE": printable(message),
        "PRIORITY": _PRIORITIES[level],
        "SYSLOG_IDENTIFIER": "guard",
        "MESSAGE_ID": message_id(name, event.get("reason")),
        "GUARD_EVENT": name,
    }
    for key, value in event.items():
        plain = isinstance(value, int | str) and not isinstance(value, bool)
        fields[f"GUARD_{key.upper()}"] = value if plain else json.dumps(value, default=str)
    return fields


def _text(_logger: object, _method: str, event: Event, *, coloured: bool) -> str:
    """Return one line for people."""
    level = event["level"]
    shown = "  ".join(f"{name}={printable(str(event[name]))}" for name in _SHOWN if event.get(name))
    line = f"{event['timestamp']} {level:<7} {event['event']:<13} {printable(event['message'])}"
    line = f"{line}  {shown}" if shown else line
    return f"{_COLOURS[level]}{line}\x1b[0m" if coloured and _COLOURS[level] else line
