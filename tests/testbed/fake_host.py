"""A host made of files, for what reads one through `Paths`."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conntrackd_guard.doctor import checks
from conntrackd_guard.doctor.verdicts import Check
from conntrackd_guard.history.database import History
from conntrackd_guard.host.paths import Paths
from testbed.crowded_host import HEADER, listing
from testbed.records import add, raised

BOOT = "f2a6c0de-0000-4000-8000-000000000000"
HEALTHY: dict[str, Any] = {
    "version": 1,
    "pid": 42,
    "mode": "act",
    "owners_read_by": "helper",
    "sources": {"ring_buffer": "following", "journal": "following", "notes": []},
    "recorder": {"trouble": [], "stuck_seconds": 0.0, "lost_lines": 0, "lost_holds": 0},
}


class FakeHost:
    """A healthy host on which the guard has raised the limit to 98,304, as files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(root)
        self.put("proc/sys/net/netfilter/nf_conntrack_max", "98304\n")
        self.put("proc/sys/net/netfilter/nf_conntrack_buckets", "65536\n")
        self.put("proc/sys/kernel/random/boot_id", f"{BOOT}\n")
        self.put("proc/1/comm", "systemd\n")
        self.put("proc/1/ns/net", "")
        (root / "proc/self").symlink_to("1")
        self.table(count=300, listed=300)
        self.put("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\nHugetlb: 0 kB\n")
        self.put("sys/kernel/slab/nf_conntrack/slab_size", "256\n")
        (root / "proc/locks").symlink_to("/proc/locks")  # where a real lock on the file below shows
        self.put("sys/module/nf_conntrack/parameters/hashsize", "65536\n")
        self.put("etc/sysctl.d/99-zz-conntrackd-guard.conf", "net.netfilter.nf_conntrack_max = 98304\n")
        self.put("run/conntrackd-guard/lock", "42\n")
        self.put("run/conntrackd-guard/status.json", json.dumps(HEALTHY))
        with History(self.paths.history, mode="writer") as history:
            add(history, raised("1", boot_id=BOOT, limit=65536))

    def put(self, path: str, content: str) -> Path:
        """Write a file and its folders."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def table(self, count: int, listed: int, allocated: int = 5000) -> None:
        """Have the initial table count so many entries, its listing show so many, and the slab cache hold so many objects."""
        self.put("proc/1/net/stat/nf_conntrack", f"{HEADER}{count % 2**32:08x} 0 0 0 0 0\n")
        self.put("proc/1/net/nf_conntrack", listing(listed))
        self.put("sys/kernel/slab/nf_conntrack/total_objects", f"{allocated} N0={allocated}\n")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the lock as a running guard does."""
        descriptor = os.open(self.paths.lock, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def examine(self, *, running: bool = True) -> dict[str, Check]:
        """Return every check by name."""
        if not running:
            return {check.name: check for check in checks.examine(self.paths).checks}
        with self.running():
            return self.examine(running=False)

    def verdicts(self) -> dict[str, str]:
        """Return the verdicts that are not good."""
        return {name: check.verdict.value for name, check in self.examine().items() if check.verdict.value != "good"}

    def everything(self) -> dict[str, tuple[object, ...]]:
        """Return each file and folder with its content, rights and time of change."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[str(path)] = (content, status.st_mode, status.st_mtime_ns, status.st_ino)
        return found
