"""Tables of known composition, in a namespace of their own on the real kernel. The limit is never touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner, NetNamespace
from conntrackd_guard.host.paths import Paths
from testbed.scratch_namespace import ScratchNamespace

_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
_ROOM = 65_536
"""Twice what the largest of these tables holds."""


def _why_not() -> str:
    if os.geteuid() != 0 or shutil.which("conntrack") is None or shutil.which("nft") is None:
        return "needs root, conntrack and nft"
    return "" if _MAX.exists() and int(_MAX.read_text("ascii")) >= _ROOM else "the kernel's tables have no room"


NEEDS_TABLES = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


def flow(  # noqa: PLR0913 - what a flow consists of
    protocol: str,
    source: str,
    destination: str,
    ports: tuple[int, int] | None,
    seconds: int,
    *more: str,
    answered_by: tuple[str, int] | None = None,
    answer_to: tuple[str, int] | None = None,
) -> str:
    """Return a line for `conntrack -R`; the answer's tuple is the mirror image unless NAT is to be seen."""
    sport, dport = ports or (0, 0)
    reply_source, reply_sport = answered_by or (destination, dport)
    reply_destination, reply_dport = answer_to or (source, sport)
    words = ["-A", "-s", source, "-d", destination, "-r", reply_source, "-q", reply_destination, "-p", protocol]
    if ports is not None:
        words += ["--sport", str(sport), "--dport", str(dport)]
        words += ["--reply-port-src", str(reply_sport), "--reply-port-dst", str(reply_dport)]
    return " ".join([*words, "-t", str(seconds), *more])


@contextmanager
def table_of(lines: Iterable[str]) -> Iterator[ScratchNamespace]:
    """Give a namespace whose table holds these flows and no others."""
    with ScratchNamespace() as namespace:
        subprocess.run(
            ["nsenter", f"--net=/proc/{namespace.pid}/ns/net", "conntrack", "-R", "-"],
            input="\n".join(lines) + "\n",
            stdout=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        yield namespace


def netns_of(namespace: ScratchNamespace) -> NetNamespace:
    """Return where the scan finds it."""
    return next(netns for netns in NamespaceScanner(Paths()).scan()[0] if namespace.pid in netns.pids)
