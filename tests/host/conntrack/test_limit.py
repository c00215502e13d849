"""The sysctls of the limit and the buckets: read as the kernel reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.paths import Paths


@pytest.mark.parametrize(
    ("shown", "number"),
    [
        ("65536\n", 65_536),
        ("0\n", 0),
        ("2147483647\n", 2_147_483_647),
        ("-1\n", 4_294_967_295),
        ("-2147483648\n", 2_147_483_648),
        ("4294967295\n", 4_294_967_295),  # shown unsigned
    ],
)
def test_a_number_is_unsigned(tmp_path: Path, shown: str, number: int) -> None:
    """Kernels that take negative limits show them so, and count with 32 bits."""
    path = Paths(tmp_path).limit
    path.parent.mkdir(parents=True)
    path.write_text(shown)
    assert LiveKernel(Paths(tmp_path)).limit() == number


@pytest.mark.parametrize("shown", ["", "many\n", "4294967296\n", "-2147483649\n", "1.5\n"])
def test_what_the_kernel_never_shows_is_unreadable(tmp_path: Path, shown: str) -> None:
    """The error names the file, unless the other name of the same variable can be read."""
    path = Paths(tmp_path).limit
    path.parent.mkdir(parents=True)
    path.write_text(shown)
    with pytest.raises(HostError, match=f"Can't read {path}: "):
        LiveKernel(Paths(tmp_path)).limit()
    alias = tmp_path / "proc/sys/net/nf_conntrack_max"
    alias.write_text("-1\n")
    assert LiveKernel(Paths(tmp_path)).limit() == 4_294_967_295
