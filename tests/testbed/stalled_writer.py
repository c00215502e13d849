"""A process that writes the drop-in and stalls in the middle, as on a disk that does not answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conntrackd_guard.host.dropin_request import Persisted
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn

BOOT, LIMIT = "boot-1", 98_304
_FOLDER = Path(__file__).parents[1]


def start(root: Path, stalls_at: str, *decided_seconds: float) -> subprocess.Popen[bytes]:
    """Start a process that writes raises decided at these times, one after the other."""
    command = [sys.executable, "-m", "testbed.stalled_writer", str(root), stalls_at, *map(str, decided_seconds)]
    environment = os.environ | {"PYTHONPATH": f"{_FOLDER}:{_FOLDER.parent}"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


class StalledWriter:
    """Stalled once constructed, in the fsync of the file whose path ends with `stalls_at`."""

    def __init__(self, root: Path, stalls_at: str, decided_seconds: float) -> None:
        self._process = start(root, stalls_at, decided_seconds)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"stalled\n"

    def finish(self) -> None:
        """Let the write go on, and wait for its end."""
        self._process.communicate(b"\n")
        assert self._process.returncode == 0

    def kill(self) -> None:
        """Kill the process as it stands."""
        self._process.kill()
        self._process.communicate()


def _write(root: str, stalls_at: str, *decided_seconds: str) -> None:
    fsync = os.fsync

    def stalling(fd: Any) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(stalls_at):
            print("stalled", flush=True)  # noqa: T201 - to the process that waits for it
            sys.stdin.readline()
        fsync(fd)

    os.fsync = stalling
    persisted = Persisted(
        limit=LIMIT, limit_before=1, wall_seconds=0, decision="raise", memory_total_bytes=0, budget_bytes=0
    )
    for seconds in decided_seconds:
        SysctlDropIn(Paths(Path(root))).put(persisted, float(seconds))


if __name__ == "__main__":
    _write(*sys.argv[1:])
