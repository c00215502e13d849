"""The status of this host: with or without a running daemon, as root or with what this user may read."""

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

from conntrackd_guard.core import chains, health
from conntrackd_guard.core.budget import Cost, cost_of, fullest_first
from conntrackd_guard.core.chains import ChainLosses
from conntrackd_guard.core.codec import decode, encode
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.health import Health
from conntrackd_guard.core.model import Hold, Observation, Raise, State
from conntrackd_guard.core.policy import decide_if_full
from conntrackd_guard.core.state import fold, rehearsed_limit
from conntrackd_guard.history.database import History, Row
from conntrackd_guard.history.documents import decision_document
from conntrackd_guard.host import disk, files
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import LiveKernel, RehearsingKernel
from conntrackd_guard.host.conntrack.observer import LOOK_SECONDS, Observer
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.settings.files import load_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything that `guard status` shows."""

    mode: Mode
    """Of the daemon shown."""
    holder: int | None
    """Its process id, 0 if it does not run, None if that is unknown."""
    live: dict[str, Any] | None
    """The status that it published, None before the first."""
    silent_seconds: float
    """Age of that status."""
    other_runs: bool
    """Whether a daemon in the other mode runs."""
    observation: Observation
    cost: Cost
    next_step: Raise | Hold
    """The decision if the fullest table filled up now."""
    last: Row | None
    min_limit: int | None = None
    """The setting."""
    unread: tuple[str, ...]
    """What could not be read, or differs from the daemon's own settings, and what is shown instead."""

    @property
    def running(self) -> bool | None:
        """Whether the daemon runs; None if unknown."""
        return None if self.holder is None else self.holder > 0

    @property
    def health(self) -> Health:
        """The health of the guard, from the document that it published."""
        now = self.observation.boottime_seconds
        return health.of_host(self.live, running=self.running, now_seconds=now, mode=self.mode)


def gather(paths: Paths) -> Status:
    """Read everything, in about LOOK_SECONDS. Raises HostError only if not even the limit is readable."""
    unread: list[str] = []
    runtime_dir = RuntimeDir(paths)
    holder = runtime_dir.holder()
    live = runtime_dir.status() if holder != 0 else None
    if live is not None and holder is not None and live.get("pid") != holder:
        live = None  # of an earlier daemon
    policy = _policy(paths, live, unread)
    state, last = _past(paths, unread)
    observation = _observe(paths, state)
    return Status(
        mode=paths.mode,
        holder=holder,
        live=live,
        silent_seconds=health.silent_seconds(live, observation.boottime_seconds),
        other_runs=any(RuntimeDir(paths.for_mode(mode)).is_running() for mode in Mode if mode is not paths.mode),
        observation=observation,
        cost=cost_of(observation, policy),
        next_step=preview(observation, state, policy),
        last=last,
        min_limit=policy.min_limit,
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
        "min_limit": status.min_limit,
        "tables": [
            encode(table) | {"share": round(table.count / limit, 4) if limit else None} for table in fullest_first(seen)
        ],
        "idle_tables": seen.idle_tables,
        "hidden_entries": seen.hidden_entries,
        "average_chain": None if seen.chain_limit is False else chains.average(chains.alive(seen), seen.buckets),
        "memory": encode(cost) | {"headroom_bytes": cost.headroom_bytes},
        "paused": encode(seen.pause),
        "next_step": {"allowed": isinstance(status.next_step, Raise), **encode(status.next_step)},
        "last_decision": None if status.last is None else decision_document(status.last),
        "health": encode(status.health),
        "unread": list(status.unread),
    }


def _policy(paths: Paths, live: dict[str, Any] | None, unread: list[str]) -> Policy:
    """Return the policy of the running daemon, or else of the settings; note in `unread` if they differ."""
    known = None
    with contextlib.suppress(ValueError):
        known = decode(Policy, (live or {}).get("policy"))
    try:
        settings = load_settings(paths.settings_file, paths.settings_folder, in_container=paths.has_prefix).policy
    except GuardError as error:
        instead = "the defaults" if known is None else "those of the running daemon"
        unread.append(f"settings ({error}): showing {instead}")
        return known or Policy()
    if known is not None and known != settings:
        unread.append("new settings in /etc are not in effect yet: systemctl reload conntrackd-guard")
    return known or settings


def preview(observation: Observation, state: State, policy: Policy) -> Raise | Hold:
    """Return the decision if the fullest table that is raised for filled up now, but not with a flood: no sample is taken here."""
    decision = decide_if_full(observation, state, policy)
    note = (f"(A flood is handled by on_flood: {policy.on_flood}.)",) if policy.on_flood.restricts else ()
    return replace(decision, advice=(*decision.advice, *note))


def _past(paths: Paths, unread: list[str]) -> tuple[State, Row | None]:
    """Return this boot's state and the last decision from history; note in `unread` why if they can't be read."""
    boot_id = files.read_boot_id(paths.boot_id)

    def read() -> tuple[State, Row | None, str]:
        history = History.existing(paths.history)
        if history is None:
            return State(), None, ""
        with history:
            state, _ = fold(history.records(boot_id), Clock().boottime())
            return state, next(history.rows(last=1), None), history.damage

    try:
        state, last, damage = disk.answer(read, "read", paths.history, disk.AT_ITS_END)
    except GuardError as error:
        unread.append(f"history ({error}): rate limit and conflicts are not considered")
        return State(), None
    unread += [f"history: {damage}"] if damage else []
    return state, last


def _observe(paths: Paths, state: State) -> Observation:
    """Read the tables twice, to measure growth."""
    live = LiveKernel(paths)
    kernel = RehearsingKernel(live, rehearsed_limit(state, live.limit())) if paths.mode is Mode.DRY_RUN else live
    observer = Observer(paths, kernel, Clock(), RuntimeDir(paths))
    losses, before = ChainLosses(), observer.observe(rescan=True)
    losses.look(before.tables, observer.present, before.boottime_seconds)
    time.sleep(LOOK_SECONDS)
    seen = observer.observe()
    losses.look(seen.tables, observer.present, seen.boottime_seconds)
    return losses.mark(seen)
