"""guard(8) and guard.yaml(5) against the program: a command, option, exit code or setting that changed fails here."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from testbed.command_line import commands, exit_texts

from conntrackd_guard.core.verification import Verification
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.keys import KEYS, Key

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "share/man"
GUARD = (PAGES / "guard.8").read_text(encoding="utf-8")
SETTINGS = (PAGES / "guard.yaml.5").read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    """Return what stands under a section's heading."""
    return re.split(r"(?m)^\.Sh ", page.partition(f"\n.Sh {name}\n")[2])[0]


def items(text: str) -> dict[str, str]:
    """Return the items of a list, each with its text on one line."""
    parts = re.split(r"(?m)^\.It ", text)[1:]
    return {head: " ".join(body.split("\n.El")[0].split()) for head, _, body in (p.partition("\n") for p in parts)}


def test_every_command_and_option_is_explained() -> None:
    """A section a command, an item an option; none that is gone."""
    shown = {
        name: set(re.findall(r"Fl (-[\w-]+)", " ".join(items(text))))
        for name, _, text in (part.partition("\n") for part in section(GUARD, "COMMANDS").split("\n.Ss guard ")[1:])
    }
    taken = {name: {option[1:] for option in options} for name, options in commands().items()}
    assert shown == {name: options for name, options in taken.items() if name not in {"", "config"}}
    assert taken[""] == set(re.findall(r"(?m)^\.Op Fl (-\S+)", section(GUARD, "SYNOPSIS")))


def test_what_came_of_a_raise_is_explained() -> None:
    """Every field of `verification` that a program reads."""
    history = section(GUARD, "COMMANDS").partition(".Ss guard history\n")[2].partition("\n.Ss ")[0]
    assert re.findall(r"(?m)^\.It Cm (\w+)$", history) == [field.name for field in fields(Verification)]


def test_exit_codes_are_those_of_the_program() -> None:
    """Number and meaning."""
    assert items(section(GUARD, "EXIT STATUS")) == {str(code.value): text for code, text in exit_texts().items()}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_setting_is_explained(key: Key) -> None:
    """Its default, what it does and what it takes."""
    assert items(SETTINGS)[f"Ic {key.name} : {key.default}"] == f"{key.does} Takes {key.kind.expected}."


def test_no_setting_is_explained_that_is_gone() -> None:
    """Only what the program knows."""
    assert sorted(re.findall(r"(?m)^\.It Ic (\w+) :", SETTINGS)) == sorted(key.name for key in KEYS)


def test_files_are_those_the_guard_touches() -> None:
    """Whoever looks for what it leaves on a host finds it."""
    paths = Paths()
    touched = (paths.settings_file, paths.settings_folder / "*.yaml", paths.fleet_pause, paths.drop_in, paths.history)
    assert [path for path in map(str, touched) if f"Pa {path}" not in section(GUARD, "FILES")] == []
