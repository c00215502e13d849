"""The MESSAGE_IDs of the log's events, one for each hold reason. `share/catalog` explains each in `journalctl -x`."""

import hashlib

from conntrackd_guard.core.hold_reasons import HoldReason

_KINDS = (
    "guard.raise", "guard.override", "guard.info", "guard.error", "guard.ready", "guard.stopped", "guard.sample",
    "guard.drops_continue", "guard.incident_over", "guard.debug", *(f"guard.hold {reason.code}" for reason in HoldReason),
)  # fmt: skip
MESSAGE_IDS = {kind: hashlib.sha256(kind.encode()).hexdigest()[:32] for kind in _KINDS}
"""By event, for holds with the reason's code: `guard.hold paused`. Derived from the name, so the order is free."""


def message_id(event: str, reason: object) -> str:
    """Return the MESSAGE_ID of an event; `reason` counts for holds only."""
    return MESSAGE_IDS.get(event) or MESSAGE_IDS.get(f"{event} {reason}") or MESSAGE_IDS["guard.info"]
