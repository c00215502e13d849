"""Check the two units that write the drop-in with systemd's own tools."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.host.paths import Paths

UNITS = Path(__file__).resolve().parents[2] / "systemd"
MOST_EXPOSURE = 9
"""In tenths: 0.4 for root, and for the boot id in /proc (measured: 8)."""


def read(name: str) -> str:
    """Return a unit."""
    return (UNITS / name).read_text(encoding="utf-8")


def test_systemd_accepts_every_directive(tmp_path: Path) -> None:
    """No directive is unknown, and the path unit finds its service."""
    for path in UNITS.glob("*-persist.*"):
        text = path.read_text(encoding="utf-8").replace("/usr/bin/conntrackd-guard", "/bin/true")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    units = sorted(map(str, tmp_path.iterdir()))
    assert len(units) == 2
    command = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_confined() -> None:
    """`systemd-analyze security` rates the unit below the threshold."""
    unit = str(UNITS / "conntrackd-guard-persist.service")
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_only_the_service_may_write_sysctl_files() -> None:
    """It may write that folder and the guard's own under /run; no other unit may write the folder."""
    writable = {
        path.name: re.findall(r"(?m)^ReadWritePaths=(.*)$", path.read_text(encoding="utf-8"))
        for path in UNITS.iterdir()
    }
    paths = Paths()
    assert writable.pop("conntrackd-guard-persist.service") == [f"-+{paths.drop_in.parent}"]
    assert f"\nBindPaths=-{paths.run_folder}\n" in read("conntrackd-guard-persist.service")
    assert not [name for name, folders in writable.items() if "/etc" in " ".join(folders)]


def test_the_guard_and_the_path_unit_agree() -> None:
    """The guard wants the path unit, which waits for the file that the guard leaves; nothing limits the starts."""
    assert f"PathExists={Paths().drop_in_request}\n" in read("conntrackd-guard-persist.path")
    assert "\nBefore=conntrackd-guard.service\n" in read("conntrackd-guard-persist.path")
    assert "\nWants=conntrackd-guard-persist.path\n" in read("conntrackd-guard.service")
    service = read("conntrackd-guard-persist.service")
    assert "\nStartLimitIntervalSec=0\n" in service
    assert "\nExecStart=/usr/bin/conntrackd-guard persist\n" in service


def test_only_an_answered_request_is_not_started_again_later() -> None:
    """Python's own exit code is 1: with that the request stays, and the path unit would start the service in a loop."""
    service = read("conntrackd-guard-persist.service")
    assert f"\nRestart=on-failure\nRestartSec=5s\nRestartPreventExitStatus={int(Exit.NO)}\n" in service
