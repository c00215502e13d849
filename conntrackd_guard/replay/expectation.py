"""A policy as a test: a file with cases of a host, a series or messages, and what must come of them.

Every scalar is read as text, as in the settings, so no rule of YAML about numbers or dates applies.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from conntrackd_guard.core import units
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import HostError, SettingsError
from conntrackd_guard.core.model import MessageKind
from conntrackd_guard.core.text import printable
from conntrackd_guard.replay.engine import replay
from conntrackd_guard.replay.model import Grade, HostFacts, HostInput, HostResult, Message, Sample
from conntrackd_guard.settings.settings import Entry, read_settings

MAX_BYTES = 1 << 20
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_EPOCH = 1e9
"""Times of a case count from its start."""

_HOST: Mapping[str, Callable[[str], int]] = {
    "memory": units.parse_size, "available": units.parse_size, "buckets": units.parse_count, "limit": units.parse_count,
    "entry_bytes": units.parse_size,
}  # fmt: skip
_SAMPLE: Mapping[str, Callable[[str], float]] = {
    "at": units.parse_duration, "entries": units.parse_count, "limit": units.parse_count, "available": units.parse_size,
    "drops": units.parse_count,
}  # fmt: skip
_NUMBERS = ("raises", "episodes", "messages", "highest_limit", "allowed_limit", "dropped", "saved")
_PARTS = frozenset({"name", "host", "settings", "series", "messages", "expect"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case: evidence, policy, and what is expected of the row, by field."""

    name: str
    host: HostInput
    policy: Policy
    expected: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """An expectation that the policy does not meet."""

    case: str
    field: str
    expected: str
    found: str


