"""Validate the settings: from texts with their places to checked values, or to a list of every problem.

Pure: the texts come from `settings.files`. A later entry overrides an earlier one for the same key.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import SettingsError
from conntrackd_guard.settings.keys import BY_NAME, FIXED, KEYS, RENAMED, Settings

DEFAULT = "default"
"""The origin of a value that no file sets."""

_SHOWN_CHARACTERS = 60
"""Wrong values are cut to this, so that a message stays on one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One `key: value` of a file."""

    place: str
    """`file:line`."""
    key: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that makes the settings unusable; `place` is `file:line`, or a file alone."""

    place: str
    text: str


def read_settings(items: Iterable[Entry | Problem] = ()) -> Settings:
    """Return the settings with the values of the entries, and defaults for the rest.

    Raises SettingsError with one line for every problem, those passed in included.
    """
    in_policy: dict[str, Any] = {}
    others: dict[str, Any] = {}
    origins = {key.name: DEFAULT for key in KEYS}
    problems: list[str] = []
    for item in items:
        if isinstance(item, Problem):
            problems.append(f"{item.place}: {item.text}")
        elif item.key not in BY_NAME:
            problems.append(f"{item.place}: {_unknown(item.key)}")
        else:
            key = BY_NAME[item.key]
            try:
                (in_policy if key.in_policy else others)[key.field] = key.kind.read(item.value)
                origins[key.name] = item.place
            except ValueError:
                found = shown(item.value) if item.value.strip() else "nothing"
                problems.append(f"{item.place}: {key.name}: found {found}, expected {key.kind.expected}")
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(policy=Policy(**in_policy), origins=origins, **others)


def shown(text: str) -> str:
    """Return text from a file in quotes, shortened and without control characters."""
    return ascii(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def _unknown(name: str) -> str:
    """Return the problem of a key that doesn't exist, with the key to use instead where there is one."""
    present = RENAMED.get(name, name)
    if present in FIXED:
        return f"{name}: is a constant now: {FIXED[present]}"
    if present != name:
        return f"{name}: is now `{present}`"
    near = difflib.get_close_matches(name[:_SHOWN_CHARACTERS], BY_NAME, n=1)
    hint = f"did you mean {near[0]}?" if near else "`guard config example` lists every key."
    return f"{shown(name)}: found an unknown key; {hint}"
