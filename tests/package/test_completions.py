"""The completions against the program. bash's is run; of zsh's and fish's the text is read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from testbed.command_line import TOP, commands

FOLDER = Path(__file__).resolve().parents[2] / "share/completions"


def complete(*words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _guard; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-uc", script, "bash", FOLDER / "guard", "guard", *words], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")[:-1] if done.stdout != "\n" else []


@pytest.mark.parametrize("command", commands())
def test_bash_offers_every_option_and_command(command: str) -> None:
    """And nothing that the program would refuse."""
    known = commands()
    below = {name.removeprefix(command).split()[0] for name in known if name.startswith(f"{command} ".lstrip()) if name}
    assert set(complete(*command.split(), "")) == known[command] | below | {"--help"}


def test_bash_completes_what_was_begun() -> None:
    """Only what fits, and values where an option takes some."""
    assert complete("h") == ["history"]
    assert complete("re") == ["report", "resume", "revert"]
    assert complete("history", "--u") == ["--until"]
    assert complete("history", "--verdict", "") == ["raise", "hold", "override"]
    assert complete("history", "--last", "") == []
    assert complete("config", "c") == ["check"]


def test_bash_completes_settings_files(tmp_path: Path) -> None:
    """YAML files and folders, with spaces in their names too."""
    (tmp_path / "my site.yaml").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    assert complete("run", "--config", f"{tmp_path}/") == [f"{tmp_path}/my site.yaml", f"{tmp_path}/folder"]


def test_fish_names_every_command_and_option() -> None:
    """Each under its command."""
    text = (FOLDER / "guard.fish").read_text(encoding="utf-8").replace("\\\n", "")
    named: dict[str, set[str]] = {name: set() for name in commands()}
    for condition, what in re.findall(r"(?m)^complete -c guard -n ('[^']*'|\S+) +(.*)$", text):
        seen = [
            " ".join(words.split()) for words in re.findall(r"(?<!not )__fish_seen_subcommand_from ([\w ]+)", condition)
        ]
        (option,) = re.findall(r"-l (\S+)", what) or [""]
        for name in [f"{seen[0]} {word}" for word in seen[1].split()] if len(seen) > 1 else seen or [TOP]:
            named[name] |= {f"--{option}"} if option else set()
    assert named == commands()
    words = {word for words in re.findall(r"-n \S.*? -a '?([\w ]+)", text) for word in words.split()}
    assert words >= {name.split()[-1] for name in commands() if name}


def test_zsh_names_every_command_and_option() -> None:
    """Each under its command."""
    text = (FOLDER / "_guard").read_text(encoding="utf-8")
    (rehearsed,) = re.findall(r"(?m)^rehearsed=\((.*)\)$", text)
    text = text.replace("$rehearsed", rehearsed)
    described = {name for name in commands() if re.search(rf"(?m)^    '{(name.split() or [''])[-1]}:", text)}
    assert described == commands().keys() - {TOP}
    named = {TOP: set(re.findall(r"--\w+", text.partition("((CURRENT == 2))")[2].partition("fi\n")[0]))}
    for names, arm in re.findall(r"(?ms)^([\w |]+)\)\n(.*?)^    ;;", text):
        inner = re.findall(r"(?m)^    (\w+)\) (.*) ;;$", arm)
        for name in names.split(" | "):
            named[name] = set() if inner else options(arm)
            named |= {f"{name} {word}": options(rest) for word, rest in inner}
    assert named == commands()


def options(text: str) -> set[str]:
    """Return the long options that an argument of zsh's `_arguments` describes."""
    return set(re.findall(r"['\")](--[\w-]+)\[", text))
