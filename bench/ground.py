"""Shared by all rows: the compiled tools, the borrowed limit, the private journald, scratch namespaces."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from testbed.limit_guard import LimitGuard
from testbed.scratch_namespace import ScratchNamespace

_SOURCES = Path(__file__).parent / "c"
_JOURNALD = "/lib/systemd/systemd-journald"
_JOURNALD_SETTINGS = """[Journal]
Storage=persistent
Compress=no
Audit=no
RateLimitIntervalSec=0
SystemMaxUse=2G
SystemKeepFree=1M
SystemMaxFileSize=128M
"""
"""No rate limit: the rows exceed it. `Audit=no`: newer versions enable kernel auditing otherwise."""


class Ground:
    """Tools, limit and journald of one run, inside the sandbox. Raises CalledProcessError when gcc fails."""

    def __init__(self, limit_guard: LimitGuard) -> None:
        self.limit_guard = limit_guard
        self.folder = Path("/run/bench")
        self.folder.mkdir()
        self.packets = itertools.count()
        """Of `overflow`: each has another phase."""
        for source in sorted(_SOURCES.glob("*.c")):
            subprocess.run(["gcc", "-O2", "-o", str(self.tool(source.stem)), str(source)], check=True)
        self.journald = self._start_journald()

    def tool(self, name: str) -> Path:
        """Return the path of the compiled `name`.c."""
        return self.folder / name

    @contextlib.contextmanager
    def scratch(self) -> Iterator[ScratchNamespace]:
        """Make a tracking namespace that may hold entries while the limit is lowered; empty it at the end."""
        with ScratchNamespace() as namespace:
            self.limit_guard.own(namespace.number)
            try:
                yield namespace
            finally:
                self.flush(namespace)

    def enter(self, namespace: ScratchNamespace, *command: str) -> str:
        """Run `command` inside `namespace` and return what it printed. Raises CalledProcessError when it fails."""
        full = ["nsenter", f"--net=/proc/{namespace.pid}/ns/net", *command]
        return subprocess.run(full, check=True, stdout=subprocess.PIPE, text=True).stdout

    def flows(
        self, namespace: ScratchNamespace, first: int, count: int, rate: float = 0, probes: int = 0
    ) -> list[float]:
        """Add assured flows; return how many were refused, how many probe packets dropped, and the seconds it took."""
        arguments = (str(number) for number in (first, count, rate, probes))
        return [float(word) for word in self.enter(namespace, str(self.tool("flows")), *arguments).split()]

    def flush(self, namespace: ScratchNamespace) -> None:
        """Remove every entry of `namespace`."""
        command = ["nsenter", f"--net=/proc/{namespace.pid}/ns/net", "conntrack", "-F"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    def _start_journald(self) -> subprocess.Popen[bytes]:
        """Start a private journald, which reads the real ring buffer."""
        Path("/etc/systemd").mkdir(exist_ok=True)
        Path("/etc/systemd/journald.conf").write_text(_JOURNALD_SETTINGS, "utf-8")
        Path("/run/systemd/journal").mkdir(parents=True)
        Path("/run/systemd/journal/flushed").touch()  # else it keeps to /run/log
        if not Path("/etc/machine-id").is_file():
            Path("/etc/machine-id").write_text(os.urandom(16).hex() + "\n", "ascii")
        process = subprocess.Popen([_JOURNALD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: any(Path("/var/log/journal").glob("*/system.journal")), "journald to open its file")
        return process


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 15.0, look_seconds: float = 0.02) -> None:
    """Return when `holds()` is true, called every `look_seconds`. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(look_seconds)


def memory_available_mib() -> int:
    """Return the memory that is available without swapping."""
    rows = Path("/proc/meminfo").read_text("ascii").splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("MemAvailable:")) // 1024


def progress(text: str) -> None:
    """Print progress to standard error; standard output has the table only."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
