"""An incident from its first record to its end."""

from __future__ import annotations

from dataclasses import replace

from testbed.records import a_record, raised

from conntrackd_guard.core import incident
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import Hold, Outcome, OutcomeKind, Table

WEB = Table(namespace=4026532316, label="web", count=65536, drop=107, dropped=7)


def test_drops_are_counted_over_raises_and_wraps() -> None:
    """`Table.dropped` starts again with each raise, and the kernel's counter is 32 bits wide."""
    found = incident.on_record({}, raised("a", tables=(replace(WEB, drop=2**32 - 15),)))
    found = incident.on_tables(found, [replace(WEB, drop=2**32 - 5, dropped=0)])
    found = incident.on_tables(found, [replace(WEB, drop=3, dropped=0), replace(WEB, namespace=1)])
    (over,) = found.values()
    assert over.dropped == 7 + 10 + 8
    assert over.matters


def test_a_message_is_a_packet_at_least() -> None:
    """The counter may have risen before the table was first read; the kernel prints ten messages in 5 s at most."""
    (over,) = incident.on_record({}, raised("a", tables=(replace(WEB, dropped=0),))).values()
    assert over.matters
    assert ", at least 2 packets dropped." in incident.sentence(over, 98_304, 129.0, dry_run=False)
    (unread,) = incident.on_record({}, raised("a", tables=(replace(WEB, drop=None, dropped=None),))).values()
    assert unread.matters


def test_only_what_costs_connections_begins_one() -> None:
    """Not a refused write that was retried in time, a hold that time ends, another table's message, or the past."""
    calm = a_record("a", Hold(reason=HoldReason.COOLDOWN), tables=(WEB,))
    records = [
        calm,
        replace(calm, decision=Hold(reason=HoldReason.CONTRADICTED)),
        replace(raised("b", tables=(WEB,)), outcome=Outcome(kind=OutcomeKind.NOT_APPLIED)),
        raised("c", tables=(replace(WEB, namespace=5),)),
        replace(raised("d", tables=(WEB,)), trigger=replace(calm.trigger, live=False)),
        raised("e", tables=()),
    ]
    kept: incident.Incidents = {}
    for record in records:
        kept = incident.on_record(kept, record)
    assert [over.raises for over in kept.values() if over.matters and over.raises] == []
    assert {name for name, over in kept.items() if not over.is_held} == set()


def test_the_number_is_bounded() -> None:
    """Any user can create thousands of namespaces."""
    kept: incident.Incidents = {}
    for number in range(1, 1000):
        record = raised("a", tables=(replace(WEB, namespace=number),))
        kept = incident.on_record(kept, replace(record, trigger=replace(record.trigger, namespace=number)))
    assert len(kept) == incident._MOST


def test_the_sentence() -> None:
    """Of a raise, of a hold, of a dry run, and without a counter."""
    (over,) = incident.on_record({}, raised("a", tables=(WEB,))).values()
    name = "web (netns 4026532316)"
    assert incident.sentence(over, 98_304, 129.0, dry_run=False) == (
        f"Incident over: {name}, 1min 9s, 7 packets dropped. The limit is now 98,304 (1 raise from 65,536)."
    )
    twice = replace(over, raises=2, dropped=None)
    assert incident.sentence(twice, 98_304, 60.0, dry_run=True) == (
        f"Incident over: {name}, 1s, drops unknown. In the dry run the limit is now 98,304 (2 raises from 65,536)."
    )
    undone = incident.sentence(twice, 65_536, 129.0, dry_run=False)
    assert undone.endswith(", drops unknown. The limit is 65,536 again, after 2 raises.")
    held = replace(over, raises=0, is_held=True)
    assert incident.sentence(held, 65_536, 129.0, dry_run=False).endswith("dropped. The limit is still 65,536.")
