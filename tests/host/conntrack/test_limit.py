"""The sysctls of the limit and the buckets: read as the kernel reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host.conntrack.limit import Sysctl


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
    path = tmp_path / "nf_conntrack_max"
    path.write_text(shown)
    assert Sysctl(path).read() == number


@pytest.mark.parametrize("shown", ["", "many\n", "4294967296\n", "-2147483649\n", "1 2\n", "1.5\n"])
def test_what_the_kernel_never_shows_is_unreadable(tmp_path: Path, shown: str) -> None:
    """The error names the file."""
    path = tmp_path / "nf_conntrack_max"
    path.write_text(shown)
    with pytest.raises(HostError, match=f"Can't read {path}: unexpected content"):
        Sysctl(path).read()
