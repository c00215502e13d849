"""Sample the table that a decision is about, just after it: on the recorder's thread, never in the main loop."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conntrackd_guard.core import tuning
from conntrackd_guard.core.configuration import Addresses
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.model import OutcomeKind, Raise, Record, Table
from conntrackd_guard.core.records import WITHOUT_NEED, concerned, needs_operator, table_name
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.recording.history_writer import HistoryWriter

if TYPE_CHECKING:
    from conntrackd_guard.core.traffic.analysis import TableAnalysis
    from conntrackd_guard.host.conntrack.namespaces import ReadOwners
    from conntrackd_guard.host.conntrack.sampler import Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How decisions' tables are sampled, and for how long samples are kept."""

    entries: int = 0
    """0: never."""
    addresses: Addresses = Addresses.FULL
    retention_seconds: float = 30 * 86400.0


class TableSampler:
    """Analyzes tables and stores the result in history. Methods raise HostError where the history refuses."""

    def __init__(
        self, paths: Paths, history_writer: HistoryWriter, log: Log, read_owners: "ReadOwners | None" = None
    ) -> None:
        self._read_owners = read_owners
        self._paths, self._history_writer, self._log = paths, history_writer, log
        self._sampler: Sampler | None = None
        self._made_for = Sampling()
        self._logged: dict[int, tuple[str, float]] = {}
        """Cause and time (CLOCK_BOOTTIME) of the last sample, by namespace."""

    def analyze(self, record: Record, sampling: Sampling) -> None:
        """Analyze the record's table if the record was just stored and an operator needs to know what fills it.

        A table that can't be sampled is logged, and no failure: the decision stands without.
        """
        table = concerned(record)
        if not sampling.entries or table is None or not _matters(record):
            return
        if self._history_writer.history().find_key(record.key) is None:
            return  # counted in the row of an earlier one, which has its sample
        name = table_name(table)
        try:
            analysis = self._analysis(table, self._sampler_for(sampling))
        except GuardError as error:
            self._log.emit("guard.info", "info", f"No sample of {name}. {error}", key=record.key)
            return
        if analysis is None:
            text = f"No sample of {name}: its table can't be read any more."
            self._log.emit("guard.info", "info", text, key=record.key)
            return
        self._history_writer.history().add_analysis(record.key, analysis)
        self._log_cause(record, table, analysis)

    @staticmethod
    def _analysis(table: Table, sampler: "Sampler") -> "TableAnalysis | None":
        """Return the table's analysis, None if it is gone. A process that ends meanwhile is a reason to look again."""

        def look() -> "TableAnalysis | None":
            found = sampler.find()
            one = next((one for one in found if one.table.namespace == table.namespace), None)
            return None if one is None else sampler.analyze(one, found)

        with suppress(GuardError):
            return look()
        return look()

    def prune(self, sampling: Sampling) -> None:
        """Delete samples older than their retention."""
        self._history_writer.history().prune_samples(time.time() - sampling.retention_seconds)

    def _log_cause(self, record: Record, table: Table, analysis: "TableAnalysis") -> None:
        """Log what fills the table: at level info once an incident, and when the cause changes."""
        first, now = analysis.findings[0], record.observation.boottime_seconds
        cause, seconds = self._logged.get(table.namespace, ("", 0.0))
        is_news = first.cause != cause or now - seconds >= tuning.INCIDENT_SECONDS
        self._logged = {name: known for name, known in self._logged.items() if now - known[1] < tuning.INCIDENT_SECONDS}
        self._logged[table.namespace] = (first.cause, now)
        self._log.emit(
            "guard.sample",
            "info" if is_news else "debug",
            analysis.summary(table_name(table)),
            key=record.key,
            cause=first.cause.value,
            seen=analysis.sample.seen,
            took_ms=round(1000 * analysis.took_seconds),
        )

    def _sampler_for(self, sampling: Sampling) -> "Sampler":
        if self._sampler is None or sampling != self._made_for:
            # 0.8 MiB of 24 that a daemon does without until a table fills
            from conntrackd_guard.host.conntrack.sampler import Sampler  # noqa: PLC0415

            self._sampler = Sampler(
                self._paths,
                entries=sampling.entries,
                addresses=sampling.addresses,
                read_owners=self._read_owners,
            )
            self._made_for = sampling
        return self._sampler


def _matters(record: Record) -> bool:
    """Return whether an operator needs to know what fills the table: after a raise, or where a bound holds one."""
    raised = isinstance(record.decision, Raise) and record.trigger.kind not in WITHOUT_NEED
    return (raised and record.outcome.kind in {OutcomeKind.APPLIED, OutcomeKind.REHEARSED}) or needs_operator(record)
