"""A culprit is named on evidence of time and value, else `unknown`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conntrackd_guard.host.culprit import attribute_change

TICKS = os.sysconf("SC_CLK_TCK")
SEEN = 5_000.0
"""When the change was seen, in seconds since boot."""
LIMIT = 262_144


def kube_proxy(root: Path, started: float, per_core: int) -> None:
    """Have a kube-proxy that started then and sets so many a core."""
    folder = root / "proc/812"
    folder.mkdir(parents=True)
    (folder / "comm").write_text("kube-proxy\n")
    (folder / "cmdline").write_text(f"kube-proxy\0--conntrack-max-per-core={per_core}\0--conntrack-min=1\0")
    (folder / "stat").write_text(f"812 (kube) proxy) S {' '.join('0' * 18)} {int(started * TICKS)} 0 0\n")


@pytest.mark.parametrize(
    ("started", "value", "named"),
    [
        (SEEN - 3, LIMIT, True),
        (SEEN - 59, LIMIT, True),
        (SEEN - 61, LIMIT, False),  # too long ago: something else has set it since
        (SEEN + 30, LIMIT, False),  # it was not there yet
        (SEEN - 3, LIMIT + (os.cpu_count() or 1), False),  # it sets another value
    ],
)
def test_a_program_needs_time_and_value(tmp_path: Path, started: float, value: int, *, named: bool) -> None:
    """Only a program that started just before and sets this very value is named."""
    cores = os.cpu_count() or 1
    kube_proxy(tmp_path, started, value // cores)
    told = attribute_change(tmp_path, LIMIT, SEEN)
    assert ("kube-proxy runs (process 812)" in told) is named
    assert (told == "unknown") is not named


def test_a_file_needs_the_value(tmp_path: Path) -> None:
    """A sysctl file that holds the value is named with its line; our own, and one with another value, are not."""
    folder = tmp_path / "etc/sysctl.d"
    folder.mkdir(parents=True)
    (folder / "50-old.conf").write_text("net.netfilter.nf_conntrack_max = 1\n")
    (folder / "99-zz-conntrackd-guard.conf").write_text(f"net.netfilter.nf_conntrack_max = {LIMIT}\n")
    assert attribute_change(tmp_path, LIMIT, SEEN) == "unknown"
    (folder / "90-net\x1b[2J.conf").write_text(f"# ours\nnet.nf_conntrack_max={LIMIT}\n")
    assert attribute_change(tmp_path, LIMIT, SEEN) == f"{tmp_path}/etc/sysctl.d/90-net\\x1b[2J.conf:2 holds this value"


def test_nothing_found_is_unknown(tmp_path: Path) -> None:
    """A bare tree names nobody."""
    assert attribute_change(tmp_path, LIMIT, SEEN) == "unknown"
