"""Any user can make namespaces, fill their tables and end them: that is one piece of news, whatever their number."""

from __future__ import annotations

import os

import pytest
from testbed.guarded import LIMIT, Guarded, Host, again

from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.policy import decide
from conntrackd_guard.history.details import detail
from conntrackd_guard.history.rows import evidence
from conntrackd_guard.host.conntrack import owner_helper

ROUNDS = 12
FULL = 40
"""More tables than a record names one by one."""


@pytest.fixture
def host(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose containers all belong to users; its own tables are never full."""
    monkeypatch.setattr(
        owner_helper,
        "_user_owned",
        lambda at: "/proc/1/" not in os.readlink(f"/proc/self/fd/{at}").removesuffix("ns/net"),
    )
    return host


def fill(guarded: Guarded, rounds: range) -> None:
    """In each round a user's new namespace is full and the kernel says so; then it drains, and ends."""
    for number in rounds:
        pid = str(1000 + number)
        guarded.host.namespace(pid, LIMIT)
        guarded.message((guarded.host.root / f"proc/{pid}/ns/net").stat().st_ino)
        guarded.turn(5.5)
        guarded.host.table(10, pid=pid)
        guarded.turn(11.0)
        guarded.host.end(pid, memory_is_kept=False)
    flush(guarded)


def flush(guarded: Guarded) -> None:
    """Have the repeats written that are counted in memory."""
    guarded.recorder.call(lambda worker: worker.history_writer.flush()).result(10.0)


def test_they_share_a_row_and_a_log_message(host: Host) -> None:
    """A row for each kind of hold, whatever the number of namespaces; it counts them and names the first few."""
    guarded = Guarded(host)
    fill(guarded, range(2))
    few = [(row.reason, row.trigger) for row in guarded.rows()]
    fill(guarded, range(2, ROUNDS))
    rows = guarded.rows()
    assert [(row.reason, row.trigger) for row in rows] == few
    first = next(row for row in rows if row.reason == HoldReason.UNTRUSTED_NAMESPACE.code)
    assert first.repeats >= ROUNDS
    assert first.last_seconds > first.at_seconds
    assert str(first.namespace) in first.sentence
    assert first.detail.startswith("also process 1001 (netns ")
    assert first.detail.endswith(" and more")
    messages = [line["message"] for line in guarded.logged("guard.hold")]
    assert len([text for text in messages if "user namespace" in text]) == 1
    assert guarded.logged("guard.incident_over") == []
    guarded.stop()


def test_a_restart_goes_on_with_the_row(host: Host) -> None:
    """Its count and its names stay."""
    guarded = Guarded(host)
    fill(guarded, range(3))
    guarded.stop()
    after = again(guarded)
    fill(after, range(3, 6))
    first = after.rows()[0]
    assert first.detail.count("netns") == 5
    assert "process 1001 " in first.detail
    assert "process 1004 " in first.detail
    after.stop()


def test_a_hold_for_a_trusted_table_stays_a_row_of_its_own(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of root's namespaces has its row and its log message."""
    monkeypatch.setattr(owner_helper, "_user_owned", lambda _: False)
    guarded = Guarded(host)
    guarded.controller.policy = guarded.policy.__class__(max_limit=LIMIT)
    for pid in ("200", "201"):
        host.namespace(pid, LIMIT) if pid == "201" else host.table(LIMIT, pid=pid)
        guarded.message((host.root / f"proc/{pid}/ns/net").stat().st_ino)
        guarded.turn(5.5)
    held = [row for row in guarded.rows() if row.reason == "at_ceiling" and row.trigger == "kernel_message"]
    assert len({row.namespace for row in held}) == 2
    guarded.stop()


def test_the_evidence_is_slim_and_decides_it_again(host: Host) -> None:
    """Beside 40 more full tables of users, all of which the kernel reports."""
    guarded = Guarded(host)
    for number in range(FULL):
        host.namespace(str(1000 + number), LIMIT + number)
    guarded.observer.observe(rescan=True)
    for number in range(FULL):
        guarded.message((host.root / f"proc/{1000 + number}/ns/net").stat().st_ino)
    guarded.turn(5.5)
    flush(guarded)
    with guarded.history() as history:
        (held,) = [
            row for row in history.rows() if row.reason == "untrusted_namespace" and row.trigger == "kernel_message"
        ]
        assert held.repeats == FULL
        found = detail(history, held.id)
        assert found is not None
        record = found.record
        assert decide(record.trigger, record.observation, record.state, found.policy) == record.decision
        assert sum(len(part or "") for part in evidence(record)) < 4096
        named = [table for table in record.observation.tables if table.user_owned]
        assert [table.namespace for table in named] == [held.namespace]
        seen = record.observation
        assert len(seen.tables) + seen.small_tables == FULL + 2 - seen.idle_tables
    guarded.stop()
