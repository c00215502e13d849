"""Debug messages of the main loop (`guard run --log-level debug`): what it reads, and why nothing happens."""

from collections.abc import Collection, Sequence
from functools import partial

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.dedup import MessageStatus
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.explain_holds import counters
from conntrackd_guard.core.kernel_messages import KernelEvent
from conntrackd_guard.core.model import Hold, Record, Table
from conntrackd_guard.core.records import table_name
from conntrackd_guard.core.usage import QUIET_SECONDS
from conntrackd_guard.recording.recorder import Recorder

_TABLES_SHOWN = 3


class DebugLog:
    """Logs through the recorder, so that the loop never waits. Exists only if the level is debug."""

    def __init__(self, recorder: Recorder) -> None:
        self._log = partial(recorder.log, "guard.debug", "debug")
        self._open: frozenset[int | None] = frozenset()

    def message(self, event: KernelEvent, status: MessageStatus) -> None:
        """Log a kernel message that was read, and whether it is new."""
        self._log(f"Kernel message ({status.value}, from the {event.source}): {event.message.text}")

    def tick(self, tables: Sequence[Table], limit: int, policy: Policy) -> None:
        """Log the fullest tables of a tick."""
        fullest = sorted(tables, key=lambda table: table.count, reverse=True)[:_TABLES_SHOWN]
        shown = "; ".join(
            f"{table_name(table)} {table.count:,} ({', '.join([f'{table.count / limit:.0%}', *counters(table)])})"
            for table in fullest
        )
        self._log(f"Tick: {len(tables)} tables read, limit {limit:,}, threshold {policy.threshold:.0%}: {shown}.")

    def episodes(self, names: Collection[int | None]) -> None:
        """Log which episodes were opened and closed since the last call."""
        now = frozenset(names)
        for name in now - self._open:
            self._log(f"Episode opened: {_netns(name)}.")
        for name in self._open - now:
            self._log(f"Episode closed: {_netns(name)}, no need for {QUIET_SECONDS:g} s.")
        self._open = now

    def decision(self, record: Record, policy: Policy) -> None:
        """Log a decision, also one that is not recorded or merged with an earlier one."""
        retry = ""
        if isinstance(record.decision, Hold) and record.decision.retry_seconds is not None:
            retry = f" Next try in {record.decision.retry_seconds - record.observation.boottime_seconds:.2f} s."
        self._log(f"Decision on {record.trigger.kind}: {sentence(record, policy)}{retry}")

    def failure(self, error: Exception) -> None:
        """Log an error of the host that was logged as an error before."""
        self._log(f"Still failing: {error}.")


def _netns(name: int | None) -> str:
    return "messages without a namespace" if name is None else f"netns {name}"
