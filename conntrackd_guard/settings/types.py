"""The kinds of value that a setting may have: how to read one within its bounds, and how to print it.

The text of a kind's `write` gives the same value through its `read`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from conntrackd_guard.core import units
from conntrackd_guard.core.configuration import FloodAction, FloodResponse, Share

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


def boolean() -> Kind:
    """Return the kind of a switch."""
    return Kind(expected="true or false", read=units.parse_boolean, write=lambda value: str(value).lower())


def choice(words: type[StrEnum]) -> Kind:
    """Return the kind of one word out of an enum's values."""
    return Kind(expected=" or ".join(words), read=words, write=str)


def percentage(low: str, high: str) -> Kind:
    """Return the kind of a percentage, stored as a fraction."""
    read = _between(units.parse_percentage, low, high)
    return Kind(expected=f"a percentage from {low} to {high}", read=read, write=units.format_percentage)


def count(low: str, high: str) -> Kind:
    """Return the kind of a whole number."""
    read = _between(units.parse_count, low, high)
    return Kind(expected=f"a whole number from {low} to {high}", read=read, write=lambda value: f"{value:_}")


def number(low: str, high: str) -> Kind:
    """Return the kind of a decimal number."""
    read = _between(units.parse_number, low, high)
    return Kind(expected=f"a number from {low} to {high}", read=read, write=lambda value: f"{value:.15g}")


def duration(low: str, high: str) -> Kind:
    """Return the kind of a time span, stored in seconds."""
    expected = f"a duration from {low} to {high}, such as 200ms, 2s, 10min or 1h 30min"
    read = _between(units.parse_duration, low, high)
    return Kind(expected=expected, read=read, write=lambda value: units.format_duration(value, parts=6))


def share(low: str, high: str, smallest: str) -> Kind:
    """Return the kind of an amount of memory: a percentage of it, or a size."""
    fraction = _between(units.parse_percentage, low, high)
    size = _between(units.parse_size, smallest, str(units.MOST_BYTES))

    def read(text: str) -> Share:
        return Share(fraction=fraction(text)) if text.strip().endswith("%") else Share(bytes=size(text))

    def write(value: Share) -> str:
        if value.bytes is not None:
            return units.format_size(value.bytes)
        return units.format_percentage(value.fraction or 0.0)

    expected = f"a percentage from {low} to {high}, or a size of {smallest} or more"
    return Kind(expected=expected, read=read, write=write)


def command() -> Kind:
    """Return the kind of a command with its arguments, stored as a tuple of words; no shell interprets it."""

    def read(text: str) -> tuple[str, ...]:
        words = tuple(shlex.split(text))
        if not words or not words[0].startswith("/"):
            raise ValueError("a command begins with an absolute path")
        if not all(word.isprintable() and word not in _SHELL_ONLY for word in words):
            raise ValueError("this needs a shell")
        return words

    expected = "the absolute path of a command and its arguments; quotes group words, but no shell reads | ; & < >"
    return Kind(expected=expected, read=read, write=shlex.join)


def path(suffix: str) -> Kind:
    """Return the kind of an absolute path of a file whose name ends in `suffix`."""

    def read(text: str) -> str:
        name = text.strip()
        stem = name.rpartition("/")[2].removesuffix(suffix)
        if not (name.startswith("/") and name.endswith(suffix) and name.isprintable() and stem):
            raise ValueError(f"{name} is no such path")
        return name

    return Kind(expected=f"an absolute path that ends in {suffix}", read=read, write=str)


def port() -> Kind:
    """Return the kind of an unprivileged port."""
    low, high = "1024", "65535"
    return Kind(expected=f"a port from {low} to {high}", read=_between(units.parse_count, low, high), write=str)


def flood_response(highest: str) -> Kind:
    """Return the kind of a `FloodResponse`."""
    limit = count("1", highest)

    def read(text: str) -> FloodResponse:
        word, _, number = text.strip().partition(" ")
        action = FloodAction(word)
        if action is FloodAction.RAISE_TO:
            return FloodResponse(action=action, limit=limit.read(number))
        if number:
            raise ValueError(f"{word} takes no number")
        return FloodResponse(action=action)

    def write(value: FloodResponse) -> str:
        return str(value.action) if value.limit is None else f"{value.action} {limit.write(value.limit)}"

    return Kind(expected=f"raise, hold, or raise_to and {limit.expected}", read=read, write=write)


def optional(word: str, kind: Kind) -> Kind:
    """Return `kind` with one more word, which stands for None."""
    return Kind(
        expected=f"{word}, or {kind.expected}",
        read=lambda text: None if text.strip() == word else kind.read(text),
        write=lambda value: word if value is None else kind.write(value),
    )


def _between(parse: Callable[[str], Any], low: str, high: str) -> Callable[[str], Any]:
    """Return `parse` with inclusive bounds, written as an operator would write them."""
    lowest, highest = parse(low), parse(high)

    def read(text: str) -> Any:
        value = parse(text)
        if not lowest <= value <= highest:
            raise ValueError(f"{text} is outside {low} to {high}")
        return value

    return read
