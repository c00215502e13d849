"""Sizes, percentages, durations and counts: what people write is parsed, everything else is refused."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conntrackd_guard.core import units

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1048576", 1048576),
        ("512MiB", 512 * MIB),
        ("512M", 512 * MIB),
        ("2GiB", 2048 * MIB),
        ("1.5 GiB", 1536 * MIB),
        ("4k", 4096),
        ("4KiB", 4096),
        ("1T", 2**40),
        ("100B", 100),
        ("0", 0),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    """Every suffix is a power of 1024, alone or with iB."""
    assert units.parse_size(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10%", 0.1), ("80 %", 0.8), ("2.5%", 0.025), ("0%", 0.0), ("100%", 1.0)],
)
def test_percentages(text: str, expected: float) -> None:
    """A percentage becomes the fraction nearest to it."""
    assert units.parse_percentage(text) == expected


DURATIONS = [
    ("2s", 2.0),
    ("200ms", 0.2),
    ("10min", 600.0),
    ("1h", 3600.0),
    ("30d", 2592000.0),
    ("1h 30min", 5400.0),
    ("1h30min", 5400.0),
    ("1.5h", 5400.0),
    (".5s", 0.5),
    ("5", 5.0),
    ("5 5", 10.0),
    ("1 h", 3600.0),
    ("1m", 60.0),
    ("1M", 2629800.0),
    ("1hour 2minutes", 3720.0),
    ("7us", 0.000007),
    ("7\u00b5s", 0.000007),
    ("7\u03bcs", 0.000007),
    ("1y", 31557600.0),
    ("2weeks", 1209600.0),
    ("0", 0.0),
]


@pytest.mark.parametrize(("text", "expected"), DURATIONS)
def test_durations(text: str, expected: float) -> None:
    """Durations follow systemd's grammar."""
    assert units.parse_duration(text) == expected


@pytest.mark.parametrize(("text", "expected"), DURATIONS)
def test_durations_agree_with_systemd(text: str, expected: float) -> None:
    """`systemd-analyze timespan` returns the same number of microseconds."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: durations were NOT compared with systemd")
    command = ["systemd-analyze", "timespan", "--", text]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env={"LC_ALL": "C.UTF-8"}).stdout
    line = next(line for line in printed.splitlines() if "s:" in line.split(maxsplit=1)[0])
    assert int(line.split()[-1]) == round(expected * 1_000_000)


@pytest.mark.parametrize(("text", "expected"), [("262144", 262144), ("1_000_000", 1_000_000), ("0", 0), (" 7 ", 7)])
def test_counts(text: str, expected: int) -> None:
    """A count is plain, or has groups of three digits."""
    assert units.parse_count(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("Yes", True), ("on", True), ("false", False), ("NO", False), ("off", False)],
)
def test_booleans(text: str, *, expected: bool) -> None:
    """All words that YAML 1.1 takes for booleans are accepted."""
    assert units.parse_boolean(text) is expected


HOSTILE = [
    "", " ", "-1", "+1", "1e999", "nan", "inf", "infinity", "0x10", "1" * 5000, "١٢", "1\x00", "1 2 x", "None", "1..2",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "parse",
    [
        units.parse_size,
        units.parse_percentage,
        units.parse_duration,
        units.parse_count,
        units.parse_boolean,
        units.parse_number,
    ],
)
def test_only_plain_numbers_are_accepted(parse: Callable[[str], object], text: str) -> None:
    """Signs, exponents, infinities, foreign digits and very long numbers are refused with the expected form."""
    with pytest.raises(ValueError, match=r"^expected "):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (units.parse_size, "512MB"),
        (units.parse_size, "512iB"),
        (units.parse_size, "0.3k"),
        (units.parse_size, "99999999T"),
        (units.parse_percentage, "10"),
        (units.parse_percentage, "0.1"),
        (units.parse_percentage, "101%"),
        (units.parse_duration, "5 parsecs"),
        (units.parse_duration, "5S"),
        (units.parse_duration, "101y"),
        (units.parse_duration, "1h -5min"),
        (units.parse_count, "010"),
        (units.parse_count, "1_0"),
        (units.parse_count, "1,000"),
        (units.parse_count, "1.5"),
        (units.parse_count, str(2**53 + 1)),
        (units.parse_number, "1_5"),
        (units.parse_boolean, "1"),
    ],
)
def test_ambiguous_and_out_of_range_values_are_refused(parse: Callable[[str], object], text: str) -> None:
    """`MB`, a bare percentage, a leading zero and the like are refused."""
    with pytest.raises(ValueError, match=r"^expected "):
        parse(text)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (units.format_bytes(0), "0 B"),
        (units.format_bytes(1023), "1023 B"),
        (units.format_bytes(512 * MIB), "512 MiB"),
        (units.format_bytes(1.5 * 2**30), "1.5 GiB"),
        (units.format_bytes(2**30 - 1), "1 GiB"),
        (units.format_bytes(-2048), "-2 KiB"),
        (units.format_bytes(2**60), "1 EiB"),
        (units.format_bytes(float("inf")), "inf"),
        (units.format_duration(0), "0s"),
        (units.format_duration(0.2), "200ms"),
        (units.format_duration(5400), "1h 30min"),
        (units.format_duration(59.9999999), "1min"),
        (units.format_duration(3599.9), "1h"),
        (units.format_duration(86400 * 400), "400d"),
        (units.format_duration(90061.5, parts=4), "1d 1h 1min 2s"),
        (units.format_duration(-90), "-1min 30s"),
        (units.format_duration(float("inf")), "inf"),
        (units.format_percentage(0.1), "10%"),
        (units.format_percentage(0.025), "2.5%"),
        (units.format_size(1000), "1000"),
        (units.format_size(512 * MIB), "512MiB"),
    ],
)
def test_formats_for_people(printed: str, expected: str) -> None:
    """Figures have a unit and are rounded, never to 1024.0 or 60s."""
    assert printed == expected


@given(st.integers(0, units.MOST_BYTES))
def test_a_size_reads_back(count: int) -> None:
    """`parse_size` reverses `format_size`."""
    assert units.parse_size(units.format_size(count)) == count


@given(st.integers(0, 10**15))
def test_a_duration_reads_back(microseconds: int) -> None:
    """With all its parts, a duration reads back to the microsecond."""
    printed = units.format_duration(microseconds / 1_000_000, parts=6)
    assert round(units.parse_duration(printed) * 1_000_000) == microseconds


@given(st.integers(0, 10_000))
def test_a_percentage_reads_back(hundredths: int) -> None:
    """`parse_percentage` reverses `format_percentage`."""
    fraction = units.parse_percentage(f"{hundredths / 100}%")
    assert units.parse_percentage(units.format_percentage(fraction)) == fraction


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1970-01-01 00:00:00 UTC"), (253_402_300_799.9, "9999-12-31 23:59:59 UTC"), (253_402_300_800.0, "@253402300800"),
     (-1.0, "@-1"), (float("inf"), "@inf"), (float("nan"), "@nan")],
)  # fmt: skip
def test_any_wall_time_has_a_text(seconds: float, text: str) -> None:
    """A journal may hold impossible ones."""
    assert units.utc(seconds) == text
    assert units.rfc3339(seconds).startswith(text[:10])
