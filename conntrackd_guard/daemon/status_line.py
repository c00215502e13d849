"""The daemon's status in words, for the service manager and the log."""

from collections.abc import Mapping
from typing import Any

from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.limits import format_limit


def status_line(document: dict[str, Any]) -> str:
    """Return a published status as the line in `systemctl status`: problems first, then the limit."""
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
    return f"limit {format_limit(limit)}"


def sources_text(sources: Mapping[str, object]) -> str:
    """Return where kernel messages come from: `following /dev/kmsg; journal read once a minute`."""
    ring, journal = sources.get("ring_buffer"), str(sources.get("journal"))
    kmsg = f"{ring} /dev/kmsg" if ring == "following" else f"/dev/kmsg {ring}"
    return f"{kmsg}; {'no journal on this host' if journal.startswith('not found') else f'journal {journal}'}"
