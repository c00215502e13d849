"""Find settings that are valid, but switch the guard off or can't work on this host."""

import errno
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from conntrackd_guard.core import budget
from conntrackd_guard.core.arithmetic import Bound
from conntrackd_guard.core.configuration import Listen, Mode, Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.model import Observation
from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.stat import MemoryReader
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.settings.keys import Settings
from conntrackd_guard.settings.settings import DEFAULT

_KEYS = {
    Bound.MAX_LIMIT: "max_limit", Bound.BUDGET: "budget", Bound.MIN_AVAILABLE: "min_available", Bound.CHAINS: "buckets",
}  # fmt: skip
"""The setting behind each bound."""
_IGNORED_IN_DRY_RUN = {"notify": "notify", "metrics_file": "metrics_file"}
"""Settings and their fields."""


def warnings(settings: Settings, paths: Paths) -> list[str]:
    """Return one sentence for each, with its place and the setting's name. Unreadable facts give none. Never raises."""
    found = [*_of_bounds(settings.policy, paths), *_of_places(settings)]
    if (listen := settings.metrics_http) is not None and not RuntimeDir(paths).is_running() and _is_taken(listen):
        text = f"another program listens on port {listen.port}: metrics can't be served. Set another one."
        found.append(("metrics_http", text))
    found += [
        (name, "has no effect in mode dry-run.")
        for name, field in _IGNORED_IN_DRY_RUN.items()
        if settings.mode is Mode.DRY_RUN and getattr(settings, field) is not None
    ]
    places = settings.origins
    return [f"{'' if places[name] == DEFAULT else f'{places[name]}: '}{name}: {text}" for name, text in found]


def _of_bounds(policy: Policy, paths: Paths) -> Iterator[tuple[str, str]]:
    """Yield the bounds that allow no raise even if nothing else uses this host's memory."""
    kernel, memory = LiveKernel(paths), MemoryReader(paths, RuntimeDir(paths)).read()
    try:
        limit, buckets = kernel.limit_in_force(), kernel.buckets()
    except GuardError:
        return
    total, flood = memory.total_bytes, policy.on_flood.limit
    if limit and flood is not None and flood <= limit:
        yield "on_flood", f"raise_to {flood:,} is not above the limit in force ({limit:,}): it does what hold does."
    if policy.max_limit is not None and limit and policy.max_limit <= limit:
        text = f"{policy.max_limit:,} is not above the limit in force ({limit:,}): nothing is raised. Set a higher one, or none."
        yield "max_limit", text
    if policy.min_limit is not None and policy.max_limit is not None and policy.min_limit > policy.max_limit:
        yield "min_limit", f"{policy.min_limit:,} is above max_limit ({policy.max_limit:,}), which bounds it."
    if not total:
        return
    most, least = budget.budget_bytes(policy, total, memory.hugetlb_bytes), budget.min_available_bytes(policy, total)
    if most + least > total:
        figures = f"budget ({format_bytes(most)}) and min_available ({format_bytes(least)})"
        text = f"{figures} are more than this host's {format_bytes(total)}: raises end before the budget is used."
        yield "budget" if policy.min_available is None else "min_available", text
    empty = Observation(
        boottime_seconds=0.0, wall_seconds=0.0, boot_id="", limit=limit, kernel_limit=limit, buckets=buckets,
        entry_slab_bytes=memory.entry_slab_bytes, memory_total_bytes=total, memory_hugetlb_bytes=memory.hugetlb_bytes,
        memory_available_bytes=total - memory.hugetlb_bytes,
    )  # fmt: skip
    allowed = budget.highest_affordable(empty, policy)
    name = _KEYS.get(allowed.bound) if allowed is not None else None
    if allowed is not None and name != "max_limit" and allowed.target < (policy.min_limit or 0):
        text = f"{policy.min_limit:,} is more than this host can bear: {allowed.bound} allows {allowed.target:,}."
        yield "min_limit", f"{text} `guard recommend` has the figures."
    if allowed is not None and name not in {None, "max_limit"} and allowed.target <= (limit or 0):
        text = (
            f"allows {allowed.target:,} entries on this host, and the limit in force is {limit:,}: nothing is raised."
        )
        yield str(name), f"{text} `guard status` has the figures."


def _of_places(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield a command and a folder that are not there."""
    if settings.notify is not None:
        command = Path(settings.notify[0])
        mode = _mode(command)
        if mode is not None and not (stat.S_ISREG(mode) and mode & 0o111):
            yield "notify", f"{command} {'is no executable file' if mode else 'does not exist'}: nobody is notified."
    if settings.metrics_file is not None:
        path, folder = Path(settings.metrics_file), Path(settings.metrics_file).parent
        mode = _mode(folder)
        if mode is not None and not stat.S_ISDIR(mode):
            yield "metrics_file", f"{folder} {'is no folder' if mode else 'does not exist'}: no metrics are written."
        elif stat.S_ISDIR(_mode(path) or 0):
            yield "metrics_file", f"{path} is a folder: no metrics are written."


def _is_taken(listen: Listen) -> bool:
    """Return whether another program listens there."""
    with socket.socket(socket.AF_INET6 if ":" in listen.address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(tuple(listen))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _mode(path: Path) -> int | None:
    """Return the mode of a file, 0 if it is not there, None if this user can't know."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError:
        return None
