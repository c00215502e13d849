"""Entries for tests that need some."""

from __future__ import annotations

from typing import Any

from conntrackd_guard.core.traffic.entry import Entry

CLIENT, SERVER = bytes((10, 0, 0, 1)), bytes((10, 200, 0, 1))


def an_entry(
    protocol: int, state: str, *, to: int = 443, seconds: int | None = 100, flags: str = "", **other: Any
) -> Entry:
    """Return an entry from client to server, its answer the mirror image unless `other` fields say differently.

    `to`: the server's port, 0 for none. `flags`: a(ssured), r(eplied).
    """
    fields: dict[str, Any] = {
        "source": CLIENT,
        "destination": SERVER,
        "source_port": 40_000 if to else 0,
        "destination_port": to,
        **other,
    }
    mirrored = {
        "reply_source": fields["destination"],
        "reply_destination": fields["source"],
        "reply_source_port": fields["destination_port"],
        "reply_destination_port": fields["source_port"],
    }
    known = {"assured": "a" in flags, "replied": "r" in flags, "remaining_seconds": seconds}
    return Entry(protocol=protocol, state=state, **{**known, **mirrored, **fields})


def established(seconds: int, **other: Any) -> Entry:
    """Return a TCP flow that will time out in so many seconds."""
    return an_entry(6, "ESTABLISHED", seconds=seconds, flags="ar", **other)


def half_open(**other: Any) -> Entry:
    """Return a TCP handshake without an answer."""
    return an_entry(6, "SYN_SENT", **other)


def dns(**other: Any) -> Entry:
    """Return an answered DNS question."""
    return an_entry(17, "REPLIED", to=53, seconds=20, flags="r", **other)
