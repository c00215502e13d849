"""Verify the last raise by the readings that the main loop makes anyway, and hand the result to the recorder."""

from collections.abc import Sequence

from conntrackd_guard.core import verification
from conntrackd_guard.core.model import Record, Table
from conntrackd_guard.core.records import WITHOUT_NEED
from conntrackd_guard.core.verification import End, PendingVerification
from conntrackd_guard.recording.recorder import Recorder


class Verifier:
    """Has at most one raise under verification."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._pending: PendingVerification | None = None

    def begin(self, record: Record, limit: int, tables: Sequence[Table]) -> None:
        """Begin to verify a raise that left `limit` in force; the verification of the one before ends."""
        seen, end = record.observation, End.LIMIT_CHANGED
        if self._pending is not None and seen.kernel_limit == self._pending.limit:
            self._pending, end = verification.seen(self._pending, seen.tables, seen.boottime_seconds), End.RAISED_AGAIN
        self._conclude(end, seen.boottime_seconds)
        if record.trigger.kind not in WITHOUT_NEED:  # nothing was full, and the tables aren't watched
            self._pending = verification.begin(record, limit, tables)

    def look(self, tables: Sequence[Table], now: float) -> None:
        """Take a reading of the tables, and conclude once the raise was watched for long enough."""
        if self._pending is not None:
            self._pending = verification.seen(self._pending, tables, now)
            if verification.is_over(self._pending, now):
                self._conclude(End.WATCHED, now)

    def note_limit(self, limit: int | None, now: float) -> None:
        """Conclude if another limit is in force than the raise left."""
        if self._pending is not None and limit != self._pending.limit:
            self._conclude(End.LIMIT_CHANGED, now)

    def _conclude(self, end: End, now: float) -> None:
        """Hand over the verification under way, if there is one: it is written after its raise's row."""
        if self._pending is not None:
            self._recorder.record_verification(verification.conclude(self._pending, end, now))
            self._pending = None
