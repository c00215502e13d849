"""How things stand on this host: with or without a running guard, as root or as far as this user may look."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

from conntrackd_guard.core.budget import Cost, cost_of, filled, fullest_first
from conntrackd_guard.core.codec import decode, encode
from conntrackd_guard.core.configuration import FloodResponse, Mode, Policy
from conntrackd_guard.core.errors import GuardError, HostError
from conntrackd_guard.core.model import Hold, MessageKind, Observation, Raise, State, Trigger, TriggerKind
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.state import advance, rehearsed_limit
from conntrackd_guard.history.database import History, Row
from conntrackd_guard.history.rows import decision_document
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import LiveKernel, RehearsingKernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.settings.files import load_settings

LOOK_SECONDS = 0.25
"""Growth takes two looks; this far apart, as the guard's own ticks."""
SILENT_SECONDS = 10.0
"""The loop tells of itself every 2 s; one that has missed five turns hangs, or was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything `guard status` tells."""

    mode: Mode
    """Of the guard that is looked at."""
    holder: int | None
    """Process id of that guard, 0 where none runs, None where that can't be told."""
    live: dict[str, Any] | None
    """What it says of itself, None where it has said nothing yet."""
    silent_seconds: float
    """How long ago it said that."""
    other_runs: bool
    """A guard of the other mode runs."""
    observation: Observation
    cost: Cost
    next_step: Raise | Hold
    """What would be decided if the fullest table filled up now."""
    last: Row | None
    unread: tuple[str, ...]
    """What could not be read, or differs from what the guard goes by, and what was taken instead."""

    @property
    def running(self) -> bool | None:
        """Whether the guard runs; None where that can't be told."""
        return None if self.holder is None else self.holder > 0

    @property
    def silent(self) -> bool:
        """Whether a running guard has said nothing for too long."""
        return self.silent_seconds > SILENT_SECONDS

    @property
    def degraded(self) -> bool:
        """Whether the running guard needs a person: silent, in trouble or a stand-off, or begun with too high a limit."""
        live = self.live if self.running and self.live is not None else {}
        trouble = (live.get("recorder") or {}).get("trouble")
        return self.silent or any(map(bool, (trouble, live.get("conflict"), live.get("over_budget"))))


def gather(paths: Paths) -> Status:
    """Read everything, in about LOOK_SECONDS. HostError only where not even the boot can be told."""
    unread: list[str] = []
    runtime_dir = RuntimeDir(paths)
    holder = runtime_dir.holder()
    live = runtime_dir.status() if holder != 0 else None
    if live is not None and holder is not None and live.get("pid") != holder:
        live = None  # an earlier guard's
    policy = _policy(paths, live, unread)
    state, last = _past(paths, unread)
    observation = _observe(paths, state)
    said = (live or {}).get("boottime_seconds", observation.boottime_seconds)
    return Status(
        mode=paths.mode,
        holder=holder,
        live=live,
        silent_seconds=max(0.0, observation.boottime_seconds - said),
        other_runs=any(RuntimeDir(Paths(paths.root, mode)).is_running() for mode in Mode if mode is not paths.mode),
        observation=observation,
        cost=cost_of(observation, policy),
        next_step=preview(observation, state, policy),
        last=last,
        unread=(*observation.unread, *unread),
    )


def document(status: Status) -> dict[str, Any]:
    """Return everything for JSON."""
    seen, cost, limit = status.observation, status.cost, status.observation.limit
    return {
        "mode": status.mode.value,
        "running": status.running,
        "service": status.live,
        "silent_seconds": None if status.live is None else round(status.silent_seconds, 1),
        "limit": limit,
        "kernel_limit": seen.kernel_limit,
        "tables": [
            encode(table) | {"share": round(table.count / limit, 4) if limit else None} for table in fullest_first(seen)
        ],
        "idle_tables": seen.idle_tables,
        "memory": encode(cost) | {"headroom_bytes": cost.headroom_bytes},
        "paused": encode(seen.pause),
        "next_step": {"allowed": isinstance(status.next_step, Raise), **encode(status.next_step)},
        "last_decision": None if status.last is None else decision_document(status.last),
        "degraded": status.degraded,
        "unread": list(status.unread),
    }


def _policy(paths: Paths, live: dict[str, Any] | None, unread: list[str]) -> Policy:
    """Return the policy that the running guard goes by, without one that of the settings; what is amiss is noted."""
    known = None
    with contextlib.suppress(ValueError):
        known = decode(Policy, (live or {}).get("policy"))
    try:
        settings = load_settings(paths.settings_file, paths.settings_folder).policy
    except GuardError as error:
        instead = "the defaults" if known is None else "the running guard's"
        unread.append(f"settings ({error}): {instead} are shown")
        return known or Policy()
    if known is not None and known != settings:
        unread.append("the settings in /etc differ from those the running guard goes by, which are shown: reload it")
    return known or settings


def preview(observation: Observation, state: State, policy: Policy) -> Raise | Hold:
    """Return what would be decided if the fullest table filled up now, and not with a flood: no sample is taken here."""
    then, full = filled(observation)
    kind = TriggerKind.KERNEL_MESSAGE if policy.kernel_message else TriggerKind.FILLING_UP
    line = MessageKind.TABLE_FULL if policy.kernel_message else None
    trigger = Trigger(kind=kind, message_kind=line, namespace=full.namespace)
    plain = replace(policy, on_flood=FloodResponse())
    decision = decide(trigger, replace(then, kernel_limit=observation.limit), state, plain)
    told = ("What a flood gets is for `on_flood` to say.",) if policy.on_flood.restricts else ()
    return replace(decision, advice=(*decision.advice, *told))


def _past(paths: Paths, unread: list[str]) -> tuple[State, Row | None]:
    """Return this boot's state and the last decision from history; what can't be read is noted."""
    state = State()
    try:
        boot_id = paths.boot_id.read_text(encoding="ascii").strip()
        with History(paths.history, mode="reader") as history:
            for record in history.records(boot_id):
                state = advance(state, record)
            return state, next(history.rows(last=1), None)
    except FileNotFoundError:
        pass
    except GuardError as error:
        if not isinstance(error, HostError) or not isinstance(error.__cause__, FileNotFoundError):
            unread.append(f"history ({error}): pace and stand-off are not taken into account")
    return State(), None


def _observe(paths: Paths, state: State) -> Observation:
    """Look twice, so that growth can be told."""
    live = LiveKernel(paths)
    kernel = RehearsingKernel(live, rehearsed_limit(state, live.limit())) if paths.mode is Mode.DRY_RUN else live
    observer = Observer(paths, kernel, Clock(), RuntimeDir(paths))
    observer.observe(rescan=True)
    time.sleep(LOOK_SECONDS)
    return observer.observe()
