"""The kinds of value that a setting may have: how to read one within its bounds, and how to print it.

The text of a kind's `write` gives the same value through its `read`.
"""

import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

from conntrackd_guard.core import units
from conntrackd_guard.core.configuration import LOOPBACK, FloodAction, FloodResponse, Listen, Share
from conntrackd_guard.core.model import INT_MAX

_SHELL_ONLY = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>", "2>&1"})
"""Words with a meaning for a shell only: a mistake in a command that runs without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of value."""

    expected: str
    """The accepted texts, as the end of "expected …"."""
    read: Callable[[str], Any]
    """From text; raises ValueError."""
    write: Callable[[Any], str]


def choice(words: type[StrEnum]) -> Kind:
    """Return the kind of one word out of an enum's values."""
    return Kind(expected=" or ".join(words), read=words, write=str)


def _ranged(what: str, parse: Callable[[str], Any], write: Callable[[Any], str], low: str, high: str) -> Kind:
    """Return a kind with inclusive bounds, written as an operator would write them."""
    lowest, highest = parse(low), parse(high)

    def read(text: str) -> Any:
        value = parse(text)
        if not lowest <= value <= highest:
            raise ValueError(f"{text} is outside {low} to {high}")
        return value

    return Kind(expected=f"{what} from {low} to {high}", read=read, write=write)


count = partial(_ranged, "a whole number", units.parse_count, "{:_}".format)
number = partial(_ranged, "a number", units.parse_number, "{:.15g}".format)
percentage = partial(_ranged, "a percentage", units.parse_percentage, units.format_percentage)
"""Kinds with two bounds as arguments; a percentage is stored as a fraction."""


def duration(low: str, high: str) -> Kind:
    """Return the kind of a time span, stored in seconds."""
    kind = _ranged("a duration", units.parse_duration, partial(units.format_duration, parts=6), low, high)
    return replace(kind, expected=f"{kind.expected}, such as 200ms, 2s, 10min or 1h 30min")


def share(low: str, high: str) -> Kind:
    """Return the kind of an amount of memory: a percentage of it, or a size."""
    fraction = percentage(low, high)
    size = _ranged("a size", units.parse_size, units.format_size, "1MiB", str(units.MOST_BYTES))

    def read(text: str) -> Share:
        return Share(fraction=fraction.read(text)) if text.strip().endswith("%") else Share(bytes=size.read(text))

    def write(value: Share) -> str:
        return fraction.write(value.fraction) if value.bytes is None else size.write(value.bytes)

    return Kind(expected=f"{fraction.expected}, or a size of 1MiB or more", read=read, write=write)


def _read_command(text: str) -> tuple[str, ...]:
    words = tuple(shlex.split(text))
    if not words or not words[0].startswith("/"):
        raise ValueError("a command begins with an absolute path")
    if not all(word.isprintable() and word not in _SHELL_ONLY for word in words):
        raise ValueError("this needs a shell")
    return words


def _read_prom_path(text: str) -> str:
    name = text.strip()
    stem = name.rpartition("/")[2].removesuffix(".prom")
    if not (name.startswith("/") and name.endswith(".prom") and name.isprintable() and stem):
        raise ValueError(f"{name} is no such path")
    return name


def _read_flood_response(text: str) -> FloodResponse:
    word, _, number = text.strip().partition(" ")
    action = FloodAction(word)
    if action is FloodAction.RAISE_TO:
        return FloodResponse(action=action, limit=LIMIT.read(number))
    if number:
        raise ValueError(f"{word} takes no number")
    return FloodResponse(action=action)


def _write_flood_response(value: FloodResponse) -> str:
    return str(value.action) if value.limit is None else f"{value.action} {LIMIT.write(value.limit)}"


def _read_listen(text: str) -> Listen:
    address, _, port = text.strip().rpartition(":")
    if not address:
        return Listen(LOOPBACK, PORT.read(text))
    inner = address.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if address == f"[{inner}]" else socket.AF_INET
    try:
        socket.inet_pton(family, inner)
    except OSError as error:
        raise ValueError(f"{address} is no address") from error
    return Listen(inner, PORT.read(port))


def _write_listen(value: Listen) -> str:
    return str(value.port) if value.address == LOOPBACK else str(value)


def optional(word: str, kind: Kind) -> Kind:
    """Return `kind` with one more word, which stands for None."""
    return Kind(
        expected=f"{word}, or {kind.expected}",
        read=lambda text: None if text.strip() == word else kind.read(text),
        write=lambda value: word if value is None else kind.write(value),
    )


BOOLEAN = Kind(expected="true or false", read=units.parse_boolean, write=lambda value: str(value).lower())
LIMIT = count("1", f"{INT_MAX:_}")
PORT = _ranged("a port", units.parse_count, str, "1024", "65535")
LISTEN = Kind(
    expected=f"{PORT.expected}, alone or after an address and a colon (IPv6 in brackets)",
    read=_read_listen,
    write=_write_listen,
)
PROM_PATH = Kind(expected="an absolute path that ends in .prom", read=_read_prom_path, write=str)
COMMAND = Kind(
    expected="the absolute path of a command and its arguments; quotes group words, but no shell reads | ; & < >",
    read=_read_command,
    write=shlex.join,
)
"""Stored as a tuple of words; no shell interprets it."""
FLOOD_RESPONSE = Kind(
    expected=f"raise, hold, or raise_to and {LIMIT.expected}", read=_read_flood_response, write=_write_flood_response
)
