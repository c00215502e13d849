"""The facts about one trigger: corroboration, concerned and needy tables, floods."""

from __future__ import annotations

import pytest
from testbed.hosts import LIMIT, OTHER, PRESSURE, WEB, host, message, table

from conntrackd_guard.core.assessment import assess
from conntrackd_guard.core.configuration import FloodAction, FloodResponse, Policy
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
        # a message that names its namespace is judged by that table alone
        (WEB, host(table(10), table(LIMIT, OTHER)), CONTRADICTED),
        (WEB, host(table(10), complete=False), CONTRADICTED),
        (WEB, host(table(10, dropped=None)), UNKNOWN),  # too new to compare
        (WEB, host(table(LIMIT, dropped=None)), CONFIRMED),
        (WEB, host(table(LIMIT, OTHER)), UNKNOWN),  # gone
        (WEB, host(table(LIMIT, placed=False)), UNKNOWN),  # its number is not the kernel's
        # a message without a number may be any table's
        (None, host(table(10), table(LIMIT, OTHER)), CONFIRMED),
        (None, host(table(10), table(20, OTHER)), CONTRADICTED),
        (None, host(table(10), complete=False), UNKNOWN),
        (None, host(table(10), table(20, OTHER, dropped=None)), UNKNOWN),
        (None, host(table(10), table(LIMIT, OTHER), complete=False), CONFIRMED),
        (None, host(), CONTRADICTED),  # every tracking namespace was read, and none holds an entry
        # dry run: the limit in force counts, not the rehearsed one
        (WEB, host(table(LIMIT), limit=4 * LIMIT, kernel_limit=LIMIT), CONFIRMED),
    ],
)
def test_corroboration(namespace: int | None, seen: Observation, truth: Corroboration) -> None:
    """Full or dropping confirms; read and neither contradicts; anything out of reach is unknown."""
    assert assess(message(namespace), seen, Policy()).corroboration is truth


def concerned(namespace: int | None, seen: Observation) -> list[int]:
    """Return the namespaces of the tables that a message about `namespace` concerns."""
    return [found.namespace for found in assess(message(namespace), seen, Policy()).concerned]


def test_a_message_names_one_table_at_most() -> None:
    """A message without a number names none, and an inode of /proc/PID/net/stat is no namespace number."""
    seen = host(table(1), table(2, OTHER))
    assert concerned(OTHER, seen) == [OTHER]
    assert concerned(None, seen) == []
    assert concerned(WEB, host(table(1, placed=False))) == []


def test_a_message_without_a_number_concerns_every_full_table() -> None:
    """A table that dropped since the last raise counts as full."""
    assert concerned(None, host(table(LIMIT), table(5, OTHER, dropped=1), table(10, 7))) == [WEB, OTHER]


def test_needy_tables() -> None:
    """The named table and those over the threshold; a filling-up trigger keeps its own table 5 points longer."""
    seen = host(table(200_000), table(210_000, OTHER), table(10, 7))  # 76 %, 80.1 %
    assert [found.namespace for found in assess(message(7), seen, Policy()).needy] == [OTHER, 7]
    assert [found.namespace for found in assess(PRESSURE, seen, Policy()).needy] == [WEB, OTHER]
    assert assess(PRESSURE, seen, Policy()).concerned == ()


def test_user_namespaces_are_needy_but_not_trusted() -> None:
    """Their tables are charged, and their need doesn't count unless the policy trusts them."""
    seen = host(table(LIMIT, user_owned=True))
    assert (len(assess(message(), seen, Policy()).needy), assess(message(), seen, Policy()).trusted) == (1, ())
    assert len(assess(message(), seen, Policy(trust_user_namespaces=True)).trusted) == 1


@pytest.mark.parametrize(
    ("samples", "action", "flooded"),
    [
        ((True, True), FloodAction.HOLD, True),
        ((True, False), FloodAction.HOLD, False),  # one that is no flood needs the step as well
        ((True, None), FloodAction.HOLD, None),
        ((True, True), FloodAction.RAISE, False),  # needs no sample
    ],
)
def test_flooded(samples: tuple[bool | None, bool | None], action: FloodAction, *, flooded: bool | None) -> None:
    """A flood counts if it fills every trusted table; without a sample that can't be known."""
    one, other = samples
    seen = host(table(LIMIT, flooded=one), table(LIMIT, OTHER, flooded=other))
    assert assess(message(), seen, Policy(on_flood=FloodResponse(action=action))).flooded is flooded
