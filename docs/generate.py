"""Reference made from the program itself. cog calls these functions from the documents; `scripts/docs` runs cog."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from examples import OBSERVED, WALL_SECONDS, raised, with_history
from markup import definition, table

from conntrackd_guard import __version__
from conntrackd_guard.cli import exits
from conntrackd_guard.cli.arguments import parser as guard_parser
from conntrackd_guard.core import metrics, tuning
from conntrackd_guard.core.budget import cost_of, highest_affordable
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.health import Level
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.log_events import MESSAGE_IDS, message_id
from conntrackd_guard.core.log_fields import event_of, fields_of, level_of
from conntrackd_guard.core.model import (
    Hold,
    Outcome,
    OutcomeKind,
    Record,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.records import ACTIONABLE
from conntrackd_guard.history.database import History
from conntrackd_guard.history.documents import decision_document
from conntrackd_guard.host.container import DROP_IN, JOURNALS, MOUNTS, Mount
from conntrackd_guard.settings.keys import BY_NAME, FIXED

ROOT = Path(__file__).resolve().parents[1]

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
        not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
        and action.help != argparse.SUPPRESS
        and action.dest != "root"  # every command has it
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


# Containers


def chart_values() -> str:
    """Return the chart's values that have a comment, their defaults, and the comments; fails if a group has none."""
    text = (ROOT / "deploy/helm/conntrackd-guard/values.yaml").read_text("utf-8")
    values = yaml.safe_load(text)
    found, path, comment = dict[str, tuple[Any, str]](), list[str](), list[str]()
    for line in text.splitlines():
        if line.lstrip().startswith("# "):
            comment.append(line.strip(" #"))
        elif match := re.match(r"( *)(\w+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment:
                found[".".join(path)] = (reduce(getitem, path, values), " ".join(comment))
            comment = []
    if missing := values.keys() - {name.partition(".")[0] for name in found}:
        raise ValueError(f"no comment: {missing}")
    rows = [(f"`{name}`", f"`{json.dumps(value)}`", comment) for name, (value, comment) in found.items()]
    return table(("value", "default", "meaning"), rows)


def container_mounts() -> str:
    """Return the paths of the host that a container needs."""
    mounts = [(mount, "yes" if mount.is_needed else "no") for mount in (*MOUNTS, *JOURNALS, DROP_IN)]
    rows = [
        (
            f"`{mount.path}`",
            "read-write" if mount.writable else "read-only",
            needed,
            f"{mount.without}{_propagated(mount)}",
        )
        for mount, needed in mounts
    ]
    return table(("path of the host", "access", "needed to raise", "without it"), rows)


def _propagated(mount: Mount) -> str:
    return f" (`mountPropagation: {mount.propagation}`)" if mount.propagation else ""


# Decisions


def hold_reasons() -> str:
    """Return every hold reason: sentence, next step from the message catalog, level, MESSAGE_ID."""
    return "\n\n".join(_hold_reason(reason) for reason in HoldReason)


def _hold_reason(reason: HoldReason) -> str:
    record = _held(reason)
    number = message_id(event_of(record), reason.code)
    _, sentence, *steps = _catalog(number)
    level = f"Level {level_of(record)}. MESSAGE_ID {number}."
    if reason in ACTIONABLE:
        level = f"Needs an operator. {level}"
    return definition(f"`{reason.code}` ({reason.label})", sentence, *steps, level)


def _catalog(number: str) -> list[str]:
    """Return the title of a catalog entry and its paragraphs."""
    entries = (ROOT / "share/catalog/conntrackd-guard.catalog").read_text("utf-8").split("\n-- ")
    (entry,) = [entry for entry in entries if entry.startswith(number)]
    head, *paragraphs = re.sub(r"(?m)^#.*\n?", "", entry).strip().split("\n\n")
    titles = re.findall(r"(?m)^Subject: (.+)$", head)
    return [" ".join(text.split()).replace("@", "") for text in (*titles, *paragraphs)]


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
                History(with_history(folder).history, mode="reader") as history,
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
    """Return every log event but the holds, with the title of its entry in the message catalog."""
    events = [(event, number) for event, number in MESSAGE_IDS.items() if " " not in event]
    rows = [(f"`{event}`", f"`{number}`", _catalog(number)[0]) for event, number in events]
    return table(("event", "MESSAGE_ID", "title in the catalog"), rows)


def log_fields() -> str:
    """Return the fields of a raise's log message, as the journal has them."""
    return ", ".join(f"`GUARD_{name.upper()}`" for name in ("event", *fields_of(raised())))


def metric_families() -> str:
    """Return every metric: name, type, labels, help."""
    loop = metrics.LoopStatus(
        at_seconds=WALL_SECONDS,
        sources={"journal": ""},
        conflict=False,
        over_budget=False,
        recorder_errors=0,
        health=Level.HEALTHY,
    )
    figures = metrics.Figures(
        version=__version__,
        observation=OBSERVED,
        cost=cost_of(OBSERVED, Policy()),
        reach=highest_affordable(OBSERVED, Policy()),
        totals=metrics.count_up(metrics.Totals(), OBSERVED),
        decisions=metrics.known_decisions(),
        loop=loop,
    )
    rows = [
        (f"`{family.name}`", family.kind.value, ", ".join(f"`{label}`" for label in family.labels), family.text)
        for family in metrics.families(figures)
    ]
    return table(("metric", "type", "labels", "meaning"), rows)
