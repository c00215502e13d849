"""The two units that run the `notify` command, as systemd itself reads them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"
MOST_EXPOSURE = 17
"""In tenths. A command that speaks to the network costs 0.9, one that may be compiled as it runs 0.1, root 0.4."""


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units with a command that is installed here."""
    for path in UNITS.glob("*-notify.*"):
        text = path.read_text(encoding="utf-8").replace("/usr/bin/conntrackd-guard", "/bin/true")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    return sorted(map(str, tmp_path.iterdir()))


def test_systemd_understands_every_line(units: list[str]) -> None:
    """No directive is unknown or misspelt, and path and service find each other."""
    assert len(units) == 2
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_is_confined(units: list[str]) -> None:
    """What the command could do to this host stays little."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", units[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_the_path_unit_can_not_die_of_many_decisions() -> None:
    """A limit on starts would end it, for good, in the very storm that decisions come in."""
    service = (UNITS / "conntrackd-guard-notify.service").read_text(encoding="utf-8")
    assert re.search(r"(?m)^StartLimitIntervalSec=0$", service)
    assert "Wants=conntrackd-guard-notify.path" in (UNITS / "conntrackd-guard.service").read_text(encoding="utf-8")
