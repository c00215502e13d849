"""The status that the daemon publishes, for `guard status` and for the service manager."""

import os
from collections.abc import Mapping
from typing import Any

from conntrackd_guard.core import tuning
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.model import Pause, State


def status_file(  # noqa: PLR0913 - one argument a figure
    *,
    mode: Mode,
    since_seconds: float,
    wall_seconds: float,
    boottime_seconds: float,
    limit: int | None,
    policy: Policy,
    state: State,
    pause: Pause | None,
    sources: dict[str, Any],
    recorder: dict[str, Any],
    over_budget: bool,
    episodes: int,
) -> dict[str, Any]:
    """Return the document under /run; `since` and `at` are wall time, its age is measured by `boottime_seconds`."""
    conflicts = [at for at in state.conflict_seconds if at > boottime_seconds - tuning.CONFLICT_WINDOW_SECONDS]
    return {
        "version": 1,
        "pid": os.getpid(),
        "since": since_seconds,
        "at": wall_seconds,
        "boottime_seconds": boottime_seconds,
        "mode": mode.value,
        "limit": limit,
        "policy": encode(policy),
        "sources": sources,
        "recorder": recorder,
        "paused": None if pause is None else {"by": pause.by, "reason": pause.reason},
        "conflict": bool(policy.conflict_limit) and len(conflicts) >= policy.conflict_limit,
        "over_budget": over_budget,
        "episodes": episodes,
    }


def status_line(document: dict[str, Any]) -> str:
    """Return that document as the line in `systemctl status`: problems first, then the limit."""
    bad = []
    if document["conflict"]:
        bad.append("raising is off (another program keeps lowering the limit)")
    if document["over_budget"]:
        bad.append("limit over the memory budget")
    if errors := document["recorder"]["trouble"]:
        bad.append(f"error: {errors[0]}")
    if document["paused"] is not None:
        bad.append(f"paused by {document['paused']['by']}")
    well = "watching" if document["mode"] == Mode.ACT.value else "dry run"
    filling = f", {document['episodes']} full or filling up" if document["episodes"] else ""
    return f"{', '.join(bad) or well}: {limit_text(document['limit'])}{filling}{'; see `guard status`' if bad else ''}"


def limit_text(limit: int | None) -> str:
    """Return the limit in force in words."""
    if limit is None:
        return "no limit: this kernel tracks no connections yet"
    return f"limit {limit:,}" if limit else "limit 0 (unlimited)"


def sources_text(sources: Mapping[str, object]) -> str:
    """Return where kernel messages come from: `following /dev/kmsg; journal read once a minute`."""
    ring, journal = sources.get("ring_buffer"), str(sources.get("journal"))
    kmsg = f"{ring} /dev/kmsg" if ring == "following" else f"/dev/kmsg {ring}"
    return f"{kmsg}; {'no journal on this host' if journal.startswith('not found') else f'journal {journal}'}"
