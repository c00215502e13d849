"""The constants that depend on a setting."""

from __future__ import annotations

import pytest

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.tuning import cooldown_seconds


@pytest.mark.parametrize(("setting", "full", "expected"), [(2.0, False, 2.0), (2.0, True, 0.2), (0.1, True, 0.1)])
def test_the_cooldown_is_shorter_while_a_table_is_full(setting: float, expected: float, *, full: bool) -> None:
    """At most 200 ms, and never more than `cooldown`."""
    assert cooldown_seconds(Policy(cooldown_seconds=setting), full=full) == expected
