"""`guard config check | show | example`: check, show and explain the settings."""

import argparse
import os
import textwrap

from conntrackd_guard.cli.answer import Answer, note
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.doctor.settings_warnings import warnings
from conntrackd_guard.history.documents import document
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.files import load_settings
from conntrackd_guard.settings.keys import KEYS, Key, Settings
from conntrackd_guard.settings.settings import DEFAULT

_WIDTH = 100


def config(args: argparse.Namespace, paths: Paths) -> Answer | Exit:
    """Check, show or explain the settings. Raises SettingsError with every problem."""
    if args.action == "example":
        return Answer(value=example())
    # A file named here is printed, never obeyed, so its reader may own it.
    owner = os.geteuid() if args.config else 0
    settings = load_settings(
        paths.settings_file, paths.settings_folder, in_container=paths.has_prefix, only=args.config, owner=owner
    )
    if args.action == "check":
        found = warnings(settings, paths)
        for text in found:
            note(f"warning: {text}")
        note(_verdict(settings, len(found)))
        return Exit.DONE
    rows = [(key.name, key.value_text(settings), settings.origins[key.name]) for key in KEYS]
    values = {name: {"value": value, "from": origin} for name, value, origin in rows}
    name_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    table = "".join(f"{name:<{name_width}}  {value:<{value_width}}  {origin}\n" for name, value, origin in rows)
    return Answer(value=table, json=lambda: [document({"settings": values})])


def example() -> str:
    """Return a whole settings file, each key commented out and explained; `sed s/^#//` makes it valid."""
    head = (
        "Settings of conntrackd-guard: /etc/conntrackd-guard/guard.yaml, then guard.d/*.yaml in name order.",
        "Later files override earlier ones. Every key is optional; the values below are the defaults.",
        "After a change: guard config check && sudo systemctl reload conntrackd-guard",
    )
    return "\n".join(line for text in head for line in _comment(text)) + "\n" + "".join(_explained(key) for key in KEYS)


def _explained(key: Key) -> str:
    """Return a key's part of the example."""
    lines = [*_comment(key.does), *_comment(f"Takes {key.kind.expected}."), *_comment(f"Default: {key.source}")]
    for value, effect in key.instead:
        lines += _comment(f"With {value}: {effect}")
    return "\n" + "\n".join(lines) + f"\n#{key.name}: {key.default}\n"


def _comment(text: str) -> list[str]:
    """Return prose as comment lines, which stay comments when one `#` is taken from every line."""
    return textwrap.wrap(text, _WIDTH, initial_indent="## ", subsequent_indent="##   ", break_on_hyphens=False)


def _verdict(settings: Settings, warned: int) -> str:
    """Return one sentence for settings without a problem."""
    verdict = f"Settings valid, with {warned} warning{'s' * (warned > 1)}" if warned else "Settings OK"
    places = [place for place in settings.origins.values() if place != DEFAULT]
    if not places:
        return f"{verdict}: all are defaults."
    files = len({place.rpartition(":")[0] for place in places})
    return f"{verdict}: {len(places)} set in {files} file{'s' * (files != 1)}, the rest are defaults."
