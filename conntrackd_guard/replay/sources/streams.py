"""Kernel entries on stdin, as `journalctl -o export` or `-o json` prints them. Grade: asked only.

One stream may hold many hosts (`journalctl --merge`); their names are what the entries claim (`_HOSTNAME`). Sizes are
checked before anything is read: the stream may be hostile.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.text import short
from conntrackd_guard.replay.model import HostInput, Skipped, Span
from conntrackd_guard.replay.sources.kernel_lines import KernelLines

MOST_HOSTS = 10_000
LONGEST_NAME = 255
"""Bytes of a host's name, as DNS allows; Linux' own has 64."""
MOST_BOOTS = 1000
"""Boots that are counted a host."""
_LONGEST_BOOT_ID = 64
LONGEST_LINE = 1 << 20
"""A JSON entry, or a field in export format. Kernel messages have at most 1 KB; longer ones are skipped."""
LARGEST_FIELD = 768 << 20
"""DATA_SIZE_MAX of systemd's journal: a larger one is no journal's."""
_CHUNK = 1 << 16
_NEEDED = frozenset(
    (b"MESSAGE", b"__REALTIME_TIMESTAMP", b"_HOSTNAME", b"_BOOT_ID", b"_TRANSPORT", b"SYSLOG_FACILITY"),
)
_FIELD = re.compile(rb"[A-Z0-9_]{1,64}")

Fields = dict[bytes, bytes]


class _NotAJournalError(GuardError):
    """The stream is not what `journalctl` prints."""


def read(stream: BinaryIO, span: Span) -> Iterator[HostInput | Skipped]:
    """Yield the hosts of a stream in the order of their names, and what of it could not be read."""
    hosts: dict[str, tuple[KernelLines, set[bytes]]] = {}
    no_entries = 0
    trouble: str | None = None
    try:
        for fields in _entries(stream):
            try:
                seconds = int(fields.get(b"__REALTIME_TIMESTAMP", b"")) / 1e6
            except (ValueError, OverflowError):
                no_entries += 1
                continue
            if fields.get(b"_TRANSPORT") != b"kernel" or fields.get(b"SYSLOG_FACILITY") != b"0":
                continue
            name = fields.get(b"_HOSTNAME", b"-")[:LONGEST_NAME].decode("utf-8", "replace")
            if name not in hosts and len(hosts) == MOST_HOSTS:
                trouble = f"More than {MOST_HOSTS} host names. Replay the hosts in several runs."
                break
            lines, boots = hosts.setdefault(name, (KernelLines(span), set()))
            lines.add(seconds, fields.get(b"MESSAGE", b""))
            if len(boots) < MOST_BOOTS:
                boots.add(fields.get(b"_BOOT_ID", b"")[:_LONGEST_BOOT_ID])
    except _NotAJournalError as error:
        trouble = str(error)
    if no_entries:
        yield Skipped(name="stdin", why=f"{no_entries} entries have no time of their own (`__REALTIME_TIMESTAMP`).")
    if trouble is not None or not (hosts or no_entries):
        yield Skipped(name="stdin", why=trouble or "There is no kernel entry in it.")
    for name, (lines, boots) in sorted(hosts.items()):
        yield lines.host(name, len(boots - {b""}) or None, ("the host's name is what its entries claim",))


def _entries(stream: BinaryIO) -> Iterator[Fields]:
    """Yield the needed fields of each entry, the first of equal ones. Raises _NotAJournalError."""
    first = stream.readline(LONGEST_LINE)
    if not first:
        return iter(())
    return _from_json(stream, first) if first.startswith(b"{") else _from_export(stream, first)


def _from_export(stream: BinaryIO, first: bytes) -> Iterator[Fields]:
    """Parse the export format (systemd.io/JOURNAL_EXPORT_FORMATS)."""
    fields: Fields = {}
    for number, line in enumerate(chain([first], _lines(stream)), start=1):
        if line == b"\n":
            yield fields
            fields = {}
            continue
        name, is_text, value = line.rstrip(b"\n").partition(b"=")
        if name not in _NEEDED and not _FIELD.fullmatch(name):
            shown = short(name[:_CHUNK].decode("utf-8", "replace"))
            raise _NotAJournalError(
                f"Line {number} is no field of a journal entry: {shown}."
                " Use the output of `journalctl --output=export` or `--output=json`."
            )
        if not is_text:
            value = _binary(stream, number)
        if name in _NEEDED and name not in fields:
            fields[name] = value
        if is_text and not line.endswith(b"\n"):
            _skip_line(stream)
    if fields:
        yield fields


def _binary(stream: BinaryIO, number: int) -> bytes:
    """Read a field with its size in front; only the beginning of a long one is kept."""
    size = int.from_bytes(stream.read(8), "little")
    if size > LARGEST_FIELD:
        raise _NotAJournalError(
            f"The field in line {number} would have {size} bytes; a journal's has {LARGEST_FIELD} at most."
        )
    value = stream.read(min(size, LONGEST_LINE))
    left = size + 1 - len(value)
    while left > 0 and (skipped := stream.read(min(left, _CHUNK))):
        left -= len(skipped)
    return value


def _from_json(stream: BinaryIO, first: bytes) -> Iterator[Fields]:
    """Parse one object a line."""
    for number, line in enumerate(chain([first], _lines(stream)), start=1):
        if not line.endswith(b"\n") and _skip_line(stream):
            continue  # longer than any kernel entry
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise _NotAJournalError(f"Line {number} is no JSON object. Use the output of `journalctl --output=json`.")
        yield {name: _value(entry[name.decode()]) for name in _NEEDED if name.decode() in entry}


def _value(found: object) -> bytes:
    """Return a field: text, a list of bytes where it is no UTF-8, or a list of those where it is repeated; else empty."""
    if isinstance(found, list) and found and not isinstance(found[0], int):
        found = found[0]
    if isinstance(found, str):
        return found.encode("utf-8", "replace")
    if isinstance(found, list):
        try:
            return bytes(found)
        except (TypeError, ValueError):
            return b""
    return b""


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(LONGEST_LINE):
        yield line


def _skip_line(stream: BinaryIO) -> int:
    """Read to the end of a line that is too long; return how many bytes that were."""
    skipped = 0
    while part := stream.readline(_CHUNK):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped
