"""Journal files of one host or of a fleet: when the kernel logged that a table was full. Grade: asked only.

systemd-journal-remote keeps all hosts in one folder, so the unit of work is a group of files with one host in its name.
That name is the host's identity: what the entries contain (`_HOSTNAME`, `_TRANSPORT`) is what the sender claims.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.text import short
from conntrackd_guard.host.kernel_log.journal_file import JournalFile, reason
from conntrackd_guard.host.kernel_log.journal_reader import READ_ERRORS
from conntrackd_guard.replay.model import HostInput, Skipped, Span
from conntrackd_guard.replay.sources.kernel_lines import KernelLines

_MAGIC = b"LPKSHHRH"
_NAME = re.compile(r"(?P<name>.+?)(?:@[0-9a-f-]+)?\.journal~?", re.DOTALL)
"""journald adds `@…` to the name of a file that it closed, and `~` where that one was damaged or not closed properly."""
_ENDS = (".journal", ".journal~")
_REMOTE = "remote-"
_LOCAL = re.compile(r"system|(user-[0-9]+)")
"""Files of journald itself, below a folder with the machine's id. A user's have no kernel messages."""
_MOST_NAMED = 3
"""Machine ids or host names in a note."""


def is_journal(path: Path) -> bool:
    """Return whether the file is a journal, by its first bytes or its name: it may be damaged. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC or path.name.endswith(_ENDS)


@dataclass(frozen=True, slots=True)
class JournalGroup:
    """The files of one host as a unit of work."""

    key: str
    """The host's name as the files show it; with the folder if two folders have the same."""
    paths: tuple[Path, ...]

    def read(self, span: Span) -> Iterator[HostInput | Skipped]:
        """Yield the files that are damaged, then the host unless none of its files can be read."""
        lines, claims = KernelLines(span), _Claims()
        is_any_readable = False
        for path in self.paths:
            entries = 0
            try:
                with JournalFile(path) as journal:
                    is_any_readable = True
                    claims.add(journal)
                    try:
                        for found in journal.search():
                            lines.add(found.wall_seconds, found.message)
                    finally:
                        entries = journal.entries - journal.unreadable
                    if journal.unreadable:
                        yield self._damaged(path, f"{journal.unreadable} kernel entries are damaged")
            except READ_ERRORS as error:
                yield self._damaged(path, f"{reason(error)}. {entries} kernel entries were read")
        if is_any_readable:
            yield lines.host(self.key, len(claims.boots) or None, claims.notes())

    def _damaged(self, path: Path, what: str) -> Skipped:
        return Skipped(name=f"{self.key}: {path}", why=f"{what}. Check it with `journalctl --verify --file`.")


@dataclass(slots=True)
class _Claims:
    """What the entries of a group contain about their host."""

    machines: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    boots: set[str] = field(default_factory=set)

    def add(self, journal: JournalFile) -> None:
        """Take what a file contains. Raises READ_ERRORS."""
        self.machines |= journal.values("_MACHINE_ID")
        self.hosts |= journal.values("_HOSTNAME")
        self.boots |= journal.values("_BOOT_ID")

    def notes(self) -> tuple[str, ...]:
        """Return what a reader should know."""
        found = []
        if len(self.machines) > 1:
            found.append(f"entries of {len(self.machines)} machine ids under one name: {_some(self.machines)}")
        if self.hosts:
            found.append(f"host name in the entries: {_some(self.hosts)}")
        return tuple(found)


def find(paths: Iterable[Path]) -> Iterator[JournalGroup | Skipped]:
    """Yield the groups of all journal files at or below `paths`, in the order of their names. Raises HostError."""
    groups: defaultdict[tuple[Path, str], set[Path]] = defaultdict(set)
    for path in paths:
        found = 0
        for file in _files(path):
            match = _NAME.fullmatch(file.name)
            name = match["name"] if match else file.name
            local = _LOCAL.fullmatch(name)
            found += 1
            if not (local and local[1]):
                groups[file.parent, file.parent.name if local else name.removeprefix(_REMOTE)].add(file)
        if not found:
            yield Skipped(name=str(path), why="There is no journal file at or below this path.")
    times = Counter(name for _, name in groups)
    for (folder, name), files in sorted(groups.items(), key=lambda group: (group[0][1], group[0][0])):
        yield JournalGroup(name if times[name] == 1 else f"{folder}/{name}", tuple(sorted(files)))


def _files(path: Path) -> Iterator[Path]:
    """Yield the file, or the journal files below the folder, each by its real path. Raises HostError."""

    def fail(error: OSError) -> None:
        raise HostError("read", error.filename or path, error, "Name a journal file or a folder with journal files.")

    try:
        if not path.is_dir():
            path.stat()
            yield path.resolve()
            return
    except OSError as error:
        fail(error)
    for folder, _, names in os.walk(path.resolve(), onerror=fail):
        for name in names:
            if name.endswith(_ENDS) and (Path(folder) / name).is_file():
                yield Path(folder) / name


def _some(values: Iterable[str]) -> str:
    ordered = sorted(map(short, values))
    return ", ".join(ordered[:_MOST_NAMED]) + ("…" if len(ordered) > _MOST_NAMED else "")
