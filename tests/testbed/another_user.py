"""Runs a program of the guard as a user without any rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NOBODY = 65534
_REPOSITORY = Path(__file__).resolve().parents[2]
_DROPS = """
import os
os.setgroups([]); os.setgid({group}); os.setuid({user})
"""


def run_as_another(
    program: str, *arguments: str, tmp_path: Path, group: int = NOBODY
) -> subprocess.CompletedProcess[str]:
    """Run Python text as nobody; `tmp_path` is opened to everybody, and lends it a copy of the guard.

    The checkout itself may lie in a home that only its owner may enter.
    """
    levels = 3 if "PYTEST_XDIST_WORKER" in os.environ else 2  # pytest makes them for the user that runs it alone
    for folder in (tmp_path, *list(tmp_path.parents)[:levels]):
        folder.chmod(0o755)
    lent = tmp_path / "lent"
    package = lent / "conntrackd_guard"
    if not lent.exists():
        shutil.copytree(_REPOSITORY / package.name, package, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (lent, package, *package.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    return subprocess.run(
        [sys.executable, "-c", _DROPS.format(group=group, user=NOBODY) + program, *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(lent), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
