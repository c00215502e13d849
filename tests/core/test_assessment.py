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
        # drops show a full table near the limit only: elsewhere they are lost races and failed allocations
        (WEB, host(table(209_716, dropped=1)), CONFIRMED),  # 80 % of 262,144 is 209,715.2
        (WEB, host(table(209_715, dropped=1)), CONTRADICTED),
        (WEB, host(table(10, dropped=1)), CONTRADICTED),
        (WEB, host(table(100_000), limit=16_384), CONFIRMED),  # lowered under it
        # a message that names its namespace is judged by that table alone
        (WEB, host(table(10), table(LIMIT, OTHER)), CONTRADICTED),
        (WEB, host(table(10), complete=False), CONTRADICTED),
        (WEB, host(table(10, dropped=None)), CONTRADICTED),  # without counters its count shows it
        (WEB, host(table(LIMIT, dropped=None)), CONFIRMED),
        (WEB, host(table(LIMIT, OTHER)), UNKNOWN),  # gone
        (WEB, host(table(LIMIT, placed=False)), UNKNOWN),  # its number is not the kernel's
        # a message without a number may be any table's
        (None, host(table(10), table(LIMIT, OTHER)), CONFIRMED),
        (None, host(table(10), table(20, OTHER)), CONTRADICTED),
        (None, host(table(10), complete=False), UNKNOWN),
        (None, host(table(10), table(20, OTHER, dropped=None)), CONTRADICTED),
        (None, host(table(10, dropped=60), table(LIMIT, OTHER)), CONFIRMED),
        (None, host(table(10), table(LIMIT, OTHER), complete=False), CONFIRMED),
        (None, host(), CONTRADICTED),  # every tracking namespace was read, and none holds an entry
        # dry run: the limit in force counts, not the rehearsed one
        (WEB, host(table(LIMIT), limit=4 * LIMIT, kernel_limit=LIMIT), CONFIRMED),
    ],
)
def test_corroboration(namespace: int | None, seen: Observation, truth: Corroboration) -> None:
    """Full then and there confirms; read and not full contradicts; anything out of reach is unknown."""
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
    """One that loses races at 5 % is not among them; one that fell a little since it dropped is."""
    seen = host(table(LIMIT), table(13_107, OTHER, dropped=3), table(220_000, 7, dropped=1))
    assert concerned(None, seen) == [WEB, 7]


def test_needy_tables() -> None:
    """The named table and those that press; a filling-up trigger keeps its own table 5 points longer."""
    one = table(200_000, demand_per_second=5_000.0)  # 76 %
    other = table(210_000, OTHER, demand_per_second=5_000.0)  # 80.1 %
    seen = host(one, other, table(10, 7))
    assert [found.namespace for found in assess(message(7), seen, Policy()).needy] == [OTHER, 7]
    assert [found.namespace for found in assess(PRESSURE, seen, Policy()).needy] == [WEB, OTHER]
    assert assess(PRESSURE, seen, Policy()).concerned == ()


@pytest.mark.parametrize(
    ("seen", "needy"),
    [
        (host(table(220_000)), False),
        (host(table(220_000, demand_per_second=5_000.0)), True),
        (host(table(220_000, burst_per_second=5_000.0)), False),  # one burst is no demand
        (host(table(220_000, dropped=1)), True),  # it stands at the limit, and fell a little since
        (host(table(LIMIT)), True),
    ],
)
def test_a_stable_table_is_charged_and_needs_nothing(seen: Observation, *, needy: bool) -> None:
    """Over the threshold without growth or drops there is no need; it is charged as full all the same."""
    case = assess(PRESSURE, seen, Policy())
    assert (case.is_pressing, bool(case.needy), case.charges.full) == (True, needy, 1)


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
