"""Export metrics to a file for node_exporter, to an endpoint for Prometheus, or both, on the recorder's thread.

The figures are read from the host for each export. The state of the main loop comes from its status under /run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from conntrackd_guard import __version__
from conntrackd_guard.core import health
from conntrackd_guard.core.budget import cost_of, highest_affordable
from conntrackd_guard.core.codec import decode
from conntrackd_guard.core.configuration import Listen, Policy
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.metrics import (
    Figures,
    LoopStatus,
    Totals,
    count_up,
    decision_labels,
    exposition,
    families,
    known_decisions,
)
from conntrackd_guard.core.model import Record
from conntrackd_guard.core.records import is_refused, merges
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.namespaces import ReadOwners
from conntrackd_guard.host.conntrack.observer import RESCAN_SECONDS, Observer
from conntrackd_guard.host.metrics_file import MetricsFile
from conntrackd_guard.host.metrics_http import Endpoint
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

EXPORT_SECONDS = 5.0
"""A third of a usual scrape interval (15 s)."""
MAX_CPU_SHARE = 0.01
"""Share of one core for reading tables: 25 µs each, so from 2,000 on they are read less often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """Destinations of metrics."""

    file: Path | None = None
    http: Listen | None = None
    alive: Callable[[], bool] = field(default=lambda: True, compare=False)
    """Whether the main loop works, for /healthz."""


class Exporter:
    """Exports metrics. For the recorder's thread only. `attempt` is `Worker.attempt`."""

    def __init__(
        self,
        paths: Paths,
        runtime_dir: RuntimeDir,
        attempt: Callable[..., bool],
        read_owners: ReadOwners | None = None,
    ) -> None:
        self._read_owners = read_owners
        self._paths, self._runtime_dir, self._attempt = paths, runtime_dir, attempt
        self._outlets = Outlets()
        self._file: MetricsFile | None = None
        self._left: MetricsFile | None = None
        """A file that is no longer in the settings and has yet to be removed."""
        self._endpoint: Endpoint | None = None
        self._observer: Observer | None = None
        self._totals = Totals()
        self._decisions = known_decisions()
        self._due_seconds = self._rescan_seconds = 0.0

    def count(self, record: Record, times: int) -> None:
        """Count a recorded decision as the history does: `times` if it is a hold that repeats."""
        labels = decision_labels(record)
        more = times if merges(record) and not is_refused(record) else 1
        self._decisions[labels] = self._decisions.get(labels, 0) + more

    def turn(self, outlets: Outlets) -> None:
        """Export if an export is due."""
        if outlets != self._outlets:
            self._switch(outlets)
        if self._left is not None and self._attempt("metrics file", self._left.drop):
            self._left = None
        if self._endpoint is not None:
            self._attempt("metrics endpoint", self._endpoint.open)
        began = time.monotonic()
        if outlets == Outlets() or began < self._due_seconds:
            return
        self._due_seconds = began + EXPORT_SECONDS
        texts: list[str] = []
        if self._attempt("metrics", lambda: texts.append(self._text())) and texts[0]:
            if self._file is not None:
                self._attempt("metrics file", self._file.put, texts[0])
            if self._endpoint is not None:
                self._endpoint.show(texts[0])
        if texts != [""]:  # which read nothing yet
            self._due_seconds = max(self._due_seconds, began + (time.monotonic() - began) / MAX_CPU_SHARE)

    def _switch(self, outlets: Outlets) -> None:
        """Apply new destinations; close and remove the old ones."""
        before, self._outlets, self._due_seconds = self._outlets, outlets, 0.0
        self._attempt("metrics", lambda: True)  # clears the last error: it is retried, or no longer matters
        if outlets.file != before.file:
            self._left = self._file
            self._file = None if outlets.file is None else MetricsFile(outlets.file)
        if outlets.http != before.http:
            if self._endpoint is not None:
                self._attempt("metrics endpoint", self._endpoint.close)
            self._endpoint = None if outlets.http is None else Endpoint(outlets.http, outlets.alive)

    def _text(self) -> str:
        """Return the metrics; "" until the main loop has published its status. Raises HostError."""
        live = self._runtime_dir.status() or {}
        if live.get("pid") != self._runtime_dir.pid:
            return ""
        try:
            sources = live["sources"]
            loop = LoopStatus(
                at_seconds=float(live["at"]),
                sources={name: str(sources[name]) for name in ("ring_buffer", "journal") if name in sources},
                conflict=bool(live["conflict"]),
                over_budget=bool(live["over_budget"]),
                recorder_errors=len(live["recorder"]["trouble"]),
                health=health.of_document(live).level,
            )
            policy = decode(Policy, live.get("policy"))
        except (KeyError, TypeError, ValueError) as error:
            cause = OSError(None, f"{error!r}")
            raise HostError("parse", self._paths.status_file, cause, "The guard rewrites it within seconds.") from error
        try:
            if self._observer is None:
                self._observer = Observer(
                    self._paths, LiveKernel(self._paths), Clock(), self._runtime_dir, self._read_owners
                )
            now = time.monotonic()
            rescan = now >= self._rescan_seconds
            self._rescan_seconds = now + RESCAN_SECONDS if rescan else self._rescan_seconds
            seen = self._observer.observe(rescan=rescan)
        except OSError as error:
            raise HostError("read", error.filename, error, "Retrying.") from error
        self._totals = count_up(self._totals, seen)
        figures = Figures(
            version=__version__,
            observation=seen,
            cost=cost_of(seen, policy),
            reach=highest_affordable(seen, policy),
            totals=self._totals,
            decisions=self._decisions,
            loop=loop,
        )
        return exposition(families(figures))
