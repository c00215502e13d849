"""The operator's settings: from texts with their places to checked values, or to a list of everything wrong.

Pure: the texts come from `host.settings_files`. A later entry outranks an earlier one for the same key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from conntrackd_guard.core.errors import SettingsError
from conntrackd_guard.core.model import Addresses, Mode, Policy
from conntrackd_guard.core.units import format_duration
from conntrackd_guard.settings.keys import BY_NAME, KEYS, Key

DEFAULT = "default"
"""The origin of a value that no file sets."""

_SHOWN_CHARACTERS = 60
"""As much of a wrong value as a line of text has room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`key: value` as a file has it."""

    key: str
    value: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """Where it stands: `file:line`."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that makes the settings unusable; `place` is `file:line`, or a file alone."""

    place: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in effect."""

    mode: Mode
    policy: Policy
    persist: bool
    notify: tuple[str, ...] | None
    """The words of the command, None where there is none."""
    metrics_file: str | None
    metrics_port: int | None
    sample_entries: int
    sample_addresses: Addresses
    sample_retention_seconds: float
    history_retention_seconds: float
    history_max_rows: int
    origins: dict[str, str]
    """For every key the `file:line` that set it, or `default`."""


def read_settings(items: Iterable[Entry | Problem] = ()) -> Settings:
    """Return the settings that the entries make, defaults where there are none.

    Raises SettingsError with every problem, those passed in and those found here, one a line.
    """
    values: dict[str, Any] = {key.name: key.kind.read(key.default) for key in KEYS}
    origins = {key.name: DEFAULT for key in KEYS}
    problems: list[Problem] = []
    for item in items:
        if isinstance(item, Problem):
            problems.append(item)
        elif item.key not in BY_NAME:
            problems.append(Problem(place=item.place, text=_unknown(item.key)))
        else:
            try:
                values[item.key] = BY_NAME[item.key].kind.read(item.value)
                origins[item.key] = item.place
            except ValueError:
                problems.append(Problem(place=item.place, text=_wrong(item)))
    problems += _contradictions(values, origins)
    if problems:
        raise SettingsError("\n".join(f"{problem.place}: {problem.text}" for problem in problems))
    in_policy = {key.field: values[key.name] for key in KEYS if key.field in Policy.__slots__}
    beside = {key.field: values[key.name] for key in KEYS if key.field not in Policy.__slots__}
    return Settings(policy=Policy(**in_policy), origins=origins, **beside)


def value_text(settings: Settings, key: Key) -> str:
    """Return the value in effect as the operator could write it."""
    holder = settings.policy if key.field in Policy.__slots__ else settings
    return key.kind.write(getattr(holder, key.field))


def shown(text: str) -> str:
    """Return a text from a file in quotes, shortened, with nothing that a terminal would obey."""
    return ascii(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def _unknown(name: str) -> str:
    """Return what is wrong with a key that does not exist."""
    near = difflib.get_close_matches(name[:_SHOWN_CHARACTERS], BY_NAME, n=1)
    hint = f"did you mean {near[0]}?" if near else "`guard config example` lists every key."
    return f"{shown(name)}: found an unknown key; {hint}"


def _wrong(entry: Entry) -> str:
    """Return what is wrong with a value."""
    found = shown(entry.value) if entry.value.strip() else "nothing"
    return f"{entry.key}: found {found}, expected {BY_NAME[entry.key].kind.expected}"


def _contradictions(values: dict[str, Any], origins: dict[str, str]) -> list[Problem]:
    """Return the problems that two values make together, each placed where an operator can mend it."""
    problems = []
    for small, large, why in (
        ("cooldown_full", "cooldown", "a full table is answered no later than one that is not full"),
        ("max_raises_window", "history_retention", "the raises to be counted are read from the history"),
        ("conflict_window", "history_retention", "the lowerings to be counted are read from the history"),
    ):
        if values[small] > values[large]:
            place = origins[small] if origins[small] != DEFAULT else origins[large]
            found, most = format_duration(values[small], parts=6), format_duration(values[large], parts=6)
            text = f"{small}: found {found}, expected at most {large} ({most}, from {origins[large]}): {why}"
            problems.append(Problem(place=place, text=text))
    return problems
