"""The limit as the kernel reads it: unsigned, and 0 is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conntrackd_guard.core.limits import (
    MODULUS,
    format_limit,
    is_lower,
    is_unlimited,
    lowest_accepted,
    signed,
)
from conntrackd_guard.core.model import INT_MAX

INT_MIN = -INT_MAX - 1
MINUS_ONE = MODULUS - 1
shown = st.integers(INT_MIN, INT_MAX)
"""What sysctl shows of a limit."""


@pytest.mark.parametrize(
    ("limit", "unlimited", "text"),
    [
        (1, False, "1"),
        (65_536, False, "65,536"),
        (INT_MAX, False, "2,147,483,647"),
        (0, True, "0 (unlimited)"),
        (MINUS_ONE, True, "-1 (unlimited)"),
        (INT_MAX + 1, True, f"{INT_MIN} (unlimited)"),
    ],
)
def test_what_is_unlimited(limit: int, text: str, *, unlimited: bool) -> None:
    """0, and all that sysctl shows as negative."""
    assert (is_unlimited(limit), format_limit(limit)) == (unlimited, text)


@given(shown, shown)
def test_lower_means_that_fewer_entries_fit(one: int, other: int) -> None:
    """The kernel drops at `limit && count > limit`, with unsigned numbers."""

    def fits(count: int, limit: int) -> bool:
        return not (limit % MODULUS and count > limit % MODULUS)

    assert signed(one % MODULUS) == one
    counts = (one % MODULUS, one % MODULUS + 1, other % MODULUS, other % MODULUS + 1, MODULUS + 1)
    fewer = any(fits(count, other) and not fits(count, one) for count in counts)
    assert is_lower(one % MODULUS, other % MODULUS) == fewer


@pytest.mark.parametrize(
    ("release", "limit", "lowest"),
    [
        ("5.10.0-32-cloud-amd64", 65_536, INT_MIN),
        ("6.1.0-40-amd64", 65_536, 0),
        ("6.12.57+deb13-amd64", 65_536, 0),
        ("7.2.1", 65_536, 1),
        ("10.0", None, 1),
        ("6.12.0", MINUS_ONE, INT_MIN),  # a value in force proves it
        ("7.3.4", 0, 0),
        ("odd", None, INT_MIN),
        ("", 65_536, INT_MIN),
    ],
)
def test_the_lowest_value_that_a_kernel_takes(release: str, limit: int | None, lowest: int) -> None:
    """By its release as measured, and by the limit in force."""
    assert lowest_accepted(release, limit) == lowest
