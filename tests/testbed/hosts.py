"""A host at one moment, as tests of the core need it: 24 GiB, the kernel's default limit, one table."""

from __future__ import annotations

from typing import Any

from conntrackd_guard.core.model import MessageKind, Observation, Table, Trigger, TriggerKind

MIB = 1 << 20
GIB = 1 << 30
NOW = 10_000.0
LIMIT = 262_144
WEB = 4026532316
OTHER = 4026532417


def table(count: int, namespace: int = WEB, **more: Any) -> Table:
    """Return a table that has dropped nothing."""
    return Table(**{"namespace": namespace, "label": "web", "count": count, "drop": 0, "dropped": 0, **more})


def host(*tables: Table, **more: Any) -> Observation:
    """Return a host with these tables; `limit` alone also sets the limit in force."""
    plain: dict[str, Any] = {
        "boottime_seconds": NOW,
        "wall_seconds": 1.8e9,
        "boot_id": "boot-1",
        "limit": LIMIT,
        "tables": tables,
        "buckets": LIMIT,
        "entry_slab_bytes": 256,
        "memory_total_bytes": 24 * GIB,
        "memory_available_bytes": 20 * GIB,
    }
    values = plain | more
    return Observation(**{"kernel_limit": values["limit"], **values})


def message(namespace: int | None = WEB, **more: Any) -> Trigger:
    """Return a live "table full" message that has just come."""
    plain = {
        "kind": TriggerKind.KERNEL_MESSAGE,
        "message_kind": MessageKind.TABLE_FULL,
        "message_count": 1,
        "message_seconds": NOW,
    }
    return Trigger(**{**plain, "namespace": namespace, **more})


PRESSURE = Trigger(kind=TriggerKind.FILLING_UP, namespace=WEB)
