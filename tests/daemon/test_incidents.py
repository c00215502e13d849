"""The end of an incident is logged once; a raise in time is none."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host, again

from conntrackd_guard.core.configuration import Policy

STEP = 98_304
"""65,536 × 1.5."""


def over(guarded: Guarded) -> list[str]:
    """Return the messages that an incident is over."""
    guarded.written()
    return [line["message"] for line in guarded.logged("guard.incident_over")]


def quiet(guarded: Guarded, seconds: float, drop: int = 0) -> None:
    """Let the table be empty for a while."""
    guarded.host.table(10, drop=drop)
    for _ in range(int(seconds / 0.5)):
        guarded.turn(0.5)


def test_a_full_table_that_dropped_has_an_end(host: Host) -> None:
    """Table, how long, how many packets, the limit now: once, ten quiet seconds after the last need."""
    guarded = Guarded(host)
    guarded.turn()
    host.table(LIMIT, drop=100)
    guarded.message(host.initial)
    guarded.turn(0.25)
    for dropped in (150, 280):
        host.table(host.limit, drop=dropped)
        for _ in range(10):
            guarded.turn(0.25)
    assert over(guarded) == []
    raises = [row for row in guarded.rows() if row.verdict == "raise"]
    quiet(guarded, 60.0, drop=280)
    (text,) = over(guarded)
    assert text.startswith("Incident over: the initial namespace, ")
    assert f", 280 packets dropped. The limit is now {host.limit:,} ({len(raises)} raises from 65,536)." in text
    guarded.stop()


def test_a_hold_that_costs_connections_has_an_end_too(host: Host) -> None:
    """The reader of the warning learns that it is over, also when no packet was dropped in the end."""
    guarded = Guarded(host, Policy(max_limit=LIMIT))
    for _ in range(2):
        host.table(LIMIT - 100)
        for _ in range(10):
            guarded.turn(0.5)
        quiet(guarded, 30.0)
    texts = over(guarded)
    assert len(texts) == 2
    assert texts[0].endswith(", 0 packets dropped. The limit is still 65,536.")
    guarded.stop()


def test_a_raise_in_time_and_a_contradicted_message_have_no_end(host: Host) -> None:
    """The raise has its verification: no second line for what nobody noticed."""
    guarded = Guarded(host)
    host.table(LIMIT - 2000)
    for _ in range(10):
        guarded.turn(0.5)
    assert host.limit > LIMIT
    guarded.message()
    quiet(guarded, 30.0)
    assert over(guarded) == []
    guarded.stop()


@pytest.mark.parametrize("namespace", [None, "initial"])
def test_a_restart_forgets_it(host: Host, namespace: str | None) -> None:
    """A new process knows nothing of an incident, with or without a number in the message."""
    guarded = Guarded(host)
    host.table(LIMIT, drop=5)
    guarded.message(host.initial if namespace else None)
    guarded.turn()
    guarded.stop()
    second = again(guarded)
    quiet(second, 30.0, drop=5)
    assert over(second) == []
    second.stop()
