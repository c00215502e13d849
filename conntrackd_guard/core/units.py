"""Sizes, percentages, durations and counts: parse what people write, and format for people.

Every `parse_*` raises ValueError with the expected form. Only ASCII digits are accepted; no result is infinite,
negative or unbounded.
"""

import math
import re
from datetime import UTC, datetime

_LONGEST_TEXT = 64
"""Longer than any sensible value; bounds the time that a hostile digit string takes."""

MOST_BYTES = 2**60
"""1 EiB: more than any host has, and products with an entry's size fit SQLite's 63 bits."""

MOST_COUNT = 2**53
"""JSON readers that use doubles represent every whole number up to this."""

MOST_SECONDS = 100 * 31_557_600
"""100 years."""

YEAR_10000 = 253_402_300_800
"""Wall seconds that no calendar reaches."""

_LEAST_IN_SECONDS = 0.1
_MOST_IN_SECONDS = 100
_DECIMAL = r"(?!0[0-9])[0-9]++(?:\.[0-9]++)?"
"""A number such as 10 or 1.5. A leading zero (octal?) is refused, as in a count."""
_SIZE = re.compile(rf"({_DECIMAL})\s*([kKMGT]?)(i?B)?")
_SIZE_UNITS = {"": 1, "k": 2**10, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NUMBER = re.compile(_DECIMAL)
_PERCENTAGE = re.compile(rf"({_DECIMAL})\s*%")
_COUNT = re.compile(r"0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+")
_SPAN = re.compile(rf"({_DECIMAL}|\.[0-9]++)\s*+([A-Za-z\u00b5\u03bc]*+)\s*+")
_SPANS = re.compile(f"(?:{_SPAN.pattern})++")
"""Possessive: without it, a long row of digits could be split into spans in any way."""

_MICROSECONDS_OF = {
    name: microseconds
    for names, microseconds in (
        ("us usec \u00b5s \u03bcs", 1),
        ("ms msec", 1000),
        ("s sec second seconds", 1_000_000),
        ("m min minute minutes", 60_000_000),
        ("h hr hour hours", 3_600_000_000),
        ("d day days", 86_400_000_000),
        ("w week weeks", 604_800_000_000),
        ("M month months", 2_629_800_000_000),
        ("y year years", 31_557_600_000_000),
    )
    for name in names.split()
}
"""Names and lengths as in systemd.time(7): a month is 30.44 days, a year 365.25."""

_UNITS = (("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1))
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def parse_size(text: str) -> int:
    """Return a size in bytes. `k`, `M`, `G`, `T` are powers of 1024, alone or as `KiB`, `MiB`, `GiB`, `TiB`.

    `MB` is refused: some read it as 1,000,000 bytes and some as 1,048,576.
    """
    expected = "expected a size such as 512MiB, 2G or 1048576"
    number, unit, tail = _match(_SIZE, text, expected).groups()
    if tail == "B" and unit:
        raise ValueError(f"{expected} ({unit}B is ambiguous: write {unit.upper()}iB, a power of 1024)")
    if tail == "iB" and not unit:
        raise ValueError(expected)
    size = (float(number) if "." in number else int(number)) * _SIZE_UNITS[unit]
    if size > MOST_BYTES:
        raise ValueError(f"{expected}, at most {format_bytes(MOST_BYTES)}")
    if size != int(size):
        raise ValueError(f"{expected}, a whole number of bytes")
    return int(size)


def parse_percentage(text: str) -> float:
    """Return `10%` as the fraction 0.1 (0 to 1). The percent sign is required: a bare 10 or 0.1 is ambiguous."""
    expected = "expected a percentage from 0% to 100%, such as 10%"
    fraction = float(_match(_PERCENTAGE, text, expected)[1]) / 100
    if fraction > 1:
        raise ValueError(expected)
    return fraction


def parse_duration(text: str) -> float:
    """Return a duration in seconds. The grammar is systemd's: `200ms`, `1h 30min`, `1.5h`; a bare number is seconds."""
    expected = "expected a duration such as 200ms, 2s, 10min, 1h 30min or 30d"
    microseconds = 0.0
    for number, unit in _SPAN.findall(_match(_SPANS, text, expected)[0]):
        if unit and unit not in _MICROSECONDS_OF:
            raise ValueError(expected)
        microseconds += float(number) * _MICROSECONDS_OF[unit or "s"]
    if microseconds > MOST_SECONDS * 1_000_000:
        raise ValueError(f"{expected}, at most 100 years")
    return microseconds / 1_000_000


def parse_boolean(text: str) -> bool:
    """Return true for `true`, `yes`, `on`, false for `false`, `no`, `off`, in any case."""
    value = _BOOLEANS.get(text.strip().lower())
    if value is None:
        raise ValueError("expected true or false")
    return value


def parse_count(text: str) -> int:
    """Return a whole number: `262144` or, in groups of three, `1_000_000`. A leading zero (octal?) is refused."""
    expected = "expected a whole number such as 262144 or 1_000_000"
    count = int(_match(_COUNT, text, expected)[0])
    if count > MOST_COUNT:
        raise ValueError(expected)
    return count


def parse_number(text: str) -> float:
    """Return a plain decimal number such as `1.5`; no sign, no exponent."""
    return float(_match(_NUMBER, text, "expected a number such as 1.5")[0])


def format_bytes(count: float) -> str:
    """Return bytes for people: `512 MiB`, `1.5 GiB`; rounded to one decimal."""
    if not math.isfinite(count):
        return str(count)
    if abs(count) < 2**10:
        return f"{count:.0f} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 2**10
        if abs(value) < 1023.95:  # noqa: PLR2004 - more would print as 1024.0
            return f"{value:.1f}".removesuffix(".0") + f" {unit}"
    return f"{value / 2**10:,.1f}".removesuffix(".0") + " EiB"


def format_size(count: int) -> str:
    """Return bytes as a setting that `parse_size` reads back exactly: `512MiB`, `1000`."""
    for unit in ("T", "G", "M", "K"):
        if count and count % _SIZE_UNITS[unit] == 0:
            return f"{count // _SIZE_UNITS[unit]}{unit}iB"
    return str(count)


def format_percentage(fraction: float) -> str:
    """Return a fraction as a percentage that `parse_percentage` reads back: 0.1 is `10%`."""
    return f"{fraction * 100:.10g}%"


def format_duration(seconds: float, *, parts: int = 2) -> str:
    """Return seconds for people, rounded to the `parts` largest units: `1h 30min`, `200ms`."""
    if not math.isfinite(seconds * 1_000_000):
        return str(seconds)
    if seconds < 0:
        return "-" + format_duration(-seconds, parts=parts)
    left = round(seconds * 1_000_000)
    largest = next((i for i, (_, size) in enumerate(_UNITS) if left >= size), len(_UNITS) - 1)
    smallest = _UNITS[min(largest + parts, len(_UNITS)) - 1][1]
    if parts <= 2 and left >= 10_000_000:  # noqa: PLR2004 - for people, milliseconds matter below 10 s only
        smallest = max(smallest, 1_000_000)
    left = (left + smallest // 2) // smallest * smallest
    printed = ""
    for name, size in _UNITS:
        whole, left = divmod(left, size)
        printed += f" {whole}{name}" if whole else ""
    return printed.strip() or "0s"


def _match(pattern: re.Pattern[str], text: str, expected: str) -> re.Match[str]:
    """Return the match of the whole stripped text. Raises ValueError if there is none, or if it is longer than any value."""
    stripped = text.strip()
    if len(stripped) > _LONGEST_TEXT:
        raise ValueError(f"{expected} (at most {_LONGEST_TEXT} characters)")
    match = pattern.fullmatch(stripped)
    if match is None:
        raise ValueError(expected)
    return match


def format_span(seconds: float) -> str:
    """Return a measured time for people: `56 ms`, `0.25 s`, and from 100 s on as `format_duration`."""
    if 0 < seconds < _LEAST_IN_SECONDS:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < _MOST_IN_SECONDS else format_duration(seconds)


def format_rate(per_second: float, seconds: float | None) -> str:
    """Return new entries a second, and the time that they were measured over: `400 new entries/s measured over 1 s`."""
    return f"{per_second:,.0f} new entries/s" + ("" if seconds is None else f" measured over {format_span(seconds)}")


def rfc3339(wall_seconds: float) -> str:
    """Return wall time as `2026-11-23T11:07:27.123Z`; as seconds outside 1970 to 9999."""
    if not 0 <= wall_seconds < YEAR_10000:
        return f"@{wall_seconds:.0f}"
    return datetime.fromtimestamp(wall_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc(wall_seconds: float) -> str:
    """Return wall time for a sentence that is read in any time zone: `2026-11-23 11:07:27 UTC`; as seconds outside 1970 to 9999."""
    if not 0 <= wall_seconds < YEAR_10000:
        return f"@{wall_seconds:.0f}"
    return f"{datetime.fromtimestamp(wall_seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
