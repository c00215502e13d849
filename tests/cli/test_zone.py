"""The reader's time zone, also from a damaged /etc/localtime."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from testbed.private_world import REPOSITORY

from conntrackd_guard.cli.timespec import parse_time
from conntrackd_guard.cli.zone import HostZone

NOW = 1_793_526_000.0


@pytest.fixture(params=["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZoneInfo]:
    """The reader's zone, as Python reads it."""
    try:
        expected = ZoneInfo(request.param)
    except ZoneInfoNotFoundError:
        pytest.skip("no time zone data (package tzdata): zones were NOT compared")
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield expected
    monkeypatch.undo()
    time.tzset()


def test_times_agree_with_zoneinfo(zone: ZoneInfo) -> None:
    """Offsets, names and times of day, each hour of a year with its two changes."""
    for hour in range(0, 9000, 7):
        seconds = NOW + 3600 * hour
        here, there = datetime.fromtimestamp(seconds, HostZone()), datetime.fromtimestamp(seconds, zone)
        assert (here.isoformat(), here.tzname(), here.timestamp()) == (there.isoformat(), there.tzname(), seconds)


@pytest.mark.parametrize("text", ["2026-10-25 02:30", "2026-03-29 02:30", "yesterday", "10:00", "2026-07-01", "-1h"])
def test_options_agree_with_zoneinfo(zone: ZoneInfo, text: str) -> None:
    """An hour that repeats, one that is left out, and days."""
    assert parse_time(text, now_seconds=NOW, zone=HostZone()) == parse_time(text, now_seconds=NOW, zone=zone)


@pytest.mark.parametrize("damage", ["empty", "cut to its header", "zeros", "cut in its last line"])
def test_a_damaged_file_ends_nothing(tmp_path: Path, damage: str) -> None:
    """One without its last newline made `zoneinfo` read for ever."""
    healthy = Path("/usr/share/zoneinfo/Europe/Berlin")
    if not healthy.exists():
        pytest.skip("no time zone data (package tzdata): damaged files were NOT read")
    contents = {"empty": b"", "cut to its header": b"TZif2", "zeros": b"TZif2" + bytes(100)}
    (tmp_path / "zone").write_bytes(contents.get(damage, healthy.read_bytes()[:-3]))
    script = (
        "from conntrackd_guard.cli.zone import HostZone; from datetime import datetime; "
        "print(datetime.fromtimestamp(1e9, HostZone()).timestamp())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={"TZ": f":{tmp_path}/zone"}, capture_output=True, text=True, timeout=20,
        check=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.stdout == "1000000000.0\n"
