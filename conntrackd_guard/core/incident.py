"""An incident: what a table went through from a raise, or a hold that costs connections, until it needs no more. Pure.

Its end is worth a log message where packets were dropped, or could have been: the reader of a warning learns that it is
over. A raise in time has its verification, and is no incident.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from conntrackd_guard.core.log_fields import level_of
from conntrackd_guard.core.model import OutcomeKind, Raise, Record, Table, TriggerKind
from conntrackd_guard.core.records import concerned, table_name
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.core.usage import QUIET_SECONDS, risen

_MOST = 64
"""Incidents at a time: any user can create thousands of namespaces."""
_OF_TABLES = frozenset({TriggerKind.KERNEL_MESSAGE, TriggerKind.FILLING_UP})
_RAISED = frozenset({OutcomeKind.APPLIED, OutcomeKind.REHEARSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One table's, under way."""

    table: Table
    """As last seen."""
    began_seconds: float
    first_limit: int
    raises: int = 0
    is_held: bool = False
    """A hold cost connections, or would have."""
    dropped: int | None = None
    """Packets, also just before it began; None while the counter could not be read."""
    is_least: bool = False
    """Only the kernel's messages count those before it began: at most ten in 5 s."""

    @property
    def matters(self) -> bool:
        """Whether its end is worth a message."""
        return self.is_held or bool(self.dropped)


Incidents = Mapping[int, Incident]
"""By namespace."""


def on_record(incidents: Incidents, record: Record) -> Incidents:
    """Return the incidents after a decision: one begins with a raise, or with a hold that is worth a warning.

    A hold for the table of a user namespace begins none: there may be thousands.
    """
    table, trigger = concerned(record), record.trigger
    raised = isinstance(record.decision, Raise) and record.outcome.kind in _RAISED
    if table is None or not trigger.live or trigger.kind not in _OF_TABLES:
        return incidents
    if trigger.namespace not in {None, table.namespace}:
        return incidents  # its table could not be read: nothing would show the end
    known = incidents.get(table.namespace)
    if not raised and level_of(record) not in {"warning", "error"}:
        return incidents
    if known is None:
        if len(incidents) >= _MOST or (table.user_owned and not raised):  # any user could have each one's end logged
            return incidents
        now, limit = record.observation.boottime_seconds, record.observation.limit or 0
        messages = trigger.message_count if raised else 0  # each is about a packet, and rate-limited
        is_least = messages > (table.dropped or 0)
        dropped = messages if is_least else table.dropped
        known = Incident(table=table, began_seconds=now, first_limit=limit, dropped=dropped, is_least=is_least)
    known = _seen(known, table)
    return {
        **incidents,
        table.namespace: replace(known, raises=known.raises + raised, is_held=known.is_held or not raised),
    }


def on_tables(incidents: Incidents, tables: Iterable[Table]) -> Incidents:
    """Return the incidents after a look at the tables."""
    found = {table.namespace: table for table in tables if table.namespace in incidents}
    return {name: _seen(known, found[name]) if name in found else known for name, known in incidents.items()}


def sentence(over: Incident, limit: int, now: float, *, dry_run: bool) -> str:
    """Return that an incident is over: table, how long, packets dropped, limit now. It ended QUIET_SECONDS ago."""
    lasted = format_duration(max(1, round(now - QUIET_SECONDS - over.began_seconds)))
    dropped = "drops unknown"
    if over.dropped is not None:
        plural = "" if over.dropped == 1 else "s"
        dropped = f"{'at least ' * over.is_least}{over.dropped:,} packet{plural} dropped"
    where = "In the dry run the limit" if dry_run else "The limit"
    raises = f"{over.raises} raise{'s' * (over.raises > 1)}"
    if limit == over.first_limit:  # another program or an operator may have undone what was raised
        state = f"is {limit:,} again, after {raises}" if over.raises else f"is still {limit:,}"
    else:
        state = f"is now {limit:,}" + (f" ({raises} from {over.first_limit:,})" if over.raises else "")
    return f"Incident over: {table_name(over.table)}, {lasted}, {dropped}. {where} {state}."


def _seen(known: Incident, table: Table) -> Incident:
    """Return the incident with one more reading of its table."""
    if table.drop is None:
        return known
    return replace(known, table=table, dropped=(known.dropped or 0) + risen(known.table.drop, table.drop))
