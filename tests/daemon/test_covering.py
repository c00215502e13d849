"""The journal cursor never passes a message before its decision."""

from __future__ import annotations

import pytest
from testbed.guarded import LIMIT, Guarded, Host

from conntrackd_guard.core.configuration import Policy


def test_a_row_covers_no_message_that_waits(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two namespaces' messages in one turn: the position goes with the second decision, so a kill between loses no message."""
    guarded = Guarded(host, Policy(raise_early=False, max_limit=LIMIT))
    positions: list[bool] = []
    submit = guarded.recorder.submit

    def note(record: object, policy: object, position: object = None, **more: object) -> None:
        positions.append(position is not None)
        submit(record, policy, position, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(guarded.recorder, "submit", note)
    host.table(LIMIT)
    host.table(LIMIT, pid="200")
    guarded.message(host.initial)
    guarded.message(host.container)
    guarded.turn()
    assert positions == [False, True]
    guarded.stop()
