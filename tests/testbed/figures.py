"""Figures for tests of metrics: a host with any number of tables, and all figures readable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from conntrackd_guard.core.budget import cost_of, highest_affordable
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.health import Level
from conntrackd_guard.core.metrics import Figures, LoopStatus, Totals, count_up, known_decisions
from conntrackd_guard.core.model import Observation, Table

LIMIT = 262_144
GIB = 1 << 30
LOOP = LoopStatus(
    at_seconds=1.8e9,
    sources={"ring_buffer": "following", "journal": "not found on this host"},
    conflict=False,
    over_budget=False,
    recorder_errors=0,
    health=Level.HEALTHY,
)


def tables(number: int, **more: Any) -> tuple[Table, ...]:
    """Return tables: the initial one has one entry, each other one more than the last."""
    first = Table(namespace=1, label="initial", initial=True, count=1, drop=0, early_drop=0)
    plain: dict[str, Any] = {"drop": 0, "early_drop": 0, **more}
    return (first, *(Table(namespace=n, label=f"process {n}", count=n, **plain) for n in range(2, number + 1)))


def seen(*those: Table, **more: Any) -> Observation:
    """Return a host of 24 GiB with these tables."""
    plain: dict[str, Any] = {
        "boottime_seconds": 100.0, "wall_seconds": 1.8e9, "boot_id": "boot-1", "limit": LIMIT, "kernel_limit": LIMIT,
        "tables": those, "buckets": LIMIT, "entry_slab_bytes": 256, "memory_total_bytes": 24 * GIB,
        "memory_available_bytes": 20 * GIB,
    }  # fmt: skip
    return Observation(**plain | more)


def figures(observation: Observation, policy: Policy | None = None, **more: Any) -> Figures:
    """Return all figures of a host."""
    policy = policy or Policy()
    whole = Figures(
        version="1.2.3",
        observation=observation,
        cost=cost_of(observation, policy),
        reach=highest_affordable(observation, policy),
        totals=count_up(Totals(), observation),
        decisions=known_decisions(),
        loop=LOOP,
    )
    return replace(whole, **more)
