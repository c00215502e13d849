"""Markdown made from the program itself. cog calls these functions from the documents; `scripts/docs` runs cog."""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from textwrap import TextWrapper

from rich.console import Console

from conntrackd_guard import __version__
from conntrackd_guard.actions.status import Status, preview
from conntrackd_guard.cli import exits
from conntrackd_guard.cli.arguments import parser as guard_parser
from conntrackd_guard.cli.main import main
from conntrackd_guard.cli.render.status_text import print_status
from conntrackd_guard.core import budget, metrics, tuning
from conntrackd_guard.core.budget import cost_of, highest_affordable
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.explain import sentence
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.kernel_messages import recognise
from conntrackd_guard.core.log_events import MESSAGE_IDS
from conntrackd_guard.core.log_fields import event_of, fields_of, level_of
from conntrackd_guard.core.model import (
    INT_MAX,
    Hold,
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
from conntrackd_guard.core.records import ACTIONABLE
from conntrackd_guard.core.units import format_bytes
from conntrackd_guard.history.database import History
from conntrackd_guard.history.documents import decision_document
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.keys import BY_NAME, FIXED

ROOT = Path(__file__).resolve().parents[1]
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
        Table(namespace=NAMESPACE, label="web", count=262144, drop=7, dropped=7, demand_per_second=400.0),
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

_WRAP = TextWrapper(width=118, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def definition(term: str, *paragraphs: str) -> str:
    """Return an entry of a definition list, its text as Markdown."""
    first, *rest = [_WRAP.wrap(text) for text in paragraphs if text]
    lines = [term, f": {first[0]}", *(f"  {line}" for line in first[1:])]
    for paragraph in rest:
        lines += ["", *(f"  {line}" for line in paragraph)]
    return "\n".join(lines)


def fenced(text: str, kind: str = "text") -> str:
    """Return `text` as a code block."""
    return f"```{kind}\n{text.strip(chr(10))}\n```"


# Commands


def commands() -> str:
    """Return a section for every command: what it does, its arguments and an example."""
    return "\n\n".join(_command(name, parser) for name, parser in _parsers("guard", guard_parser()))


def _parsers(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for word, child in action.choices.items():
                child.description = child.description or helps[word]
                yield f"{name} {word}", child
                yield from _parsers(f"{name} {word}", child)


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    description = (parser.description or "").strip()
    parts = [f"### {name}", f"{description[:1].upper()}{description[1:].rstrip('.')}."]
    parts += [_argument(action, parser) for action in parser._actions if _shown(action)]
    if parser.epilog:
        example, _, remark = parser.epilog.removeprefix("Example: ").partition("    ")
        parts += [f"Example: `{example.strip()}` {remark.strip()}".strip()]
    return "\n\n".join(parts)


def _shown(action: argparse.Action) -> bool:
    return (
        not isinstance(action, argparse._SubParsersAction | argparse._HelpAction) and action.help != argparse.SUPPRESS
    )


def _argument(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    taken = "|".join(map(str, action.choices)) if action.choices else action.metavar or action.dest.upper()
    names = ", ".join(action.option_strings) or str(taken)
    takes = f" {taken}" if action.option_strings and action.nargs != 0 else ""
    if not action.help:
        raise ValueError(f"{parser.prog}: {names} has no help")
    text = action.help.replace("%(default)s", str(action.default)).replace("%(prog)s", parser.prog).rstrip(".")
    return definition(f"`{names}{takes}`", f"{text[:1].upper()}{text[1:]}.")


def exit_codes() -> str:
    """Return what each exit code means: the text under it in its module."""
    (enum,) = [node for node in ast.parse(inspect.getsource(exits)).body if isinstance(node, ast.ClassDef)]
    texts = [ast.literal_eval(node.value) for node in enum.body[2::2] if isinstance(node, ast.Expr)]
    return "\n\n".join(definition(str(code.value), text) for code, text in zip(exits.Exit, texts, strict=True))


# Settings


def settings(*names: str) -> str:
    """Return the settings named: what each does and takes, where its default comes from, and other values."""
    return "\n\n".join(_setting(name) for name in names)


def _setting(name: str) -> str:
    key = BY_NAME[name]
    others = [f"With `{value}`: {effect}" for value, effect in key.instead]
    return definition(
        f"`{key.name}: {key.default}`", f"{key.does} Takes {key.kind.expected}.", f"Default: {key.source}", *others
    )


def settings_table(*names: str) -> str:
    """Return some settings in short."""
    rows = [(f"`{key.name}`", f"`{key.default}`", key.does) for key in map(BY_NAME.__getitem__, names)]
    return table(("setting", "default", "purpose"), rows)


def fixed_values() -> str:
    """Return the figures that are no settings, each with its reason."""
    constants = [name for name in vars(tuning) if name.isupper()]
    current = [name for name in FIXED if any(constant.startswith(name.upper()) for constant in constants)]
    return "\n\n".join(definition(f"`{name}`", f"{FIXED[name]}.") for name in current)


# Decisions


def hold_reasons() -> str:
    """Return every hold reason, its sentence, its level in the log, and whether it needs an operator."""
    return "\n\n".join(
        definition(
            f"`{reason.code}` ({reason.label})",
            reason.sentence,
            f"Level {level_of(_held(reason))}." + (" Needs an operator." if reason in ACTIONABLE else ""),
        )
        for reason in HoldReason
    )


def _held(reason: HoldReason) -> Record:
    return Record(
        key="1",
        mode=Mode.ACT,
        trigger=Trigger(kind=TriggerKind.FILLING_UP),
        observation=OBSERVED,
        state=State(),
        decision=Hold(reason=reason),
        outcome=Outcome(kind=OutcomeKind.NONE),
    )


def document_fields(kind: str, meanings: dict[str, str]) -> str:
    """Return a table of JSON fields; fails if `meanings` names others than the program prints."""
    match kind:
        case "decision":
            with (
                tempfile.TemporaryDirectory() as folder,
                History(_with_history(folder).history, mode="reader") as history,
            ):
                printed = set(decision_document(next(iter(history.rows()))))
        case _:
            raise ValueError(kind)
    return _explained(printed, meanings)


def dataclass_fields(kind: type, meanings: dict[str, str]) -> str:
    """Return a table of a value's fields; fails if `meanings` names others."""
    return _explained({field.name for field in fields(kind)}, meanings)


def _explained(printed: set[str], meanings: dict[str, str]) -> str:
    if printed != meanings.keys():
        raise ValueError(f"not explained: {printed - meanings.keys()}; gone: {meanings.keys() - printed}")
    return table(("field", "meaning"), [(f"`{name}`", text) for name, text in meanings.items()])


# Log and metrics


def log_events() -> str:
    """Return every log event with the title of its entry in the message catalog."""
    catalog = (ROOT / "share/catalog/conntrackd-guard.catalog").read_text("utf-8")
    titles = dict(re.findall(r"(?m)^-- ([0-9a-f]{32})\nSubject: (.+)$", catalog))
    rows = [(f"`{event}`", f"`{number}`", titles[number].replace("@", "")) for event, number in MESSAGE_IDS.items()]
    return table(("event", "MESSAGE_ID", "title in the catalog"), rows)


def log_fields() -> str:
    """Return the fields of a raise's log message, as the journal has them."""
    return ", ".join(f"`GUARD_{name.upper()}`" for name in ("event", *fields_of(_raised())))


def metric_families() -> str:
    """Return every metric: name, type, labels, help."""
    loop = metrics.LoopStatus(
        at_seconds=WALL_SECONDS, sources={"journal": ""}, conflict=False, over_budget=False, recorder_errors=0
    )
    figures = metrics.Figures(
        version=__version__,
        observation=OBSERVED,
        cost=cost_of(OBSERVED, Policy()),
        reach=highest_affordable(OBSERVED, Policy()),
        totals=metrics.count_drops(metrics.DropTotals(), OBSERVED),
        decisions=metrics.known_decisions(),
        loop=loop,
    )
    rows = [
        (f"`{family.name}`", family.kind.value, ", ".join(f"`{label}`" for label in family.labels), family.text)
        for family in metrics.families(figures)
    ]
    return table(("metric", "type", "labels", "meaning"), rows)


# Examples


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
    return log_line(_raised(observed, Trigger(kind=TriggerKind.FILLING_UP, namespace=NAMESPACE)))


def log_line(record: Record | None = None) -> str:
    """Return a raise, by default that of the worked example, as the daemon logs it."""
    record, stream = record or _raised(), io.StringIO()
    log = Log("text", stream)
    shown = {name: value for name, value in fields_of(record).items() if name != "key"}
    log.emit(event_of(record), level_of(record), sentence(record, Policy()), **shown)
    return fenced(re.sub(r"^\S+", "2026-12-25T03:02:00Z", stream.getvalue()))


def printed(command: str) -> str:
    """Return what a command prints on the host of the worked example."""
    with tempfile.TemporaryDirectory() as folder:
        text = _printed(command, _with_history(folder))
    return fenced(text)


def calculation() -> str:
    """Return the calculation that `guard show` prints for the worked example."""
    with tempfile.TemporaryDirectory() as folder:
        text = _printed("show 1", _with_history(folder))
    start = text.index("\nCalculation\n") + 1
    return fenced(text[start : text.index("\n\n", start)])


def status() -> str:
    """Return `guard status` on the host of the worked example, just after the raise."""
    record = _raised()
    assert isinstance(record.decision, Raise)  # noqa: S101 - says what the type checker can't know
    policy, limit = Policy(), record.decision.target
    web = Table(namespace=NAMESPACE, label="web", count=264_000, drop=7, demand_per_second=400.0)
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
    with tempfile.TemporaryDirectory() as folder, History(_with_history(folder).history, mode="reader") as history:
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
        charged = budget.charges(host, (), Policy(), unknown=False)
        a = budget.work_out(host, charged, INT_MAX, 0.0, Policy())
        rows.append((format_bytes(total), f"{buckets:,}", f"{a.target:,}", str(a.bound), format_bytes(a.cost_bytes)))
    return table(("memory", "buckets", "highest limit", "bound", "cost if full"), rows)


def _raised(observation: Observation = OBSERVED, trigger: Trigger = TRIGGER) -> Record:
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


def _with_history(folder: str) -> Paths:
    """Return a host whose history holds the worked example."""
    paths = Paths(Path(folder))
    paths.state_folder.mkdir(parents=True)
    record = _raised()
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
