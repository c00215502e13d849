"""Points in time: journalctl's grammar, checked against systemd itself, and RFC 3339."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conntrackd_guard.cli.timespec import parse_time

NOW = datetime(2026, 11, 23, 11, 16, 14, tzinfo=UTC).timestamp()
PLUS_TWO = timezone(timedelta(hours=2))


def at(*parts: int, zone: tzinfo = UTC) -> float:
    """Return a time in seconds."""
    return datetime(*parts, tzinfo=zone).timestamp()  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("today", at(2026, 11, 23, zone=PLUS_TWO)),
        ("yesterday", at(2026, 11, 22, zone=PLUS_TWO)),
        ("tomorrow", at(2026, 11, 24, zone=PLUS_TWO)),
        ("today UTC", at(2026, 11, 23)),
        ("2026-11-01", at(2026, 11, 1, zone=PLUS_TWO)),
        ("26-11-01", at(2026, 11, 1, zone=PLUS_TWO)),
        ("Sun 2026-11-01", at(2026, 11, 1, zone=PLUS_TWO)),
        ("2026-11-01 10:00", at(2026, 11, 1, 10, zone=PLUS_TWO)),
        ("2026-11-1 9:5", at(2026, 11, 1, 9, 5, zone=PLUS_TWO)),
        ("Sunday, 2026-11-01 10:00:07", at(2026, 11, 1, 10, 0, 7, zone=PLUS_TWO)),
        ("2026-11-01 10:00 UTC", at(2026, 11, 1, 10)),
        ("2026-11-01T10:00:00Z", at(2026, 11, 1, 10)),
        ("2026-11-01T10:00:00.25Z", at(2026, 11, 1, 10) + 0.25),
        ("2026-11-01T10:00:00+05:30", at(2026, 11, 1, 4, 30)),
        ("2026-11-01 10:00:00-01:00", at(2026, 11, 1, 11)),
        ("2026-11-01T10:00", at(2026, 11, 1, 10, zone=PLUS_TWO)),
        ("10:00", at(2026, 11, 23, 10, zone=PLUS_TWO)),
        ("10:00:60", at(2026, 11, 23, 10, 1, zone=PLUS_TWO)),
        ("-1h", NOW - 3600),
        ("+5min", NOW + 300),
        ("2h 30min ago", NOW - 9000),
        ("5min left", NOW + 300),
        ("@1700000000", 1700000000.0),
        ("@1700000000.5", 1700000000.5),
        ("  -1h  ", NOW - 3600),
        ("-90y", 0.0),
    ],
)
def test_read(text: str, expected: float) -> None:
    """Each form gives its time; a form without a zone uses the zone passed in."""
    assert parse_time(text, now_seconds=NOW, zone=PLUS_TWO) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "ago", "soon", "NOW", "yesterday 10:00", "2026-13-01", "2026-02-30", "Mon 2026-11-01", "Mon", "24:00",
        "10:60", "10:00:61", "10", "2026-11-0110:00", "@", "@-5", "@1e9", "@nan", "@" + "9" * 40, "+", "-",
        "--1h",
        "-1h ago", "+1h left", "+1h ago", "-1parsec", "1h", "2026-11-01T", "T10:00", "2026-11-01 10:00+2500",
        "+9999999y", "@999999999999", "Z",
        "9999-12-31 23:59",
        "10:00Zulu", "٢٠٢٦-11-01",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    """Any other text raises ValueError with examples."""
    with pytest.raises(ValueError, match=r"^expected a time such as"):
        parse_time(text, now_seconds=NOW, zone=UTC)


ABSOLUTE = ["2026-11-01", "2026-07-01 10:00", "12-11-23", "Sun 2026-11-01 10:00:09.5", "@1700000000.25",
            "2026-11-1 9:5", "2026-11-01 10:00 UTC", "1970-01-02"]  # fmt: skip
RELATIVE = ["now", "today", "yesterday", "tomorrow", "tomorrow UTC", "10:00", "00:00:01 UTC", "-1h", "+5min",
            "2h 30min ago", "1month ago", "5", "-1.5h", "- 1h", "1 week ago"]  # fmt: skip


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/St_Johns"])
@pytest.mark.parametrize("text", [*ABSOLUTE, *RELATIVE])
def test_agrees_with_systemd(text: str, name: str) -> None:
    """`systemd-analyze timestamp` gives the same second, in zones with and without summer time."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: times were NOT compared with systemd")
    try:
        zone = ZoneInfo(name)
    except ZoneInfoNotFoundError:
        pytest.skip(f"no time zone data for {name} (package tzdata): times in it were NOT compared with systemd")
    before = datetime.now(UTC).timestamp()
    ran = subprocess.run(
        ["systemd-analyze", "timestamp", "--", text],
        capture_output=True, text=True, check=False, env={"TZ": name, "LC_ALL": "C"},
    )  # fmt: skip
    theirs = re.search(r"UNIX seconds: @([0-9.]+)", ran.stdout)
    if theirs is None:
        with pytest.raises(ValueError, match=r"^expected"):
            parse_time(text, now_seconds=before, zone=zone)
    else:
        assert parse_time(text, now_seconds=before, zone=zone) == pytest.approx(float(theirs[1]), abs=5)


def test_an_hour_that_repeats() -> None:
    """When summer time ends, the first of the two hours counts, so that `--since` leaves nothing out."""
    try:
        zone = ZoneInfo("Europe/Berlin")
    except ZoneInfoNotFoundError:
        pytest.skip("no time zone data (package tzdata): the hour that comes twice was NOT tested")
    assert parse_time("2026-10-25 02:30", now_seconds=NOW, zone=zone) == at(2026, 10, 25, 0, 30)


@given(st.integers(0, 4_000_000_000), st.sampled_from([UTC, PLUS_TWO, timezone(timedelta(hours=-9, minutes=-30))]))
def test_a_printed_time_reads_back(seconds: int, zone: tzinfo) -> None:
    """An RFC 3339 time, as history prints it, is read as the same time."""
    printed = datetime.fromtimestamp(seconds, zone).isoformat()
    assert parse_time(printed, now_seconds=NOW, zone=UTC) == seconds
