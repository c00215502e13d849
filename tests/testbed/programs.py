"""Processes of a made-up host that runs programs: what /proc shows of them."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
IDENTITY = "0123456789abcdef" * 4
POD = "0f1e2d3c-1111-4222-8333-444455556666"
IN_A_POD = f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{IDENTITY}.scope"
TASKS = "run/containerd/io.containerd.runtime.v2.task/k8s.io"


def put(path: Path, content: str) -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def process(  # noqa: PLR0913 - each is evidence
    root: Path,
    name: str,
    *words: str,
    pid: int = 701,
    started: float = 1.0,
    cgroup: str = IN_A_POD,
    uids: str = "0 0 0 0",
    network: str = "1",
) -> Path:
    """Make a running process with this command line and start (seconds since boot); return its folder.

    `uids` are the real, effective, saved and file system user id, `network` the process whose network namespace it is in.
    """
    folder = root / f"proc/{pid}"
    put(folder / "comm", f"{name}\n")
    put(folder / "cmdline", "".join(f"{word}\0" for word in words))
    put(folder / "stat", f"{pid} ({name}) x) S {' '.join('0' * 18)} {int(started * TICKS)} 0 0\n")
    tabbed = uids.replace(" ", "\t")
    put(folder / "status", f"Name:\t{name}\nUid:\t{tabbed}\nGid:\t0\t0\t0\t0\n")
    put(folder / "cgroup", f"0::{cgroup}\n")
    (root / f"proc/{network}/net/stat").mkdir(parents=True, exist_ok=True)
    for part in ("net", "ns"):
        if not (folder / part).is_symlink():
            (folder / part).symlink_to(f"../{network}/{part}")
    return folder
