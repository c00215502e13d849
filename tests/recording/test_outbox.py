"""What a guard in a pod leaves for `guard events`: raises, holds for an operator, and its status."""

from __future__ import annotations

import json
import stat

from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core import cluster
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.host.notify_spool import MAX_QUEUED
from conntrackd_guard.host.outbox import Outbox


def in_a_pod(host: Host, policy: Policy) -> Guarded:
    """Return a guard whose pod has the volume."""
    guarded = Guarded(host, policy)
    outbox = Outbox(guarded.paths)
    outbox.folder.mkdir()
    guarded.recorder._worker.outbox = outbox
    return guarded


def full(guarded: Guarded) -> None:
    """Fill the table, and have the guard decide."""
    guarded.host.table(guarded.controller.limit or LIMIT)
    guarded.message(None)
    guarded.turn(1.0)
    guarded.written()


def events(guarded: Guarded) -> list[tuple[str, str]]:
    """Return type and reason of the Events that the decisions left make."""
    spool, found = Outbox(guarded.paths).decisions, []
    for file in spool.files():
        queued = spool.read(file)
        assert queued is not None
        event = cluster.event(queued.decision, file.removesuffix(".json"), "node", "pod")
        found.append((event["type"], event["reason"]))
    return found


def test_raises_and_holds_for_an_operator_are_left(host: Host) -> None:
    """Anyone in the pod may read them: the reader is not root. Repeats add nothing."""
    guarded = in_a_pod(host, Policy(max_limit=2 * LIMIT, raise_early=False))
    for _ in range(4):
        full(guarded)
        guarded.turn(60.0)
    assert events(guarded)[0] == ("Normal", "ConntrackLimitRaised")
    assert events(guarded)[-1] == ("Warning", "ConntrackAtCeiling")
    folder = Outbox(guarded.paths).decisions.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    assert guarded.recorder._worker.notices is None


def test_the_newest_are_kept(host: Host) -> None:
    """Nobody removes them: the oldest make room, and that is no fault."""
    guarded = in_a_pod(host, Policy(max_limit=2 * LIMIT, raise_early=False))
    spool = Outbox(guarded.paths).decisions
    for number in range(MAX_QUEUED):
        spool.put(f"old-{number}", "{}")
    full(guarded)
    assert len(spool.files()) == MAX_QUEUED
    assert "old-0.json" not in spool.files()
    assert guarded.recorder._worker.errors == {}


def test_the_status_is_copied(host: Host) -> None:
    """Before the daemon has published one, there is none."""
    guarded = in_a_pod(host, Policy())
    guarded.stop()  # its recorder would copy it at the same time
    outbox = Outbox(guarded.paths)
    outbox.publish_status()
    assert outbox.status() is None
    guarded.paths.status_file.write_text(json.dumps({"pid": 7}))
    outbox.publish_status()
    assert outbox.status() == {"pid": 7}


def test_a_volume_that_takes_nothing_stops_nothing(host: Host) -> None:
    """It is logged, and the raise is recorded."""
    guarded = in_a_pod(host, Policy(raise_early=False))
    Outbox(guarded.paths).decisions.folder.write_text("no folder")
    full(guarded)
    assert (guarded.controller.limit or 0) > LIMIT
    assert len(guarded.rows()) == 1
    assert [line["subject"] for line in guarded.logged("guard.error")] == ["events"]