def read_cases(path: Path, policy: Policy | None) -> list[Case]:
    """Return the cases of a file; `policy` takes the place of their own settings. Raises HostError, or SettingsError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise HostError("read", path, error, "Name a file with cases.") from error
    place = printable(str(path))
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{place}: found more than {MAX_BYTES >> 20} MiB, expected cases")
    try:
        found = yaml.load(content, Loader=_LOADER)  # noqa: S506 - a loader of plain text: it constructs nothing
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "no valid YAML"
        mark = getattr(error, "problem_mark", None)
        raise SettingsError(
            f"{place}:{0 if mark is None else mark.line + 1}: found invalid YAML ({problem})"
        ) from error
    cases = _mapping(found, place, {"cases"}).get("cases")
    if not isinstance(cases, list) or not cases:
        raise SettingsError(f"{place}: found no cases, expected `cases:` with a list")
    return [_case(case, f"{place}: case {number}", policy) for number, case in enumerate(cases, 1)]


def check(case: Case) -> tuple[HostResult, list[Mismatch]]:
    """Replay a case; return its row and what differs from what is expected."""
    row = replay(case.host, case.policy)
    found: dict[str, object] = {name: getattr(row, name) for name in _NUMBERS}
    found |= {"targets": [step.target for step in row.steps], "holds": sorted(row.holds)}
    return row, [
        Mismatch(case=case.name, field=name, expected=str(expected), found=str(found[name]))
        for name, expected in case.expected.items()
        if not _meets(found[name], expected)
    ]


def _case(found: object, place: str, policy: Policy | None) -> Case:
    content = _mapping(found, place, _PARTS)
    name = content.get("name")
    if not isinstance(name, str) or not name:
        raise SettingsError(f"{place}: found no name")
    place = f"{place} ({printable(name)})"
    host = _values(content.get("host", {}), f"{place}, host", _HOST)
    if missing := [name for name in ("memory", "available", "limit") if name not in host]:
        raise SettingsError(f"{place}, host: expected `{missing[0]}`")
    facts = HostFacts(
        total_bytes=int(host["memory"]),
        buckets=None if (buckets := host.get("buckets")) is None else int(buckets),
        entry_slab_bytes=None if (entry := host.get("entry_bytes")) is None else int(entry),
        limit=int(host["limit"]),
        available_bytes=int(host["available"]),
    )
    samples = [_sample(one, f"{place}, series") for one in _list(content.get("series", []), f"{place}, series")]
    messages = [_message(one, f"{place}, messages") for one in _list(content.get("messages", []), f"{place}, messages")]
    if not samples and not messages:
        raise SettingsError(f"{place}: expected `series` or `messages`")
    if any(after.wall_seconds <= before.wall_seconds for before, after in pairwise(samples)):
        raise SettingsError(f"{place}, series: expected times that rise")
    messages.sort(key=lambda message: message.wall_seconds)
    if samples and messages and messages[-1].wall_seconds > samples[-1].wall_seconds:
        raise SettingsError(
            f"{place}, messages: found one after the last of `series`, where nothing is known of the table"
        )
    evidence = HostInput(
        name=name,
        grade=Grade.SIMULATED if samples else Grade.ASKED_ONLY,
        facts=facts,
        samples=samples,
        messages=messages,
    )
    settings = _mapping(content.get("settings", {}), f"{place}, settings", None)
    entries = [Entry(place=f"{place}, settings", key=key, value=str(value)) for key, value in settings.items()]
    own = read_settings(entries).policy
    return Case(name=name, host=evidence, policy=policy or own, expected=dict(_expected(content.get("expect"), place)))


def _sample(found: object, place: str) -> Sample:
    values = _values(found, place, _SAMPLE)
    if "at" not in values or "entries" not in values:
        raise SettingsError(f"{place}: expected `at` and `entries` in each line")
    whole = {name: None if values.get(name) is None else int(values[name]) for name in _SAMPLE}
    return Sample(_EPOCH + values["at"], whole["entries"], whole["limit"], whole["available"], whole["drops"])


def _message(found: object, place: str) -> Message:
    values = _values(found, place, {"at": units.parse_duration, "count": units.parse_count})
    if "at" not in values:
        raise SettingsError(f"{place}: expected `at` in each line")
    return Message(_EPOCH + values["at"], MessageKind.TABLE_FULL, None, int(values.get("count", 1)))


def _expected(found: object, place: str) -> Iterator[tuple[str, object]]:
    content = _mapping(found, f"{place}, expect", {*_NUMBERS, "targets", "holds"})
    if not content:
        raise SettingsError(f"{place}, expect: found nothing, expected a field such as `raises: 1`")
    for name, value in content.items():
        where = f"{place}, expect, {name}"
        if name == "holds":
            yield name, sorted(str(code) for code in _list(value, where))
        elif name == "targets":
            yield name, [int(_number(one, where, units.parse_count)) for one in _list(value, where)]
        else:
            yield name, _bound(value, where)


def _bound(value: object, place: str) -> object:
    """Return a number, `none`, or a text such as `<= 3`."""
    if isinstance(value, str):
        if value == "none":
            return None
        if value[:2] in {"<=", ">="}:
            return f"{value[:2]} {int(_number(value[2:].strip(), place, units.parse_count))}"
    return int(_number(value, place, units.parse_count))


def _meets(found: object, expected: object) -> bool:
    if isinstance(expected, str) and isinstance(found, int):
        bound = int(expected[3:])
        return found <= bound if expected.startswith("<=") else found >= bound
    return found == expected


def _values(found: object, place: str, kinds: Mapping[str, Callable[[str], float]]) -> dict[str, float]:
    content = _mapping(found, place, set(kinds))
    return {name: _number(value, f"{place}, {name}", kinds[name]) for name, value in content.items()}


def _number(value: object, place: str, kind: Callable[[str], float]) -> float:
    if not isinstance(value, str):
        raise SettingsError(f"{place}: found a list or mapping, expected a single value")
    try:
        return kind(value)
    except ValueError as error:
        raise SettingsError(f"{place}: found {printable(value)[:80]!r}, {error}") from error


def _mapping(found: object, place: str, known: set[str] | frozenset[str] | None) -> dict[str, object]:
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise SettingsError(f"{place}: expected lines of the form key: value")
    for key in found:
        if known is not None and key not in known:
            raise SettingsError(f"{place}: unknown key {printable(key)[:80]}; expected {', '.join(sorted(known))}")
    return found


def _list(found: object, place: str) -> list[object]:
    if not isinstance(found, list):
        raise SettingsError(f"{place}: expected a list")
    return found
