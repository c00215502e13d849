"""Compare the generated completions with the program: bash's run, zsh's are read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from testbed.command_line import TOP, commands
from testbed.records import a_record

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.history import documents
from conntrackd_guard.history.rows import first_row

FOLDER = Path(__file__).resolve().parents[2] / "share/completions"


def complete(*words: str, path: str = "/usr/bin") -> list[str]:
    """Return what bash offers for the last of these words; `path`: where it finds commands."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_shtab_conntrackd_guard; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["/bin/bash", "-c", script, "bash", str(FOLDER / "guard"), "guard", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": path})
    return done.stdout.split("\n")[:-1] if done.stdout != "\n" else []


def commands_on(folder: Path, **scripts: str) -> str:
    """Make commands that print these texts; return the path to find them and the usual ones."""
    for name, text in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def below(command: str) -> set[str]:
    """Return the commands directly below this one."""
    prefix = f"{command} ".lstrip()
    return {name.removeprefix(prefix).split()[0] for name in commands() if name != TOP and name.startswith(prefix)}


@pytest.mark.parametrize("command", commands())
def test_bash_offers_every_option_and_command(command: str) -> None:
    """Bash offers exactly what the program accepts."""
    offered = {word for word in complete(*command.split(), "-") if word.startswith("--")}
    assert offered == commands()[command] | {"--help"}
    if command not in {"show", "revert"}:  # which offer numbers
        assert set(complete(*command.split(), "")) == below(command)


def test_bash_completes_what_was_begun() -> None:
    """Bash offers only matching words, and values where an option takes some."""
    assert complete("h") == ["history"]
    assert complete("re") == ["report", "replay", "recommend", "resume", "revert"]
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


def test_bash_completes_numbers_of_decisions(tmp_path: Path) -> None:
    """As the program prints them, and nothing else."""
    rows = [first_row(a_record(key), number, policy=Policy(), sentence='"id": 8,', kernel_release="") for number, key in
            ((7, "a"), (12, "b"), (123, "c"))]  # fmt: skip
    path = commands_on(tmp_path, conntrackd_guard="".join(documents.history(rows)))
    assert complete("show", "", path=path) == ["7", "12", "123"]
    assert complete("show", "12", path=path) == ["12", "123"]
    assert complete("revert", "1", path=path) == ["12", "123"]
    assert complete("show", "", path=commands_on(tmp_path, conntrackd_guard="$(touch ran) {")) == []


def test_bash_completes_namespaces(tmp_path: Path) -> None:
    """Numbers of the kernel's, and the initial one; a name that a shell would run is not offered."""
    path = commands_on(tmp_path, lsns="4026531840\n4026532178\n$(touch${IFS}/tmp/ran)\na;b")
    offered = complete("top", "--namespace", "", path=path)
    assert {"initial", "4026531840", "4026532178"} <= set(offered)
    assert not [name for name in offered if re.search(r"[$;*(]", name)]
    assert complete("top", "--namespace", "40265321", path=path) == ["4026532178"]
    assert complete("top", "--namespace", "in", path=path) == ["initial"]


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
