"""Points in time as `journalctl --since` takes them (systemd.time(7)), and RFC 3339.

Pure: the current time and the time zone are arguments.
"""

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from conntrackd_guard.core.units import parse_duration, parse_number

EXPECTED = (
    "expected a time such as '2026-11-01 10:00', 10:00, yesterday, -1h, '2h 30min ago', @1793526000"
    " or 2026-11-01T10:00:00Z"
)

_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CENTURY_PIVOT = 69
"""Two digits mean 1969 to 2068, as for strptime(3) and so for journalctl."""

_POINT = re.compile(
    r"(?:(?P<weekday>[A-Za-z]+),?\s+)?"
    r"(?:(?P<year>[0-9]{4}|[0-9]{2})-(?P<month>[0-9]{1,2})-(?P<day>[0-9]{1,2}))?"
    r"(?P<between>T|\s+|)"
    r"(?:(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{1,2})(?::(?P<second>[0-9]{1,2}(?:\.[0-9]{1,9})?))?)?"
    r"(?P<zone>\s*Z|\s+UTC|\s*[+-][0-9]{2}:[0-9]{2})?"
)


def parse_time(text: str, *, now_seconds: float, zone: tzinfo) -> float:
    """Return seconds since 1970; `now_seconds` is the current time likewise, `zone` that of a time without one.

    Raises ValueError with a message about the expected forms. Times before 1970 become 1970.
    When summer time ends and an hour repeats, the first one counts.
    """
    try:
        seconds = max(0.0, _seconds(text.strip(), now_seconds, zone))
        datetime.fromtimestamp(seconds + 86_400, UTC)  # fails where no calendar reaches (year 9999), in any zone
    except (ValueError, OverflowError) as error:
        raise ValueError(EXPECTED) from error
    return seconds


def _seconds(text: str, now: float, zone: tzinfo) -> float:
    """Return seconds since 1970; any ValueError or OverflowError means that the text is none of the forms."""
    if text == "now":
        return now
    if text.startswith("@"):
        return parse_number(text[1:])
    for prefix, suffix, sign in (("+", "", 1), ("-", "", -1), ("", " left", 1), ("", " ago", -1)):
        if text.startswith(prefix) and text.endswith(suffix):
            return now + sign * parse_duration(text[len(prefix) : len(text) - len(suffix)])
    word, _, rest = text.partition(" ")
    if word in _DAYS and rest.strip() in ("", "UTC"):
        home = UTC if rest else zone
        day = datetime.fromtimestamp(now, home).date() + timedelta(days=_DAYS[word])
        return datetime.combine(day, time.min, home).timestamp()
    return _point(text, now, zone)


def _point(text: str, now: float, zone: tzinfo) -> float:
    """Return the seconds of a date, a time of day (today's), or both, with or without a weekday and a zone."""
    match = _POINT.fullmatch(text)
    if match is None:
        raise ValueError(text)
    has_date, has_time = match["year"] is not None, match["hour"] is not None
    if not (has_date or has_time) or bool(match["between"]) != (has_date and has_time):
        raise ValueError(text)
    home = zone
    if match["zone"]:
        named = match["zone"].strip()
        home = UTC if named in ("Z", "UTC") else datetime.strptime(named, "%z").tzinfo or zone
    day = datetime.fromtimestamp(now, home).date()
    if has_date:
        year = int(match["year"])
        if len(match["year"]) == 2:  # noqa: PLR2004
            year += 1900 if year >= _CENTURY_PIVOT else 2000
        day = date(year, int(match["month"]), int(match["day"]))
    weekday = _WEEKDAYS[day.weekday()]
    if match["weekday"] and match["weekday"].lower() not in (weekday, weekday[:3]):
        raise ValueError(text)
    second = float(match["second"] or 0)
    if second >= 61:  # noqa: PLR2004 - 60 is a leap second, which RFC 3339 and systemd accept
        raise ValueError(text)
    clock = time(int(match["hour"] or 0), int(match["minute"] or 0))
    return datetime.combine(day, clock, home).timestamp() + second
