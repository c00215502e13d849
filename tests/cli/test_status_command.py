"""`guard status`: the text, the JSON document, and the preview of the next step."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from testbed.records import a_record

from conntrackd_guard.actions.status import Status, document, preview
from conntrackd_guard.cli.render.status_text import print_status
from conntrackd_guard.core.budget import cost_of
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.health import Level
from conntrackd_guard.core.model import Hold, Observation, Pause, Raise, State, Table
from conntrackd_guard.history import documents

MEMORY = {"memory_total_bytes": 25 * 10**9, "memory_available_bytes": 20 * 10**9, "entry_slab_bytes": 256}


def seen(**observed: Any) -> Observation:
    """Return a host of 25 GB with a table at 50 %."""
    tables = (Table(namespace=1, label="initial", initial=True, count=0), Table(namespace=7, label="web", count=32768))
    fields: dict[str, Any] = {"tables": tables, "buckets": 65536, **MEMORY, **observed}
    return a_record("a", **fields).observation


def a_status(observation: Observation, *, holder: int | None = 0, live: dict[str, object] | None = None) -> Status:
    """Return the status of that host."""
    return Status(
        mode=Mode.ACT,
        holder=holder,
        live=live,
        silent_seconds=0.0,
        other_runs=False,
        observation=observation,
        cost=cost_of(observation, Policy()),
        next_step=preview(observation, State(), Policy()),
        last=None,
        unread=observation.unread,
    )


def printed(status: Status, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a pipe gets."""
    print_status(Console(), status)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("least", "text"),
    [
        (None, "65,536 entries per namespace, 65,536 hash buckets"),
        (65_536, "65,536 entries per namespace, 65,536 hash buckets"),
        (65_537, "65,536 entries per namespace, below `min_limit` (65,537), 65,536 hash buckets"),
    ],
)
def test_a_limit_below_min_limit_is_named(least: int | None, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A pause, a conflict or a bound keeps it there."""
    assert text in printed(replace(a_status(seen()), min_limit=least), capsys)


def test_the_preview_decides_for_a_full_table() -> None:
    """With half a table in use the next step is that for a full one, and its entries cost memory."""
    step = preview(seen(), State(), Policy())
    assert isinstance(step, Raise)
    assert step.target == 98304
    assert step.arithmetic.memory_available_bytes == 20 * 10**9 - 576 * 32768


def test_the_preview_names_what_prevents_a_raise() -> None:
    """A pause and a `max_limit` are shown before the table is full."""
    paused = preview(seen(pause=Pause(by="guard pause", reason="")), State(), Policy())
    capped = preview(seen(), State(), Policy(max_limit=65536))
    assert [step.reason.code for step in (paused, capped) if isinstance(step, Hold)] == ["paused", "at_ceiling"]


def test_memory_now_and_if_full() -> None:
    """The cost now charges held entries, the cost if full every table in use at the limit; both with the buckets."""
    cost = cost_of(seen(), Policy())
    assert (cost.now_bytes, cost.full_bytes) == (576 * 32768 + 1048576, 576 * 65536 + 1048576)
    assert cost.budget_bytes is not None
    assert cost.headroom_bytes == cost.budget_bytes - cost.now_bytes


def test_zfs_cache_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """`free` shows it as used, so the status says that it is counted."""
    assert "ZFS" not in printed(a_status(seen()), capsys)
    text = " ".join(printed(a_status(seen(memory_zfs_bytes=7 << 30)), capsys).split())
    assert "(18.6 GiB available, 7 GiB of it ZFS' cache, 1.2 GiB of it reserved)" in text


def test_status_without_a_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    """The tables are shown all the same, the fullest first, and what could not be read."""
    out = printed(a_status(seen(unread=("slabinfo: 640 bytes assumed",))), capsys)
    assert "daemon: not running" in out
    assert out.index("web (netns 7)") < out.index("the initial namespace")
    assert "██████████░░░░░░░░░░  50.0 %" in out
    assert "raise to 98,304" in out
    assert "note: slabinfo: 640 bytes assumed" in out


def test_a_running_daemon_is_shown_with_its_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own status is shown; an error makes it degraded."""
    live: dict[str, Any] = {
        "pid": 42,
        "mode": "act",
        "sources": {"ring_buffer": "following", "journal": "following", "notes": []},
        "recorder": {"trouble": ["disk full"]},
    }
    status = a_status(seen(), holder=42, live=live)
    out = printed(status, capsys)
    assert "running (pid 42, mode act)" in out
    assert "messages: following /dev/kmsg; journal following" in out
    assert "action required: disk full. Raises go on." in out
    assert status.health.level is Level.ACTION_REQUIRED
    assert a_status(seen(), holder=42, live={"recorder": {"trouble": []}}).health.level is Level.HEALTHY


@pytest.mark.parametrize(
    ("count", "dropped", "changed", "text"),
    [
        (32768, 0, {}, "healthy; fullest table at 50 % of 65,536"),
        (65536, 0, {}, "healthy; TABLE FULL: web (netns 7) at 65,536 of 65,536"),
        (60000, 3, {}, "healthy; PACKETS DROPPED: web (netns 7) at 60,000 of 65,536"),
        (
            32768,
            0,
            {"holder": 0, "live": None},
            "DOWN: no guard is running: nothing is raised; fullest table at 50 % of 65,536",
        ),
        (32768, 0, {"holder": None, "live": None}, "DEGRADED: it can't be seen whether the guard runs; fullest"),
        (32768, 0, {"live": None}, "DEGRADED: the guard has not published a status yet; fullest"),
        (32768, 0, {"live": {"boottime_seconds": -49.0}}, "DOWN: the guard has not answered for 1min 39s; fullest"),
        (
            32768,
            0,
            {"live": {"conflict": True, "unread": ["x"]}},
            "ACTION NEEDED: raising is off, another program keeps lowering the limit (and 1 more below); fullest",
        ),
        (32768, 0, {"live": {"recorder": {"trouble": ["x"]}}}, "ACTION NEEDED: x; fullest"),
    ],
)
def test_the_first_line_is_the_summary(
    count: int, dropped: int, changed: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the daemon works, and how full the tables are: if all is well, nobody has to read on."""
    table = Table(namespace=7, label="web", count=count, dropped=dropped)
    status = replace(a_status(seen(tables=(table,)), holder=42, live={"pid": 42}), **changed)
    assert printed(status, capsys).splitlines()[0].startswith(f"        summary: {text}")


def test_old_drops_and_new_drops_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """The kernel counts since the namespace began; that alone is no alarm."""
    table = Table(namespace=7, label="web", count=65_000, drop=900)
    assert "900 dropped so far  web" in printed(a_status(seen(tables=(table,))), capsys)
    dropping = printed(a_status(seen(tables=(replace(table, dropped=30),))), capsys)
    assert "900 dropped so far, 30 of them just now  web" in dropping
    assert "at 99 % of 65,536" in printed(a_status(seen(tables=(table,))), capsys)


def test_a_bound_that_needs_an_operator_is_shown_before_the_table_is_full(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At `max_limit` the next full table drops packets: that matters at 50 %, too. A pause is shown as such."""
    capped = replace(a_status(seen()), next_step=preview(seen(), State(), Policy(max_limit=65536)))
    assert "50 % of 65,536, and it can't be raised further (at max_limit)" in printed(capped, capsys).splitlines()[0]
    held = seen(pause=Pause(by="guard pause", reason=""))
    paused = a_status(held, holder=42, live={"paused": {"by": "guard pause", "until": None}})
    assert printed(paused, capsys).splitlines()[0] == (
        "        summary: DEGRADED: raising is paused by guard pause until resumed; fullest table at 50 % of 65,536"
    )


def test_the_document_is_complete() -> None:
    """`--json` is one versioned document with limit, use, memory and the next step."""
    found = json.loads(documents.document(document(a_status(seen()))))
    assert (found["version"], found["limit"], found["running"]) == (1, 65536, False)
    assert [(table["namespace"], table["share"]) for table in found["tables"]] == [(7, 0.5), (1, 0.0)]
    assert (found["next_step"]["allowed"], found["next_step"]["target"]) == (True, 98304)
    assert found["memory"]["now_bytes"] == 576 * 32768 + 1048576


def test_losses_without_a_full_table_have_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Long chains, failed inserts and resolved races: nothing else shows them. The average is that of all tables."""
    lost: dict[str, Any] = {"insert_failed": 12, "clash_resolved": 345, "chain_too_long": 60_000}
    web = Table(namespace=7, label="web", count=32768, **lost)
    other = Table(namespace=8, label="db", count=10_240, **lost)
    line = (
        "losses: since boot 120,000 packets for long hash chains (average 10.5); 24 inserts failed; 690 races resolved"
    )
    assert line in printed(a_status(seen(tables=(web, other), buckets=8_192)), capsys).replace("\n", " ")
    losing = seen(tables=(replace(web, lost_to_chains=1_500), other), buckets=8_192)
    assert "(average 10.5), 1,500 of them just now;" in printed(a_status(losing), capsys).replace("\n", " ")
    assert document(a_status(losing))["average_chain"] == 10.5


def test_a_kernel_without_a_chain_limit_has_no_chain_losses(capsys: pytest.CaptureFixture[str]) -> None:
    """It counts failed inserts all the same; without any counter there is no line."""
    old = seen(tables=(Table(namespace=7, label="web", count=99, insert_failed=12),), chain_limit=False, buckets=1)
    assert "losses: since boot 12 inserts failed;" in printed(a_status(old), capsys)
    assert document(a_status(old))["average_chain"] is None
    assert "losses:" not in printed(a_status(seen()), capsys)
