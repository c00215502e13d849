"""The daemon's status in words, for the service manager and the log."""

from collections.abc import Mapping
from typing import Any

from conntrackd_guard.core import health
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.health import Level
from conntrackd_guard.core.limits import format_limit

_HEADS = {Level.ACTION_REQUIRED: "ACTION NEEDED: ", Level.DEGRADED: "degraded: "}

_SHOWN = 3


def status_line(document: Mapping[str, Any]) -> str:
    """Return a published status as the line in `systemctl status`: problems, the gravest first, then the limit."""
    found, needs = health.of_document(document), document["needs"]
    words = "watching: " if document["mode"] == Mode.ACT.value else "dry run: "
    if found.reasons:
        texts = [reason.text for reason in found.reasons[:_SHOWN]]
        more = [f"{len(found.reasons) - _SHOWN} more problems"] if len(found.reasons) > _SHOWN else []
        words = f"{_HEADS[found.level]}{'; '.join(texts + more)}; "
    filling = f", {needs} full or filling up" if needs else ""
    return f"{words}{limit_text(document['limit'])}{filling}{'; see `guard status`' if found.reasons else ''}"


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
