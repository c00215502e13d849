"""Read what a recommendation for this host needs: tables, memory, the peak of the last month, and a sample."""

import contextlib
import os
from typing import TYPE_CHECKING

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.model import Observation
from conntrackd_guard.core.recommendation import Peak, Recommendation, recommend
from conntrackd_guard.core.units import utc
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.load_facts import load_facts
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

if TYPE_CHECKING:
    from conntrackd_guard.core.traffic.diagnosis import Finding

PEAK_SECONDS = 30 * 86400.0
"""The peak of the last month counts: a month has every usual day, batch run and backup."""
LEAST_SAMPLED = 100
"""Entries of a table that is worth a sample (`diagnosis.LEAST_SEEN`)."""
SAMPLED = 1000
"""Entries of a sample: shares within 3 %, where half a table is asked for. `tuning.SAMPLE_ENTRIES` takes 8 to 25 ms more."""


def for_host(paths: Paths, policy: Policy, entries: int | None) -> Recommendation:
    """Return the recommendation for this host; `entries`: the peak to expect. Raises GuardError."""
    seen = Observer(paths, LiveKernel(paths), Clock(), RuntimeDir(paths)).observe(rescan=True)
    return recommend(
        seen,
        policy,
        _peak(paths, seen) if entries is None else Peak(entries=entries, source="--entries"),
        load=load_facts(paths),
        is_described=False,
        cpus=os.cpu_count(),
        findings=_findings(paths, seen),
    )


def _peak(paths: Paths, seen: Observation) -> Peak:
    """Return the most that one table held in the last month, by the history or now."""
    now = max((table.count for table in seen.tables), default=0)
    if not os.path.exists(paths.history):
        return Peak(entries=now, source="the fullest table now")
    from conntrackd_guard.history import file, series  # noqa: PLC0415 - 10 ms, and 20 ms less than with `History`

    source = "the fullest table now"
    try:
        database, _ = file.connect(paths.history, writes=False, traceless=True)
        with contextlib.closing(database), file.translate_errors("read", paths.history):
            found = series.peak(database, int(seen.wall_seconds - PEAK_SECONDS))
        if found is not None and found[0] > now:
            return Peak(entries=found[0], source=f"history, {utc(found[1])}")
    except GuardError:
        source = f"{source}; the history can't be read"
    return Peak(entries=now, source=source)


def _findings(paths: Paths, seen: Observation) -> "tuple[Finding, ...]":
    """Return what a sample of the fullest table shows; nothing of a small one, or where it can't be read."""
    if max((table.count for table in seen.tables), default=0) < LEAST_SAMPLED:
        return ()
    from conntrackd_guard.host.conntrack.sampler import Sampler  # noqa: PLC0415 - 15 ms

    with contextlib.suppress(GuardError):
        sampler = Sampler(paths, entries=SAMPLED)
        found = sampler.find()
        return sampler.analyze(found[0], found).findings if found else ()
    return ()
