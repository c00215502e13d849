"""The daemon as a process of its own, on a made-up host."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from testbed.guarded import Host
from testbed.private_world import REPOSITORY

_RUN = """\
import sys
from pathlib import Path
from conntrackd_guard.cli.main import main
from conntrackd_guard.host.conntrack import owner_helper
from conntrackd_guard.host.paths import Paths
owner_helper._user_owned = lambda _: False  # its namespaces are files
sys.exit(main(["run", "--log-format", "json"], Paths(Path(sys.argv[1]))))
"""
_DEADLINE_SECONDS = 8.0


class RunningDaemon:
    """`guard run`, as root, until the end of a `with`."""

    def __init__(self, host: Host) -> None:
        self._log = (host.root / "log").open("w+")
        self._log_path = host.root / "log"
        arguments = [sys.executable, "-c", _RUN, str(host.root)]
        self.process = subprocess.Popen(arguments, stderr=self._log, stdin=subprocess.DEVNULL, cwd=REPOSITORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()

    def logged(self, event: str = "") -> list[str]:
        """Return the messages so far, of one event or of all."""
        lines = [json.loads(line) for line in self._log_path.read_text().splitlines() if line.startswith("{")]
        return [line["message"] for line in lines if event in {"", line["event"]}]

    def until(self, found: Callable[[], Any], what: str) -> Any:
        """Wait until `found` returns something. Fails with the log if the process ends first, or in time."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not (result := found()):
            assert self.process.poll() is None, f"ended with {self.process.poll()}:\n{self._log_path.read_text()}"
            assert time.monotonic() < deadline, f"no {what}:\n{self._log_path.read_text()}"
            time.sleep(0.02)
        return result

    def ready(self) -> None:
        """Wait until it watches."""
        self.until(lambda: self.logged("guard.ready"), "guard.ready")

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_DEADLINE_SECONDS)
