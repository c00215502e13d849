"""The main loop never waits for the disk that Python's modules are on, and needs none of them later."""

from __future__ import annotations

import subprocess
import sys

from testbed.private_world import REPOSITORY

_SCRIPT = """\
import os, sys
from contextlib import suppress
from pathlib import Path
import conntrackd_guard.daemon.import_stubs
import conntrackd_guard.daemon.service
from conntrackd_guard.core.text import printable
from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.setns import run_in_netns

before = {*sys.modules}
printable("\\x1b\\u202e\\udcff")
number = os.stat("/proc/self/ns/net").st_ino
netns = NetNamespace(key=0, namespace=number, label="x", enter="/proc/self/ns/net")
with suppress(PermissionError):
    run_in_netns(netns, os.getpid)
with suppress(OSError):
    files.read(Path("/nowhere"))
with suppress(ValueError):
    files.parse_json(b"[" * 100_000)
print(*sorted({*sys.modules} - before))
"""


def test_nothing_is_imported_after_the_start() -> None:
    """Not for a name with escapes, a namespace that has to be entered, or a file that can't be read."""
    found = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
