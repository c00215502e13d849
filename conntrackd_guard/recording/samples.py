"""Has the table that a decision is about portrayed, just after it: in the recorder's thread, never in the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conntrackd_guard.core.configuration import Addresses
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.explain import concerned, table_name
from conntrackd_guard.core.model import OutcomeKind, Raise, Record, TriggerKind
from conntrackd_guard.core.urgency import needs_operator
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.recording.history_writer import HistoryWriter

if TYPE_CHECKING:
    from conntrackd_guard.host.conntrack.sampler import Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How samples are taken for decisions, and for how long they are kept."""

    entries: int = 0
    """0: none is taken."""
    addresses: Addresses = Addresses.FULL
    retention_seconds: float = 30 * 86400.0


class TableSampler:
    """Takes portraits and keeps them in history. Methods raise HostError where the history refuses."""

    def __init__(self, paths: Paths, history_writer: HistoryWriter, say: Callable[..., None]) -> None:
        self._paths, self._scribe, self._say = paths, history_writer, say
        self._sampler: Sampler | None = None
        self._made_for = Sampling()

    def analyze(self, record: Record, sampling: Sampling) -> None:
        """Portray the record's table, where it was just written and somebody will ask who fills that.

        What can't be sampled is said, and no trouble: the decision stands without.
        """
        table = concerned(record)
        if not sampling.entries or table is None or not _matters(record):
            return
        if self._scribe.history().find_key(record.key) is None:
            return  # counted in the row of an earlier one, which has its sample
        sampler = self._sampler_for(sampling)
        found = sampler.find()
        name = table_name(table)
        try:
            one = next((one for one in found if one.table.namespace == table.namespace), None)
            if one is None:
                self._say("guard.info", "info", f"No sample of {name}: it is gone, or can't be read.", key=record.key)
                return
            portrait = sampler.analyze(one, found)
        except GuardError as error:
            self._say("guard.info", "info", f"No sample of {name}: {error}", key=record.key)
            return
        self._scribe.history().add_portrait(record.key, portrait)
        first = portrait.findings[0]
        self._say(
            "guard.sample",
            "info",
            f"What fills the table of {name}: {first.cause}. {first.meaning} {'; '.join(first.figures)}.",
            key=record.key,
            cause=first.cause.value,
            seen=portrait.sample.seen,
            took_ms=round(1000 * portrait.took_seconds),
        )

    def prune(self, sampling: Sampling) -> None:
        """Delete the samples that are older than they are to be kept."""
        self._scribe.history().prune_portraits(time.time() - sampling.retention_seconds)

    def _sampler_for(self, sampling: Sampling) -> Sampler:
        if self._sampler is None or sampling != self._made_for:
            from conntrackd_guard.host.conntrack.sampler import Sampler  # noqa: PLC0415 - 1 MB that a quiet guard does without

            self._sampler = Sampler(self._paths, enter=True, entries=sampling.entries, addresses=sampling.addresses)
            self._made_for = sampling
        return self._sampler


def _matters(record: Record) -> bool:
    """Whether somebody will ask who fills the table: a need was met by a raise, or by a bound."""
    raised = isinstance(record.decision, Raise) and record.trigger.kind is not TriggerKind.START
    return (raised and record.outcome.kind in {OutcomeKind.APPLIED, OutcomeKind.REHEARSED}) or needs_operator(record)
