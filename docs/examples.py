"""Output of the program on the host of the worked example, and what follows from the default settings."""

from __future__ import annotations

import io
import re
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from markup import fenced, table
from rich.console import Console

from conntrackd_guard.actions.status import Status, preview
from conntrackd_guard.cli import exits
from conntrackd_guard.cli.main import main
from conntrackd_guard.cli.render.status_text import print_status
from conntrackd_guard.core import budget
from conntrackd_guard.core.assessment import assess
from conntrackd_guard.core.budget import cost_of
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.kernel_messages import recognise
from conntrackd_guard.core.log_fields import event_of, fields_of, level_of
from conntrackd_guard.core.model import (
    INT_MAX,
    MessageKind,
    Observation,
    Outcome,
    OutcomeKind,
    Raise,
    Record,
    State,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.policy import decide
from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.history.database import History
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.paths import Paths

GIB = 1 << 30
NAMESPACE = 4026532316
MESSAGE = f"nf_conntrack: nf_conntrack: table full in netns {NAMESPACE}, dropping packet"
WALL_SECONDS = 1798167720.0
OBSERVED = Observation(
    boottime_seconds=5000.0,
    wall_seconds=WALL_SECONDS,
    boot_id="f2a6c0de",
    limit=262144,
    kernel_limit=262144,
    tables=(
        Table(
            namespace=NAMESPACE,
            label="web",
            count=262144,
            drop=7,
            dropped=7,
            demand_per_second=400.0,
            demand_seconds=1.0,
        ),
        Table(namespace=4026531840, label="initial", initial=True, count=10000, drop=0),
    ),
    buckets=262144,
    entry_slab_bytes=256,
    memory_total_bytes=8 * GIB,
    memory_available_bytes=5 * GIB,
)
"""The host of the worked example: 8 GiB, one full table, one other."""

TRIGGER = Trigger(
    kind=TriggerKind.KERNEL_MESSAGE,
    message_kind=MessageKind.TABLE_FULL,
    namespace=NAMESPACE,
    message=MESSAGE,
    message_count=7,
)


def kernel_messages() -> str:
    """Return every wording of the kernel message; fails if one is not recognised."""
    wordings = [
        "nf_conntrack: nf_conntrack: table full, dropping packet",
        MESSAGE,
        "nf_conntrack: table full, dropping packet",
        "nf_conntrack: table full, dropping packet.",
        "ip_conntrack: table full, dropping packet.",
    ]
    for text in wordings:
        message = recognise(text)
        if message is None or message.kind is not MessageKind.TABLE_FULL:
            raise ValueError(text)
    return fenced("\n".join(wordings))


def demo_log() -> str:
    """Return the raise of `scripts/demo` as the daemon logs it: the guard starts beside a table that is full already."""
    table = Table(namespace=NAMESPACE, label="process 16229", count=4096, drop=20)
    observed = replace(OBSERVED, limit=4096, kernel_limit=4096, tables=(table,))
    return log_line(raised(observed, Trigger(kind=TriggerKind.FILLING_UP, namespace=NAMESPACE)))


def log_line(record: Record | None = None) -> str:
    """Return a raise, by default that of the worked example, as the daemon logs it."""
    record, stream = record or raised(), io.StringIO()
    log = Log("text", stream)
    shown = {name: value for name, value in fields_of(record).items() if name != "key"}
    log.emit(event_of(record), level_of(record), sentence(record, Policy()), **shown)
    return fenced(re.sub(r"^\S+", "2026-12-25T03:02:00Z", stream.getvalue()))


def printed(command: str) -> str:
    """Return what a command prints on the host of the worked example."""
    with tempfile.TemporaryDirectory() as folder:
        text = _printed(command, with_history(folder))
    return fenced(text)


def calculation() -> str:
    """Return the calculation that `guard show` prints for the worked example."""
    with tempfile.TemporaryDirectory() as folder:
        text = _printed("show 1", with_history(folder))
    start = text.index("\nCalculation\n") + 1
    return fenced(text[start : text.index("\n\n", start)])


def status() -> str:
    """Return `guard status` on the host of the worked example, just after the raise."""
    record = raised()
    assert isinstance(record.decision, Raise)  # noqa: S101 - says what the type checker can't know
    policy, limit = Policy(), record.decision.target
    web = Table(namespace=NAMESPACE, label="web", count=264_000, drop=7, demand_per_second=400.0, demand_seconds=0.25)
    after = Observation(
        boottime_seconds=5004.0,
        wall_seconds=WALL_SECONDS + 4,
        boot_id="f2a6c0de",
        limit=limit,
        kernel_limit=limit,
        tables=(web, OBSERVED.tables[1]),
        idle_tables=4,
        buckets=262144,
        entry_slab_bytes=256,
        memory_total_bytes=8 * GIB,
        memory_available_bytes=5 * GIB,
    )
    with tempfile.TemporaryDirectory() as folder, History(with_history(folder).history, mode="reader") as history:
        last = next(iter(history.rows()))
    found = Status(
        mode=Mode.ACT,
        holder=812,
        live={
            "mode": "act",
            "since": WALL_SECONDS - 86400,
            "sources": {"ring_buffer": "following", "journal": "read once a minute"},
        },
        silent_seconds=0.5,
        other_runs=False,
        observation=after,
        cost=cost_of(after, policy),
        next_step=preview(after, State(), policy),
        last=last,
        unread=(),
    )
    stream = io.StringIO()
    print_status(Console(file=stream, width=110, no_color=True), found)
    return fenced("\n".join(line.rstrip() for line in stream.getvalue().splitlines()))


def how_far() -> str:
    """Return where raising ends by default: one full table, half of the memory available, the kernel's own buckets."""
    rows = []
    for total, buckets in ((GIB // 2, 4096), (GIB, 8192), (8 * GIB, 262144), (24 * GIB, 262144), (128 * GIB, 262144)):
        host = Observation(
            boottime_seconds=0.0,
            wall_seconds=0.0,
            boot_id="",
            limit=buckets,
            kernel_limit=buckets,
            tables=(Table(namespace=1, label="initial", initial=True, count=buckets),),
            buckets=buckets,
            entry_slab_bytes=256,
            memory_total_bytes=total,
            memory_available_bytes=total // 2,
        )
        case = assess(Trigger(kind=TriggerKind.MEMORY), host, Policy())
        a = budget.largest_target(case, INT_MAX, 0.0, Policy())
        rows.append((format_bytes(total), f"{buckets:,}", f"{a.target:,}", str(a.bound), format_bytes(a.cost_bytes)))
    return table(("memory", "buckets", "highest limit", "bound", "cost if full"), rows)


def raised(observation: Observation = OBSERVED, trigger: Trigger = TRIGGER) -> Record:
    """Return the record of a raise, by default that of the worked example."""
    decision = decide(trigger, observation, State(), Policy())
    assert isinstance(decision, Raise)  # noqa: S101 - else the example is wrong
    outcome = Outcome(kind=OutcomeKind.APPLIED, limit_after=decision.target)
    return Record(
        key="1",
        mode=Mode.ACT,
        trigger=trigger,
        observation=observation,
        state=State(),
        decision=decision,
        outcome=outcome,
    )


def with_history(folder: str) -> Paths:
    """Return a host whose history holds the worked example."""
    paths = Paths(Path(folder))
    paths.state_folder.mkdir(parents=True)
    record = raised()
    with History(paths.history, mode="writer") as history:
        history.add(record, policy=Policy(), sentence=sentence(record, Policy()), kernel_release="6.17")
    return paths


def _printed(command: str, paths: Paths) -> str:
    stream = io.StringIO()
    with redirect_stdout(stream):
        code = main(command.split(), paths)
    if code != exits.Exit.DONE:
        raise ValueError(f"guard {command}: exit code {code}")
    return stream.getvalue().rstrip("\n")
