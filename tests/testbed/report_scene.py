"""A history worth a report: some busy hours, and names and lines that would rather be something else."""

from __future__ import annotations

from dataclasses import replace

from conntrackd_guard.core import verification
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.model import (
    MessageKind,
    Observation,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Raise,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.traffic.analysis import Owner, TableAnalysis
from conntrackd_guard.core.traffic.diagnosis import Evidence
from conntrackd_guard.core.traffic.remedies import diagnose
from conntrackd_guard.core.traffic.sample import count_entries
from conntrackd_guard.core.verification import Drops, End
from conntrackd_guard.history.database import History
from conntrackd_guard.history.series import Point
from conntrackd_guard.host.paths import Paths
from testbed.flows import an_entry

END = 1_798_167_600
BEGIN = END - 4 * 3600
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</style></svg></title><h1>owned</h1>",
    "\u202eevil\x1b[2J\x07",
    "x" * 60,
)
SEEN = Observation(
    boottime_seconds=5000.0,
    wall_seconds=BEGIN + 3000.0,
    boot_id="f2a6c0de",
    limit=262_144,
    kernel_limit=262_144,
    tables=(Table(namespace=7, label=HOSTILE[0], count=262_144, drop=7, dropped=7, demand_per_second=40.0),),
    buckets=262_144,
    entry_slab_bytes=256,
    memory_total_bytes=16 << 30,
    memory_available_bytes=9 << 30,
)


def write(paths: Paths) -> None:
    """Write the history."""
    paths.state_folder.mkdir(parents=True, exist_ok=True)
    with History(paths.history, mode="writer") as history:
        limit = 262_144
        for number, message in enumerate(HOSTILE):
            limit = _raise(history, f"r{number}", limit, message, 600.0 * number)
        order = Override(kind=OverrideKind.PAUSE, reason=HOSTILE[1], uid=0, login_uid=1000)
        _add(
            history,
            replace(_record("o", limit, "", 3600.0), decision=order, trigger=Trigger(kind=TriggerKind.OVERRIDE)),
        )
        history.add_analysis("r1", _portrait())
        history.add_points(_points())


def _raise(history: History, key: str, limit: int, message: str, at: float) -> int:
    """Add what a full table leads to; return the limit it leaves."""
    record = _record(key, limit, message, at)
    decision = decide(record.trigger, record.observation, State(), Policy())
    done = isinstance(decision, Raise)
    after = decision.target if isinstance(decision, Raise) else limit
    kind = OutcomeKind.APPLIED if done else OutcomeKind.NONE
    record = replace(record, decision=decision, outcome=Outcome(kind=kind, limit_after=after if done else None))
    _add(history, record)
    if done:
        now, full = record.observation.boottime_seconds, record.observation.tables[0]
        watch = verification.begin(record, after, [full])
        for seconds in (0.4, 9.9):
            watch = verification.seen(watch, [replace(full, count=limit + int(40 * seconds), drop=9)], now + seconds)
        proof = verification.conclude(watch, End.WATCHED, now + 10)
        ended = proof if key != "r1" else replace(proof, drops=Drops.CONTINUING, dropped=1200, last_drop_seconds=9.0)
        history.add_verification(ended)
    return after


def _portrait() -> TableAnalysis:
    """Return a flood, from a namespace whose names are hostile."""
    flows = [an_entry(6, "SYN_SENT", source=bytes((10, 0, number // 100, number % 100))) for number in range(1000)]
    sample = count_entries(flows, table_entries=393_216)
    table = replace(SEEN.tables[0], count=393_216)
    findings = diagnose(Evidence(sample=sample, in_use=table.count, buckets=262_144, inside="ip netns exec web "))
    owner = Owner(pid=7, process=HOSTILE[1], unit=HOSTILE[2])
    return TableAnalysis(
        wall_seconds=BEGIN + 3601.0,
        limit=393_216,
        table=table,
        owner=owner,
        sample=sample,
        findings=findings,
        source="netlink",
        took_seconds=0.03,
    )


def _record(key: str, limit: int, message: str, at: float) -> Record:
    full = replace(SEEN.tables[0], count=limit)
    return Record(
        key=key,
        mode=Mode.ACT,
        trigger=Trigger(
            kind=TriggerKind.KERNEL_MESSAGE,
            message_kind=MessageKind.TABLE_FULL,
            namespace=7,
            message=message,
            message_count=3,
        ),
        observation=replace(
            SEEN,
            limit=limit,
            kernel_limit=limit,
            tables=(full,),
            wall_seconds=SEEN.wall_seconds + at,
            boottime_seconds=SEEN.boottime_seconds + at,
        ),
        state=State(),
        decision=Override(kind=OverrideKind.RESUME),
        outcome=Outcome(kind=OutcomeKind.NONE),
    )


def _add(history: History, record: Record) -> None:
    history.add(record, policy=Policy(), sentence=sentence(record, Policy()), kernel_release=HOSTILE[0])


def _points() -> list[Point]:
    """Return a day's work: it grows, the limit with it, and the guard was off for half an hour."""
    points = []
    for minute in range(0, 240, 2):
        if 120 <= minute < 150:
            continue
        at = BEGIN + 60 * minute
        limit = int(262_144 * 1.5 ** min(5, max(0, (minute - 40) // 10)))
        for number, label in enumerate(("initial", *HOSTILE)):
            count = int(250_000 * min(5.0, 0.2 + minute / 50) / (1 + number))
            drops = 900 if not number and 60 < minute < 80 else 0
            points.append(
                Point(
                    at=at,
                    namespace=number,
                    label=label,
                    limit=limit,
                    count=min(limit, count),
                    dropped=drops,
                    evicted=drops // 9,
                )
            )
    return points
