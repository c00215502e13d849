"""Check the shipped units: their exposure, and that their comments and exit codes match the program."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from conntrackd_guard.cli.exits import Exit

FOLDER = Path(__file__).resolve().parents[2] / "systemd"
GUARD, AUDIT = FOLDER / "conntrackd-guard.service", FOLDER / "conntrackd-guard-audit.service"
MOST_EXPOSURE = 15
"""In tenths: a root service with one capability and the host's network (measured: 14)."""
FOR_ACTING = {"OOMScoreAdjust", "ManagedOOMPreference", "MemorySwapMax", "ReadWritePaths"}
"""Only the acting guard needs these, to write the limit and to notify."""
ITS_OWN = {
    "Description", "Documentation", "ExecStart", "StateDirectory", "RuntimeDirectory", "Wants", "CapabilityBoundingSet",
}  # fmt: skip


def directives(unit: Path) -> dict[str, list[str]]:
    """Return the values of every directive, in order."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?m)^(\w+)=(.*)$", unit.read_text(encoding="utf-8")):
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", [GUARD, AUDIT], ids=lambda unit: unit.stem)
def test_exposure_is_small(unit: Path) -> None:
    """`systemd-analyze security` rates each unit below the threshold."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_exposed_directive_is_explained() -> None:
    """A comment names each directive that systemd counts against the unit, or stands right above it."""
    command = ["systemd-analyze", "security", "--offline=true", "--json=short", str(GUARD)]
    points = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    exposed = {point["name"].partition("=")[0] for point in points if float(point["exposure"] or 0)}
    lines = GUARD.read_text(encoding="utf-8").splitlines()
    comments = " ".join(line for line in lines if line.startswith("#"))
    above = {line.partition("=")[0] for before, line in pairwise(lines) if before.startswith("#")}
    assert exposed
    assert {name for name in exposed - above if f"{name}=" not in comments} == set()


def test_the_audit_unit_hardens_like_the_guard_and_can_not_act() -> None:
    """Both units have the same hardening; the dry run can write its own directories only."""
    guard, audit = directives(GUARD), directives(AUDIT)
    assert {name for name in guard.keys() | audit.keys() if guard.get(name) != audit.get(name)} == FOR_ACTING | ITS_OWN
    assert not FOR_ACTING & audit.keys()
    assert not set(guard["CapabilityBoundingSet"]) & set(audit["CapabilityBoundingSet"])
    assert audit["ExecStart"] == [f"{guard['ExecStart'][0]} --dry-run"]
    assert audit["StateDirectory"] == audit["RuntimeDirectory"] == ["conntrackd-guard/dry-run"]


def test_errors_that_need_an_operator_are_not_restarted() -> None:
    """Exit codes that a restart can't fix prevent a restart."""
    (codes,) = directives(GUARD)["RestartPreventExitStatus"]
    assert {int(code) for code in codes.split()} == {Exit.USAGE, Exit.NOT_PERMITTED, Exit.BAD_SETTINGS}
