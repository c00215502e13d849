"""The lines that workers return and files keep: one JSON document a host, after a head that says what was replayed."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conntrackd_guard import __version__
from conntrackd_guard.core.codec import decode, encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import GuardError, HostError
from conntrackd_guard.core.text import printable
from conntrackd_guard.replay.model import HostInput, HostResult, Skipped, Span

VERSION = 1
MOST_LINE_BYTES = 1 << 20
"""A host's line takes some 10 KB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked about every host."""

    policy: Policy
    recorded: bool = False
    """Recorded decisions are decided under the policy of their time."""
    against: Policy | None = None
    span: Span
    limit: int | None = None
    """The limit to assume where the evidence has none."""
    available_bytes: int | None = None
    """The memory available to assume where the evidence has none."""

    def head(self) -> str:
        """Return the first line of a file of results."""
        text = json.dumps([__version__, encode(self)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return line({"version": VERSION, "guard_version": __version__, "job": digest, "compares": bool(self.against)})

    def assuming(self, host: HostInput) -> HostInput:
        """Return a host with what is assumed in place of what its evidence doesn't show."""
        limit = self.limit if host.facts.limit is None else host.facts.limit
        available = self.available_bytes if host.facts.available_bytes is None else host.facts.available_bytes
        return replace(host, facts=replace(host.facts, limit=limit, available_bytes=available))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One host's answer: its row, and the other policy's with `--against`."""

    host: HostResult
    against: HostResult | None = None

    @property
    def differs(self) -> bool:
        """Whether the two policies differ on this host; that only one judges rows of other versions is no difference."""
        return self.against is not None and _judged(self.against) != _judged(self.host)


def _judged(row: HostResult) -> HostResult:
    """Return a row whose decisions of other guard versions, taken as recorded, count as the same."""
    if (exact := row.exact) is None:
        return row
    same = exact.same + sum(exact.other_versions.values())
    return replace(row, exact=replace(exact, same=same, other_versions={}))


Found = Answer | Skipped


def line(content: dict[str, Any]) -> str:
    """Return one document as a line of ASCII JSON."""
    return json.dumps(content, separators=(",", ":")) + "\n"


def written(unit: str, found: Found) -> str:
    """Return the line of one host of a unit."""
    return line({"unit": unit, ("skipped" if isinstance(found, Skipped) else "answer"): encode(found)})


def done(unit: str) -> str:
    """Return the line after the last host of a unit: all of it is there."""
    return line({"unit": unit, "done": True})


def read(lines: Iterable[str], place: str) -> Iterator[dict[str, Any]]:
    """Yield the documents of a file of results. Raises GuardError with the line that is none."""
    for number, text in enumerate(lines, 1):
        try:
            content = json.loads(text) if len(text) <= MOST_LINE_BYTES else None
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise GuardError(
                f"{printable(place)}:{number}: found no line of `guard replay --json`. Name such files only."
            )
        yield content


def found(content: dict[str, Any], place: str) -> Found | None:
    """Return a line's host; None for a line that is about none. Raises GuardError."""
    try:
        if "answer" in content:
            return decode(Answer, content["answer"])
        return decode(Skipped, content["skipped"]) if "skipped" in content else None
    except ValueError as error:
        text = f"{printable(place)}: found a host that this version can't read: {printable(str(error))}."
        raise GuardError(f"{text} Use the guard that wrote it, or replay again.") from error


def open_results(path: Path) -> Iterator[str]:
    """Yield the lines of a file. Raises HostError."""
    try:
        with path.open(encoding="ascii", errors="backslashreplace") as file:
            while text := file.readline(MOST_LINE_BYTES + 1):
                yield text
    except OSError as error:
        raise HostError("read", path, error, "Name a file of `guard replay --json` that you may read.") from error
