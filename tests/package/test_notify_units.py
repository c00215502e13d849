"""Check the two units that run the `notify` command with systemd's own tools."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"
MOST_EXPOSURE = 17
"""In tenths: 0.9 for the network, 0.4 for root, 0.1 for code that is compiled at run time."""


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Return copies of the units that start a command of this host."""
    for path in UNITS.glob("*-notify.*"):
        text = path.read_text(encoding="utf-8").replace("/usr/bin/conntrackd-guard", "/bin/true")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    return sorted(map(str, tmp_path.iterdir()))


def test_systemd_accepts_every_directive(units: list[str]) -> None:
    """No directive is unknown, and the path unit finds its service."""
    assert len(units) == 2
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_is_confined(units: list[str]) -> None:
    """`systemd-analyze security` rates the unit below the threshold."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", units[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_many_decisions_do_not_stop_the_path_unit() -> None:
    """The service has no start limit: exceeding one would stop the path unit permanently."""
    service = (UNITS / "conntrackd-guard-notify.service").read_text(encoding="utf-8")
    assert re.search(r"(?m)^StartLimitIntervalSec=0$", service)
    assert "Wants=conntrackd-guard-notify.path" in (UNITS / "conntrackd-guard.service").read_text(encoding="utf-8")
