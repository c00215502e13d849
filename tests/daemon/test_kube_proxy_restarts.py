"""A kube-proxy that lowers the limit as it starts: a restart, and no fight, on evidence alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from testbed.guarded import LIMIT, Guarded, Host, again
from testbed.programs import process

from conntrackd_guard.core.state import advance, excused

STEP = 98_304
"""65,536 × 1.5."""
BY_ITS_RULE = ("kube-proxy", "--conntrack-max-per-core=1", f"--conntrack-min={LIMIT}")
SECONDS_AGO = 3.0


def lowered(
    guarded: Guarded, times: int, *, ago: float = SECONDS_AGO, words: tuple[str, ...] = BY_ITS_RULE, **forged: Any
) -> None:
    """Fill the table until the guard raises; then a kube-proxy that started `ago` sets the limit that was."""
    host = guarded.host
    for _ in range(times):
        host.table(host.limit)
        guarded.message()
        guarded.turn(40.0)
        assert host.limit == STEP
        host.table(10)
        process(host.root, "kube-proxy", *words, started=guarded.clock.now + 1.0 - ago, **forged)
        host.limit = LIMIT
        guarded.turn(1.0)
        guarded.written()
        guarded.turn(1.0)


def test_restarts_are_no_fight(host: Host) -> None:
    """Four a day, each answered from the next need; the log says so, and a restart of the guard knows it."""
    guarded = Guarded(host)
    lowered(guarded, 4)
    assert guarded.state.conflict_seconds == ()
    texts = [row.sentence for row in guarded.rows() if row.reason == "limit_lowered"]
    assert len(texts) == 4
    for text in texts:
        assert "set nf_conntrack_max from 98,304 to 65,536 (probable cause: kube-proxy is running (pid 701)" in text
        assert "started 3 s before). A restart, and no conflict: the next need raises the limit again." in text
    state = guarded.state
    guarded.stop()
    after = again(guarded)
    assert after.recovered.state.conflict_seconds == state.conflict_seconds
    after.stop()


@pytest.mark.parametrize(
    "otherwise",
    [
        {"ago": 31.0},
        {"words": ("kube-proxy", "--conntrack-min=77777")},
        {"words": ("kube-proxy", "--conntrack-max-per-core=0")},
        {"uids": "1000 1000 1000 1000"},
        {"cgroup": "/user.slice/user-1000.slice/session-1.scope"},
    ],
    ids=str,
)
def test_what_is_no_restart_is_a_conflict(host: Host, otherwise: dict[str, Any]) -> None:
    """Without the time, the value or a process of root's; the guard stops raising after three."""
    guarded = Guarded(host)
    lowered(guarded, 3, **otherwise)
    assert len(guarded.state.conflict_seconds) == 3
    assert "3 of 3 in 24 h" in guarded.rows()[-1].sentence
    host.table(LIMIT)
    guarded.message()
    guarded.turn(5.0)
    assert guarded.reasons()[-1] == "hold conflict none"
    guarded.stop()


def test_only_its_own_conflict_is_excused(host: Host) -> None:
    """One before it stays, and a lowering that counted for nothing takes none away."""
    guarded = Guarded(host)
    lowered(guarded, 1, ago=31.0)
    (fight,) = guarded.state.conflict_seconds
    lowered(guarded, 1)
    assert guarded.state.conflict_seconds == (fight,)
    with guarded.history() as history:
        change, *_ = (record for row in history.rows() if (record := history.record(row)).trigger.restarted)
    assert advance(change.state, change).conflict_seconds == (fight,)
    nothing = replace(change, state=replace(change.state, set_limit=None, replaced_limit=None))
    assert excused(guarded.state, nothing) == guarded.state
    guarded.stop()
