"""The real systemd-sysctl and procps in a root of their own, without /proc: what they write lands in plain files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from conntrackd_guard.core.sysctl_precedence import FOLDERS, Tool

PROGRAMS = {
    Tool.SYSTEMD: ("/usr/lib/systemd/systemd-sysctl",),
    Tool.PROCPS: ("/usr/sbin/sysctl", "--system"),
}
UNTOUCHED = "000000"


class SysctlRoot:
    """A root with both programs, the libraries they need, and a limit that is a file; its alias is a link to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("lib", "lib64", "bin", "sbin"):
            (root / "usr" / folder).mkdir(parents=True)
            (root / folder).symlink_to(f"usr/{folder}")
        for program, *_ in PROGRAMS.values():
            listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
            for path in (program, *re.findall(r"/\S+", listed)):
                inside = root / path.lstrip("/")
                inside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, inside)
        (root / "dev").mkdir()
        (root / "dev/null").touch()
        self._limit = root / "proc/sys/net/netfilter/nf_conntrack_max"
        self._limit.parent.mkdir(parents=True)
        (root / "proc/sys/net/nf_conntrack_max").symlink_to("netfilter/nf_conntrack_max")

    def clear(self) -> None:
        """Remove every sysctl file."""
        for folder in FOLDERS[:-1]:  # the last is the one before it, by way of /lib
            shutil.rmtree(self.root / folder.lstrip("/"), ignore_errors=True)
            (self.root / folder.lstrip("/")).mkdir(parents=True)
        (self.root / "etc/sysctl.conf").unlink(missing_ok=True)

    def put(self, path: str, content: str | None) -> None:
        """Write a file; None makes it a link to /dev/null."""
        file = self.root / path.lstrip("/")
        if content is None:
            file.symlink_to("/dev/null")
        else:
            file.write_bytes(content.encode())

    def limit_after(self, tool: Tool) -> str | None:
        """Return what the program leaves in the limit, None where it leaves it alone."""
        self._limit.write_text(UNTOUCHED, encoding="ascii")
        assert not (self.root / "proc/self").exists(), "no real /proc may be in reach"
        subprocess.run(["chroot", str(self.root), *PROGRAMS[tool]], capture_output=True, check=False)
        found = self._limit.read_text(encoding="ascii").strip()
        return None if found == UNTOUCHED else found


def why_not() -> str:
    """Return why the programs can't be asked here, "" where they can."""
    if os.geteuid() != 0:
        return "needs root for chroot: systemd-sysctl and procps were NOT asked"
    missing = [program for program, *_ in PROGRAMS.values() if not os.access(program, os.X_OK)]
    return f"{missing[0]} is missing: the program was NOT asked" if missing else ""
