"""Checkouts of the program: this one, and others to compare it with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A folder with the package, and its names of settings that differ from this tree's."""

    folder: Path
    renamed: Mapping[str, str] = field(default_factory=dict)
    history: Path | None = None
    """A database for its `guard history`, if that can't read this tree's."""

    def guard(self, *arguments: str) -> list[str]:
        """Return the command for `guard` with `arguments`, to be run in `environment`. `-P`: without the current folder."""
        return [PYTHON, "-P", "-m", "conntrackd_guard", *arguments]

    def environment(self) -> dict[str, str]:
        """Return the environment in which Python imports the package of this checkout, compiled as an installed one is."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**kept, "PYTHONPATH": str(self.folder)}

    def settings(self, settings: Mapping[str, object]) -> str:
        """Return the text of a settings file (JSON values are YAML)."""
        return "".join(f"{self.renamed.get(key, key)}: {json.dumps(value)}\n" for key, value in settings.items())

    def label(self, who: str) -> str:
        """Return `who`, followed by the folder's name for another checkout."""
        return who if self is THIS else f"{who} [{self.folder.name}]"


THIS = Checkout(folder=REPOSITORY)


def other(folder: Path, renamed_file: Path | None, history: Path | None) -> Checkout:
    """Return the checkout in `folder`. `renamed_file` is a JSON object {setting here: setting there}.

    Raises OSError where either can't be read, ValueError where the file isn't JSON.
    """
    if not (folder / "conntrackd_guard/__main__.py").is_file():
        raise FileNotFoundError(f"{folder} holds no conntrackd_guard package")
    renamed = {} if renamed_file is None else json.loads(renamed_file.read_text("utf-8"))
    return Checkout(folder=folder.resolve(), renamed=renamed, history=history)
