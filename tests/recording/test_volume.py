"""How much an incident logs by default: what an operator has to read, and no step of it."""

from __future__ import annotations

import json

import pytest
from testbed.crowded_host import listing
from testbed.guarded import Guarded, Host

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.model import MessageKind
from conntrackd_guard.recording.samples import Sampling


class Sampled(Guarded):
    """A guard that takes samples of 500 entries."""

    sampling = Sampling(entries=500)


def six_raises(guarded: Guarded) -> None:
    """Fill the table six times, with the messages that a kernel logs meanwhile, then drain it."""
    host = guarded.host
    host.buckets = 4_194_304
    for _ in range(6):
        host.table(host.limit)
        for seconds in (29.0, 0.5, 0.5):
            guarded.message()
            guarded.message(kind=MessageKind.SUPPRESSED)
            guarded.turn(seconds)
    host.table(10)
    for _ in range(200):
        guarded.turn(0.25)
    guarded.written()


def test_an_incident_of_six_raises_logs_at_most_twelve_messages(host: Host) -> None:
    """Each raise, what fills the table, and how it ended; cooldowns and resolved conditions are in the history only."""
    (host.root / "proc/1/net/nf_conntrack").write_text(listing(2000))
    guarded = Sampled(host)
    six_raises(guarded)
    lines = [json.loads(line) for line in guarded.log.getvalue().splitlines()]
    raises = [line for line in lines if line["event"] == "guard.raise"]
    assert len(raises) == 6
    assert len([line for line in lines if line["event"] == "guard.sample"]) == 1
    assert lines[-2]["message"].startswith("No packets were dropped after the raise to")
    assert lines[-1]["message"].endswith(f"The limit is now {host.limit:,} (6 raises from 65,536).")
    assert len(lines) <= 12
    assert len(guarded.rows()) > len(raises)
    guarded.stop()


@pytest.mark.parametrize("seconds", [1.0, 700.0])
def test_what_fills_a_table_is_logged_once_an_incident(host: Host, seconds: float) -> None:
    """Another raise within ten minutes is the same incident."""
    (host.root / "proc/1/net/nf_conntrack").write_text(listing(2000))
    guarded = Sampled(host, Policy(cooldown_seconds=0.5))
    for _ in range(2):
        host.table(host.limit)
        guarded.message()
        guarded.turn(seconds)
        host.table(10)
        guarded.written()
    assert [row.verdict for row in guarded.rows()].count("raise") == 2
    assert len(guarded.logged("guard.sample")) == (1 if seconds < 600 else 2)
    guarded.stop()
