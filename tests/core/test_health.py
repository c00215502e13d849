"""The judgement of health: one for each condition, and the same in every view."""

from __future__ import annotations

from typing import Any

import pytest

from conntrackd_guard.core import health
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.health import Level
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.records import ACTIONABLE
from conntrackd_guard.daemon.status_line import status_line

WELL: dict[str, Any] = {
    "mode": "act", "limit": 65536, "needs": 0, "boottime_seconds": 100.0, "paused": None,
    "sources": {"ring_buffer": "following", "journal": "read once a minute", "notes": []}, "recorder": {"trouble": []},
}  # fmt: skip
CONDITIONS: list[tuple[dict[str, Any], Level, str]] = [
    ({"not_writable": {"why": "/proc/x: read-only", "next_step": "Mount it."}}, Level.ACTION_REQUIRED, "not_writable"),
    ({"write_refused": "Permission denied"}, Level.ACTION_REQUIRED, "write_refused"),
    ({"conflict": True}, Level.ACTION_REQUIRED, "conflict"),
    ({"over_budget": True}, Level.ACTION_REQUIRED, "over_budget"),
    ({"memory_unknown": "/proc/meminfo (no valid MemTotal)"}, Level.ACTION_REQUIRED, "memory_unknown"),
    ({"memory_exceeded": True}, Level.ACTION_REQUIRED, "memory_exceeded"),
    *(
        ({"unmet": [{"table": "web", "reason": reason.code}]}, Level.ACTION_REQUIRED, reason.code)
        for reason in sorted(ACTIONABLE, key=lambda reason: reason.code)
    ),
    ({"paused": {"by": "guard pause", "until": 1_800_000_000.0}}, Level.DEGRADED, "paused"),
    ({"recorder": {"trouble": ["disk full"]}}, Level.ACTION_REQUIRED, "recorder"),
    ({"recorder": {"trouble": [], "stuck_seconds": 11.0}}, Level.DEGRADED, "recorder_stuck"),
    ({"sources": {"ring_buffer": "absent", "journal": "absent"}}, Level.DEGRADED, "no_messages"),
    ({"owners_read_by": "nobody"}, Level.DEGRADED, "owners_unknown"),
    ({"unread": ["/proc/meminfo"]}, Level.DEGRADED, "unread"),
    ({"long_chains": {"lost": 0}}, Level.DEGRADED, "long_chains"),
    ({"long_chains": {"lost": 7}}, Level.DEGRADED, "chain_drops"),
]


@pytest.mark.parametrize(("changed", "level", "code"), CONDITIONS)
def test_each_condition_has_its_level(changed: dict[str, Any], level: Level, code: str) -> None:
    """Alone it makes its own level, with one reason that says what to do, and the service manager shows it."""
    found = health.of_document(WELL | changed)
    assert (found.level, [reason.code for reason in found.reasons]) == (level, [code])
    assert found.reasons[0].next_step
    line = status_line(WELL | changed)
    assert found.reasons[0].text in line
    assert line.startswith("ACTION NEEDED" if level is Level.ACTION_REQUIRED else "degraded")


def test_a_sentence_has_one_full_stop() -> None:
    """Errors end with one, other texts do not."""
    for end in ("", "."):
        (reason,) = health.of_document(WELL | {"sources": {"notes": [f"no journal{end}"]}}).reasons
        assert reason.sentence == "kernel messages can't be read: no journal. The counters alone are watched."


def test_a_guard_with_nothing_wrong_is_healthy() -> None:
    """Its line has no more than the limit; an unknown or damaged field reports nothing wrong."""
    assert health.of_document(WELL).level is Level.HEALTHY
    assert status_line(WELL) == "watching: limit 65,536"
    odd = {"unmet": "x", "unread": 5, "paused": "yes", "recorder": [], "sources": None, "new": 1, "long_chains": 5}
    assert health.of_document(WELL | odd).level is Level.HEALTHY


def test_the_gravest_reason_comes_first() -> None:
    """Whatever the order in the document, the level is that of the gravest."""
    found = health.of_document(WELL | {"unread": ["a"], "conflict": True})
    assert [reason.code for reason in found.reasons] == ["conflict", "unread"]
    assert found.level is Level.ACTION_REQUIRED


def test_who_does_not_answer_is_down() -> None:
    """No guard, or one that has published nothing for longer than five intervals."""
    for running, document, now, level in (
        (False, None, 100.0, Level.DOWN),
        (True, WELL, 109.0, Level.HEALTHY),
        (True, WELL, 111.0, Level.DOWN),
        (True, None, 100.0, Level.DEGRADED),
        (None, None, 100.0, Level.DEGRADED),
    ):
        assert health.of_host(document, running=running, now_seconds=now, mode=Mode.ACT).level is level


def test_a_pause_says_until_when() -> None:
    """With its end in UTC, or that it has none."""
    texts = [
        health.of_document(WELL | {"paused": {"by": "guard pause", "until": until}}).reasons[0].text
        for until in (1_800_000_000.0, None)
    ]
    assert texts == [
        "raising is paused by guard pause until 2027-01-15 08:00 UTC", "raising is paused by guard pause until resumed",
    ]  # fmt: skip


def test_the_levels_are_in_order() -> None:
    """Severity follows the order of the levels."""
    assert [level.severity for level in Level] == [0, 1, 2, 3]
    assert HoldReason.UNTRUSTED_NAMESPACE not in ACTIONABLE
