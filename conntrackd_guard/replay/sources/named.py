"""Turn the sources that somebody named into units of work: histories, journals, stdin, and the hosts of a Prometheus."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from conntrackd_guard.core.errors import GuardError, HostError
from conntrackd_guard.replay.model import HostInput, Skipped, Span, Unit
from conntrackd_guard.replay.sources import journals, prometheus, streams
from conntrackd_guard.replay.sources.history import HistoryFile, is_history
from conntrackd_guard.replay.sources.prometheus_api import Server

STDIN = "-"
_NAME_ONE = (
    "Name a history.db, journal files, a folder with some, `-` for stdin, or the http(s) address of a Prometheus."
)


@dataclass(frozen=True, slots=True)
class Found:
    """What was already read, or is to be skipped, while the units were found."""

    key: str
    evidence: tuple[HostInput | Skipped, ...]

    def read(self, span: Span) -> Iterator[HostInput | Skipped]:
        """Yield it; the span bounded it before."""
        del span
        yield from self.evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to ask each Prometheus."""

    match: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    token_over_http: bool = False


def units(sources: Iterable[str], access: Access, span: Span) -> Iterator[Unit]:
    """Yield the units of all sources; journals last. Raises GuardError for a source that is none of the known kinds."""
    paths: list[Path] = []
    for source in dict.fromkeys(sources):
        if source.startswith(("http://", "https://")):
            server = Server(
                url=source,
                token_file=access.token_file,
                ca_file=access.ca_file,
                token_over_http=access.token_over_http,
            )
            yield from map(_unit, prometheus.find(server, access.match, span))
        elif source == STDIN:
            yield Found(STDIN, tuple(streams.read(sys.stdin.buffer, span)))
        else:
            histories, has_journals = _look(Path(source))
            yield from histories
            paths += [Path(source)] if has_journals else []
    yield from map(_unit, journals.find(paths))


def _unit(found: Unit | Skipped) -> Unit:
    return Found(found.name, (found,)) if isinstance(found, Skipped) else found


def _histories(folder: Path) -> Iterator[Unit]:
    """Yield the histories below a folder, and each file that may be one and can't be read. Raises OSError."""
    for file in sorted(folder.rglob("*.db")):
        try:
            if file.is_file() and is_history(file):
                yield HistoryFile(file)
        except OSError as error:
            yield _unit(Skipped(name=str(file), why=f"Can't read it: {error.strerror or error}."))


def _look(path: Path) -> tuple[list[Unit], bool]:
    """Return the histories at or below a path, and whether there are journals. Raises GuardError if there are neither."""
    histories: list[Unit]
    try:
        if path.is_dir():
            histories = list(_histories(path))
            has_journals = next(path.rglob("*.journal*"), None) is not None
            what = "contains neither a guard's history nor journal files"
        elif path.exists() and not path.is_file():  # a pipe would be waited for
            histories, has_journals, what = [], False, "is no regular file"
        else:
            histories = [HistoryFile(path)] if is_history(path) else []
            has_journals = not histories and journals.is_journal(path)
            what = "is neither a guard's history nor a journal file"
    except OSError as error:
        raise HostError("read", path, error, _NAME_ONE) from error
    if not histories and not has_journals:
        raise GuardError(f"{path} {what}. {_NAME_ONE}")
    return histories, has_journals
