"""Decisions that wait for the `notify` command: one file each under /run, left by the guard, taken by `guard notify`.

Only root may enter the folder. A name that begins with a dot is not waiting (systemd's
DirectoryNotEmpty= sees it the same way): a file being written, or one set aside.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from dataclasses import dataclass

from conntrackd_guard.core.errors import HostError, NotPermitted
from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files
from conntrackd_guard.host.paths import Paths

MOST_WAITING = 100
"""Judgement: a day of hourly news of four tables; some 400 KiB of /run."""
_MOST_BYTES = 64 * 1024
"""Sixteen times a decision with its sum."""
_NAME_CHARACTERS = 50
"""Of a name that is not ours, so that it stays within 255 bytes with what is put before it."""
_CHECK = "Check that /run has room and is writable."


class NoDecision(ValueError):  # noqa: N818 - says what the file is
    """A file in the folder that the guard did not write; `str()` says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A decision that waits."""

    name: str
    """What people call it: its number in the history, else its key."""
    sentence: str
    """Safe to print; empty where there is none."""
    content: bytes


class NotifySpool:
    """The folder of waiting decisions. Methods raise HostError unless they say otherwise."""

    def __init__(self, paths: Paths) -> None:
        self.folder = paths.notices

    def put(self, key: str, document: str) -> list[str]:
        """Leave a decision; return the keys of the oldest, which were dropped to keep MOST_WAITING."""
        path = self.folder / f"{key}.json"
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            dropped = self.files()[: 1 - MOST_WAITING]
            for file in dropped:
                (self.folder / file).unlink(missing_ok=True)
            files.replace(path, document.encode(), mode=0o600, durable=False)
        except OSError as error:
            raise HostError("writing", path, error, f"The notify command will not run for it. {_CHECK}") from error
        return [file.removesuffix(".json") for file in dropped]

    def files(self) -> list[str]:
        """Return the names of what waits, oldest first, whatever it is. Raises NotPermitted too."""
        try:
            names = [name for name in os.listdir(self.folder) if not name.startswith(".")]
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise NotPermitted(f"reading {self.folder}: permission denied. Run this as root.") from error
        except OSError as error:
            raise HostError("reading", self.folder, error, _CHECK) from error
        found: list[tuple[int, str]] = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                found.append((os.lstat(self.folder / name).st_mtime_ns, name))
        return [name for _, name in sorted(found)]

    def read(self, file: str) -> Waiting | None:
        """Return the decision in a file, None where it went meanwhile. Raises NoDecision too."""
        path = self.folder / file
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NoDecision(f"it can't be opened: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NoDecision("it is no regular file")
            with open(os.dup(descriptor), "rb") as opened:
                content = opened.read(_MOST_BYTES + 1)
        except OSError as error:
            raise HostError("reading", path, error, _CHECK) from error
        finally:
            os.close(descriptor)
        if len(content) > _MOST_BYTES:
            raise NoDecision(f"it is larger than {_MOST_BYTES // 1024} KiB")
        return _understood(file, content)

    def drop(self, file: str) -> None:
        """Forget a decision: the command took it, or it was given up."""
        try:
            (self.folder / file).unlink(missing_ok=True)
        except OSError as error:
            raise HostError("removing", self.folder / file, error, _CHECK) from error

    def set_aside(self, file: str) -> str:
        """Rename what is no decision so that it waits no longer, and return its path."""
        aside = self.folder / f".set-aside-{file[:_NAME_CHARACTERS]}"
        try:
            os.replace(self.folder / file, aside)
        except OSError as error:
            raise HostError("setting aside", self.folder / file, error, "Remove it by hand.") from error
        return printable(str(aside))


def _understood(file: str, content: bytes) -> Waiting:
    """Return a file's content as a decision, as far as the guard itself needs to understand it."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NoDecision(f"it holds no JSON: {type(error).__name__}") from error
    decision = document.get("decision") if isinstance(document, dict) else None
    if not isinstance(decision, dict):
        raise NoDecision("it holds no object `decision`")
    number, sentence = decision.get("id"), decision.get("sentence")
    name = str(number) if isinstance(number, int) else file.removesuffix(".json")
    return Waiting(
        name=printable(name), sentence=printable(sentence) if isinstance(sentence, str) else "", content=content
    )
