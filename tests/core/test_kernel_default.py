"""The limit that the kernel sets by itself, as a table of kernels, options and memory."""

from __future__ import annotations

import pytest

from conntrackd_guard.core.kernel_default import GIB, default_limit
from conntrackd_guard.core.model import LoadFacts


@pytest.mark.parametrize(
    ("release", "hashsize", "buckets", "memory", "limit"),
    [
        ("6.12.117+deb13-cloud-amd64", None, 8_192, GIB, 8_192),  # measured
        ("6.12.117", None, 262_144, 5 * GIB, 262_144),
        ("5.15.0-100-generic", None, 65_536, 2 * GIB, 65_536),
        ("", None, 65_536, 0, 65_536),
        ("6.12.0", None, 1_048_576, 64 * GIB, None),  # tuned's openshift profile: more buckets than a kernel chooses
        ("6.12.0", None, 0, 64 * GIB, None),
        ("6.12.0", 65_536, 65_536, 64 * GIB, 524_288),  # hashsize=65536
        ("6.12.0", 65_536, 262_144, 64 * GIB, 262_144),  # an option that was not in effect
        ("5.10.223", None, 8_192, GIB, 32_768),  # measured, as the next two
        ("5.10.223", None, 16_384, 2 * GIB, 65_536),
        ("5.10.223", None, 65_536, 5 * GIB, 262_144),
        ("5.10.223", None, 7_680, 1_003_520 << 10, 30_720),
        ("5.10.223", None, 73_728, 64 * GIB, None),  # kube-proxy on 9 cores
        ("5.10.223", None, 16_384, 64 * GIB, None),
        ("5.10.223", None, 262_144, 64 * GIB, None),
        ("5.10.223", 16_384, 16_384, 64 * GIB, 131_072),
        ("5.14.0-503.el9.x86_64", None, 262_144, 64 * GIB, 262_144),
        ("5.14.0-503.el9.x86_64", None, 65_536, 64 * GIB, 262_144),
        ("4.9.0", None, 65_536, 64 * GIB, 262_144),
    ],
)
def test_default_limit(release: str, hashsize: int | None, buckets: int, memory: int, limit: int | None) -> None:
    """Each kernel's factor, and only for buckets that this kernel chooses."""
    assert default_limit(LoadFacts(kernel_release=release, hashsize=hashsize), buckets, memory) == limit
