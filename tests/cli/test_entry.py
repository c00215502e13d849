"""The command as the shell starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
from conntrackd_guard.cli import main
main.main = lambda *_: print("262,144 → 393,216") or main.Exit.DONE
main.entry()
"""


def test_a_locale_without_arrows_and_bars_is_no_failure() -> None:
    """Characters that its encoding lacks become question marks."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"262,144 ? 393,216\n", b"")
