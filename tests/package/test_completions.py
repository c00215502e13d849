"""Compare the generated completions with the program: bash's run, zsh's are read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from testbed.command_line import TOP, commands

FOLDER = Path(__file__).resolve().parents[2] / "share/completions"


def complete(*words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_shtab_conntrackd_guard; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", FOLDER / "guard", "guard", *words], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")[:-1] if done.stdout != "\n" else []


def below(command: str) -> set[str]:
    """Return the commands directly below this one."""
    prefix = f"{command} ".lstrip()
    return {name.removeprefix(prefix).split()[0] for name in commands() if name != TOP and name.startswith(prefix)}


@pytest.mark.parametrize("command", commands())
def test_bash_offers_every_option_and_command(command: str) -> None:
    """Bash offers exactly what the program accepts."""
    offered = {word for word in complete(*command.split(), "-") if word.startswith("--")}
    assert offered == commands()[command] | {"--help"}
    assert set(complete(*command.split(), "")) == below(command)


def test_bash_completes_what_was_begun() -> None:
    """Bash offers only matching words, and values where an option takes some."""
    assert complete("h") == ["history"]
    assert complete("re") == ["report", "resume", "revert"]
    assert complete("history", "--u") == ["--until"]
    assert complete("history", "--verdict", "") == ["raise", "hold", "override"]
    assert complete("history", "--dry-run", "--l") == ["--last"]
    assert complete("history", "--last", "") == []
    assert complete("config", "c") == ["check"]


def test_bash_completes_settings_files(tmp_path: Path) -> None:
    """Bash offers files and folders, with spaces in their names too."""
    (tmp_path / "my site.yaml").touch()
    (tmp_path / "folder").mkdir()
    found = [f"{tmp_path}/folder", f"{tmp_path}/my site.yaml"]
    assert sorted(complete("run", "--config", f"{tmp_path}/")) == found
    assert complete("run", "--config", f"{tmp_path}/my s") == found[1:]


def test_both_names_of_the_command_complete() -> None:
    """Bash and zsh complete `guard` and `conntrackd-guard` alike."""
    shown = subprocess.run(
        ["bash", "-c", 'source "$1"; complete -p guard conntrackd-guard', "bash", FOLDER / "guard"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(shown.stdout.splitlines()) == 2
    assert (FOLDER / "_guard").read_text(encoding="utf-8").startswith("#compdef guard conntrackd-guard\n")


def test_zsh_names_every_command_and_option() -> None:
    """The completion for zsh has the same commands and options, and shows which options take a value."""
    text = (FOLDER / "_guard").read_text(encoding="utf-8")
    named = {
        name.replace("_", " ").strip(): set(re.findall(r"(?<=[\"{,)])--[\w-]+", block)) - {"--help"}
        for name, block in re.findall(r"(?ms)^_shtab_conntrackd_guard(\w*?)_options=\(\n(.*?)^\)$", text)
    }
    listed = re.findall(r"(?m)^    (\w+):'", text)
    assert named == commands()
    assert sorted(listed) == sorted(name.split()[-1] for name in commands() if name != TOP)
    assert not re.search(r"--no-[\w-]+\}.*\]:", text)
