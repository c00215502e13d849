"""Watch the hash chains: packets that are lost to long ones, and an average as long as those."""

from collections.abc import Sequence

from conntrackd_guard.core import chains
from conntrackd_guard.core.chains import ChainLosses
from conntrackd_guard.core.model import Observation, Table, Trigger, TriggerKind
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.recording.recorder import Recorder

CHAINS_SECONDS = 1.0
"""Interval for comparing the average hash chain with the one from which packets are lost."""
CHAINS_AGAIN_SECONDS = 60.0
"""Interval for deciding again about long chains: the history counts how long they last, and the log has them hourly."""


class ChainWatch:
    """Says when a decision about long chains is due."""

    def __init__(self, observer: Observer, recorder: Recorder) -> None:
        self._observer, self._recorder = observer, recorder
        self._losses = ChainLosses()
        self._is_long = self._is_losing = False
        self._next_at = self._again_at = 0.0

    @property
    def lost(self) -> int | None:
        """Packets lost to chains that are too long, None while none is."""
        return self._losses.total if self._is_long else None

    def look(self, tables: Sequence[Table], now: float) -> Trigger | None:
        """Take a reading of the tables; return the trigger of a decision about long chains, None if none is due.

        That is when they get long, when losses begin or end, and again while they last.
        """
        self._losses.look(tables, self._observer.present, now)
        if now < self._next_at:
            return None
        self._next_at = now + CHAINS_SECONDS
        chain = chains.average(self._observer.entries(), self._observer.buckets) or 0.0
        was_long, was_losing = self._is_long, self._is_losing
        self._is_losing = self._losses.since_seconds is not None
        self._is_long = self._is_losing or (self._observer.chain_limit is not False and chain >= chains.CHAIN_HOLD)
        if self._is_long and (not was_long or self._is_losing != was_losing or now >= self._again_at):
            self._again_at = now + CHAINS_AGAIN_SECONDS
            return Trigger(kind=TriggerKind.CHAINS, since_seconds=self._losses.since_seconds)
        if was_long and not self._is_long:
            text = f"Hash chains are short again (average {chain:.1f}): no more packets are lost to them."
            self._recorder.log("guard.info", "info", text)
        return None

    def mark(self, observation: Observation) -> Observation:
        """Return the observation with each table's losses."""
        return self._losses.mark(observation)
