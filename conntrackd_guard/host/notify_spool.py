"""Queue of decisions, one file each, written by the daemon: for `guard notify`, which removes them, or `guard events`.

Only root may enter the folder under /run. A name that begins with a dot is not queued (systemd's DirectoryNotEmpty= ignores it
too): a file being written, or one set aside.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conntrackd_guard.core.errors import HostError, NotPermitted
from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files

MAX_QUEUED = 100
"""Judgement: one decision an hour for each of four tables makes 96 a day; 100 take some 400 KiB of /run."""
_MAX_BYTES = 64 * 1024
"""Sixteen times a decision with its calculation."""
_CHECK = "Check that /run has room and is writable."


class NoDecision(ValueError):  # noqa: N818 - describes the file
    """A file in the folder that the guard did not write; `str()` is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedDecision:
    """A queued decision."""

    name: str
    """Its number in the history, or its key before it has one."""
    sentence: str
    """Safe to print; may be empty."""
    content: bytes

    @property
    def decision(self) -> dict[str, Any]:
        """The decision, with the fields of `guard history --json`."""
        found: dict[str, Any] = files.parse_json(self.content)["decision"]
        return found


class NotifySpool:
    """The queue. Methods raise HostError."""

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        """`shared`: users other than root may read it."""
        self.folder = folder
        self._modes = (0o755, 0o644) if shared else (0o700, 0o600)

    def put(self, key: str, document: str) -> list[str]:
        """Queue a decision; drop the oldest beyond MAX_QUEUED and return their keys."""
        path = self.folder / f"{key}.json"
        with files.translate_errors("write", path, f"No notification for this decision. {_CHECK}"):
            self.folder.mkdir(mode=self._modes[0], exist_ok=True)
            dropped = self.files()[: 1 - MAX_QUEUED]
            for file in dropped:
                (self.folder / file).unlink(missing_ok=True)
            files.replace(path, document.encode(), mode=self._modes[1], durable=False)
        return [file.removesuffix(".json") for file in dropped]

    def files(self) -> list[str]:
        """Return the names of all queued files, oldest first. Raises NotPermitted too."""
        found: list[tuple[int, str]] = []
        try:
            for name in os.listdir(self.folder):
                with contextlib.suppress(FileNotFoundError):  # it was removed in the meantime
                    found.append((os.lstat(self.folder / name).st_mtime_ns, name))
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise NotPermitted(f"Can't read {self.folder}: permission denied. Run this as root.") from error
        except OSError as error:
            raise HostError("read", self.folder, error, _CHECK) from error
        return [name for _, name in sorted(found) if not name.startswith(".")]

    def read(self, file: str) -> QueuedDecision | None:
        """Return the decision in a file, None if the file is gone. Raises NoDecision."""
        try:
            content = files.read(self.folder / file, _MAX_BYTES, os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NoDecision(f"can't read it: {error.strerror}") from error
        return _parse(file, content)

    def drop(self, file: str) -> None:
        """Remove a decision from the queue."""
        with files.translate_errors("remove", self.folder / file, _CHECK):
            (self.folder / file).unlink(missing_ok=True)

    def set_aside(self, file: str) -> str:
        """Rename a file so that it is no longer queued, and return its path, safe to print."""
        return files.set_aside(self.folder / file)


def _parse(file: str, content: bytes) -> QueuedDecision:
    """Return a file's content with the few fields that the log needs. Raises NoDecision."""
    try:
        decision = files.parse_json(content).get("decision")
    except ValueError as error:
        raise NoDecision(f"not a JSON object: {error}") from error
    if not isinstance(decision, dict):
        raise NoDecision("no object `decision`")
    number, sentence = decision.get("id"), decision.get("sentence")
    name = str(number) if isinstance(number, int) else file.removesuffix(".json")
    sentence = printable(sentence) if isinstance(sentence, str) else ""
    return QueuedDecision(name=printable(name), sentence=sentence, content=content)
