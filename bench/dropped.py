"""Row `dropped`: packets and flows that are lost while a table fills, under three loads."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.checkout import Checkout
from bench.contenders import C_ON_MESSAGE, C_POLL, FOLLOWER, LOOP, PIPE, Contender, guard, named, run
from bench.ground import Ground, progress
from bench.pod import in_container
from bench.table import Row
from bench.turns import compare, in_turns, with_others

_PROBES_PER_SECOND = 20
"""Real packets, each a new flow, beside the flows added through netlink: only packets can be dropped and counted."""
_AT_MOST = 1.5
_LIMIT_FILE = Path("/proc/sys/net/netfilter/nf_conntrack_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A rate at which a table fills, and where it starts."""

    name: str
    limit: int
    held: int = 0
    """Entries before the contender starts."""
    idle_seconds: float = 0.0
    """Before it begins. For the guard only: yardsticks have no state that changes with time."""
    flows: int
    rate: float


LOADS = (
    Load(name="ramp", limit=65_536, flows=262_144, rate=20_000),
    Load(name="burst", limit=65_536, idle_seconds=20, flows=98_304, rate=98_304),
    Load(name="slow", limit=16_384, held=14_746, flows=4_915, rate=500),
)
_DEFAULTS = guard("guard")
_LINE_ALONE = guard("guard, raise_early off", raise_early=False)
_IN_CONTAINER = in_container()
CONTENDERS = (C_ON_MESSAGE, _DEFAULTS, *_IN_CONTAINER, _LINE_ALONE, FOLLOWER, PIPE, C_POLL, LOOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The losses of one phase."""

    refused: int
    dropped: int
    limit_after: int
    cpu_seconds: float


def dropped(  # noqa: PLR0913, PLR0917  the options of the row
    ground: Ground,
    phases: int,
    yardstick_phases: int,
    loads: tuple[Load, ...],
    who: list[str],
    others: Sequence[Checkout],
) -> Iterator[Row]:
    """Yield one row a load and contender named like `who`: what was lost, least to most of so many random phases.

    More phases find a worse worst case, so the one that a target is made of gets as many as the guard.
    """
    for load in loads:
        worst: dict[str, int] = {}
        for contender in named(CONTENDERS, who):
            number = phases if contender is C_ON_MESSAGE or contender.settings is not None else yardstick_phases
            progress(f"dropped: {load.name}, {contender.name}, {number} phases")
            group = with_others(contender, others)
            found = in_turns(
                group, number, number, lambda one, count, load=load: [_loss(ground, load, one) for _ in range(count)]
            )
            worst |= {name: max(loss.refused for loss in losses) for name, losses in found.items()}
            floor = {"C program": worst.get(C_ON_MESSAGE.name, 0)}
            rivals = {one.name: worst[one.name] for one in group[1:]}
            for name, losses in found.items():
                is_ours = name == contender.name
                target, met = _target(contender, losses, worst) if is_ours else ("", None)
                yield Row(
                    what=load.name,
                    who=name,
                    figure=f"{_figure(losses)}, {number} phases",
                    ratio=compare(worst[name], floor | rivals if is_ours else floor),
                    target=target,
                    met=met,
                )


def _loss(ground: Ground, load: Load, contender: Contender) -> Loss:
    with ground.scratch() as namespace:
        ground.limit_guard.set_limit(load.limit)
        ground.flows(namespace, 0, load.held or 1)  # one entry at least: a namespace that is known to track
        with run(ground, contender, namespace) as running:
            time.sleep((load.idle_seconds if contender.settings is not None else 0) + random.uniform(0, 1))
            before = namespace.dropped()
            refused, _, _ = ground.flows(namespace, load.held + 1, load.flows, load.rate, _PROBES_PER_SECOND)
            loss = Loss(
                refused=round(refused),
                dropped=namespace.dropped() - before,
                limit_after=int(_LIMIT_FILE.read_text("ascii")),
                cpu_seconds=running.cpu_seconds(),
            )
    ground.limit_guard.set_limit(load.limit)
    return loss


def _target(contender: Contender, losses: list[Loss], worst: dict[str, int]) -> tuple[str, bool | None]:
    if contender is _DEFAULTS or contender in _IN_CONTAINER:
        return "0 refused, 0 dropped", all(loss.refused == loss.dropped == 0 for loss in losses)
    if contender is _LINE_ALONE:
        target = f"≤ {_AT_MOST} × C program"
        floor = worst.get(C_ON_MESSAGE.name)
        return target, None if floor is None else worst[contender.name] <= _AT_MOST * floor
    return "", None


def _figure(losses: list[Loss]) -> str:
    def span(figures: list[int]) -> str:
        least, most = min(figures), max(figures)
        return f"{least:,}–{most:,}" if least != most else f"{most:,}"

    return (
        f"refused {span([loss.refused for loss in losses])}, dropped {span([loss.dropped for loss in losses])}, "
        f"limit then {span([loss.limit_after for loss in losses])}, "
        f"{max(loss.cpu_seconds for loss in losses):.2f} s CPU"
    )
