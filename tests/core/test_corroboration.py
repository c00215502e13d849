"""Is it true? What the tables say of a kernel line, as a table."""

from __future__ import annotations

import pytest
from testbed.hosts import LIMIT, OTHER, WEB, host, line, table

from conntrackd_guard.core.corroboration import corroborate, named_tables
from conntrackd_guard.core.model import Corroboration, Observation

CONFIRMED, CONTRADICTED, UNKNOWN = Corroboration.CONFIRMED, Corroboration.CONTRADICTED, Corroboration.UNKNOWN


@pytest.mark.parametrize(
    ("namespace", "seen", "truth"),
    [
        (WEB, host(table(LIMIT)), CONFIRMED),
        (WEB, host(table(LIMIT + 1)), CONFIRMED),  # for a moment a full table reads one more
        (WEB, host(table(235_930)), CONFIRMED),  # 90 % of 262,144 is 235,929.6
        (WEB, host(table(235_929)), CONTRADICTED),
        (WEB, host(table(10, dropped=1)), CONFIRMED),
        # a line that names its namespace is judged by that table alone
        (WEB, host(table(10), table(LIMIT, OTHER)), CONTRADICTED),
        (WEB, host(table(10), complete=False), CONTRADICTED),
        (WEB, host(table(10, dropped=None)), UNKNOWN),  # too new to compare
        (WEB, host(table(LIMIT, dropped=None)), CONFIRMED),
        (WEB, host(table(LIMIT, OTHER)), UNKNOWN),  # gone
        (WEB, host(table(LIMIT, placed=False)), UNKNOWN),  # its number is not the kernel's
        # a line without a number may be any table's
        (None, host(table(10), table(LIMIT, OTHER)), CONFIRMED),
        (None, host(table(10), table(20, OTHER)), CONTRADICTED),
        (None, host(table(10), complete=False), UNKNOWN),
        (None, host(table(10), table(20, OTHER, dropped=None)), UNKNOWN),
        (None, host(table(10), table(LIMIT, OTHER), complete=False), CONFIRMED),
        (None, host(), CONTRADICTED),  # every tracking namespace was read, and none holds an entry
        # dry run: the limit in force is asked, not the rehearsed one
        (WEB, host(table(LIMIT), limit=4 * LIMIT, kernel_limit=LIMIT), CONFIRMED),
    ],
)
def test_what_the_tables_say(namespace: int | None, seen: Observation, truth: Corroboration) -> None:
    """Full or dropping confirms; read and neither contradicts; anything out of reach is unknown."""
    assert corroborate(line(namespace), seen) is truth


def test_a_line_names_one_table_at_most() -> None:
    """A line without a number names none, and an inode of /proc/PID/net/stat is no namespace number."""
    seen = host(table(1), table(2, OTHER))
    assert [found.namespace for found in named_tables(line(OTHER), seen)] == [OTHER]
    assert named_tables(line(None), seen) == ()
    assert named_tables(line(WEB), host(table(1, placed=False))) == ()
