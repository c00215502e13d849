"""`guard config check | show | example`: the settings checked, told and explained."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.errors import SettingsError
from conntrackd_guard.settings.files import load_settings
from conntrackd_guard.settings.keys import KEYS, Key, Settings
from conntrackd_guard.settings.settings import DEFAULT

JSON_VERSION = 1
_WIDTH = 100
_LABELS = {1: ("With",), 2: ("Half,", "Double,")}

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse names it no other way


class SettingsPaths(Protocol):
    """Where the settings are (`host.paths.Paths`)."""

    @property
    def settings_file(self) -> Path:
        """The operator's settings."""

    @property
    def settings_folder(self) -> Path:
        """Further settings."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `config` and its three commands."""
    config = subparsers.add_parser(
        "config",
        help="check, show or explain the settings",
        description="Check, show or explain the settings.",
        epilog="Example: guard config check && sudo systemctl reload conntrackd-guard",
    )
    config.set_defaults(run=run)
    actions = config.add_subparsers(dest="action", required=True, metavar="check|show|example")
    for name, does, example in (
        ("check", "list every problem in the settings", "guard config check --config ./guard.yaml"),
        ("show", "print each value in effect and where it comes from", "guard config show --json"),
        ("example", "print every key, explained", "guard config example > guard.yaml"),
    ):
        action = actions.add_parser(name, help=does, description=does.capitalize() + ".", epilog=f"Example: {example}")
        if name != "example":
            action.add_argument("--config", type=Path, metavar="FILE", help="this file alone, instead of those in /etc")
        if name == "show":
            action.add_argument("--json", action="store_true", help="one JSON document")


def run(
    args: argparse.Namespace, paths: SettingsPaths, stdout: TextIO | None = None, stderr: TextIO | None = None
) -> Exit:
    """Do what `guard config` was asked; return DONE, or BAD_SETTINGS with every problem on stderr."""
    out, talk = stdout or sys.stdout, stderr or sys.stderr
    if args.action == "example":
        out.write(example())
        return Exit.DONE
    try:
        # A file named here only is told about, never obeyed, so its reader may own it.
        owner = os.geteuid() if args.config else 0
        settings = load_settings(paths.settings_file, paths.settings_folder, only=args.config, owner=owner)
    except SettingsError as error:
        print(error, file=talk)
        return Exit.BAD_SETTINGS
    if args.action == "check":
        print(_verdict(settings), file=talk)
    elif args.json:
        json.dump(_document(settings), out, indent=2)
        out.write("\n")
    else:
        out.write(_table(settings))
    return Exit.DONE


def example() -> str:
    """Return a whole settings file, each key commented out and explained; `sed s/^#//` makes it valid."""
    head = (
        "Settings of conntrackd-guard: /etc/conntrackd-guard/guard.yaml, then guard.d/*.yaml in name order.",
        "The last file that sets a key holds. Every key may be left out. Below stand the defaults.",
        "After a change: guard config check && sudo systemctl reload conntrackd-guard",
    )
    return "\n".join(line for text in head for line in _comment(text)) + "\n" + "".join(_explained(key) for key in KEYS)


def _explained(key: Key) -> str:
    """Return a key's part of the example."""
    lines = [*_comment(key.does), *_comment(f"Takes {key.kind.expected}."), *_comment(f"Default: {key.source}")]
    for label, (value, breaks) in zip(_LABELS[len(key.instead)], key.instead, strict=True):
        lines += _comment(f"{label} {value}: {breaks}")
    return "\n" + "\n".join(lines) + f"\n#{key.name}: {key.default}\n"


def _comment(text: str) -> list[str]:
    """Return prose as comment lines, which stay comments when one `#` is taken from every line."""
    return textwrap.wrap(text, _WIDTH, initial_indent="## ", subsequent_indent="##   ", break_on_hyphens=False)


def _verdict(settings: Settings) -> str:
    """Return one sentence for settings without a problem."""
    places = [place for place in settings.origins.values() if place != DEFAULT]
    files = len({place.rpartition(":")[0] for place in places})
    return f"The settings are good: {len(places)} set in {files} file{'s' * (files != 1)}, the rest by default."


def _table(settings: Settings) -> str:
    """Return every value and its origin in columns."""
    rows = [(key.name, key.value_text(settings), settings.origins[key.name]) for key in KEYS]
    name_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "".join(f"{name:<{name_width}}  {value:<{value_width}}  {origin}\n" for name, value, origin in rows)


def _document(settings: Settings) -> dict[str, Any]:
    """Return every value and its origin for JSON, the values as an operator would write them."""
    told = {key.name: {"value": key.value_text(settings), "from": settings.origins[key.name]} for key in KEYS}
    return {"version": JSON_VERSION, "settings": told}
