"""The command line as a whole: dispatch, help texts, and what a help text imports."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from testbed.command_line import TOP, commands
from testbed.fake_host import FakeHost

from conntrackd_guard.cli.arguments import parser
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.history.database import History
from conntrackd_guard.history.series import Point
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.paths import Paths

NAMES = sorted({name.split()[0] for name in commands() if name != TOP})


def subparser(whole: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """Return the parser of one command."""
    (found,) = [action for action in whole._actions if isinstance(action, argparse._SubParsersAction)]
    command: argparse.ArgumentParser = found.choices[name]
    return command


def test_guard_alone_lists_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The help text, with the exit code of an invalid command line."""
    assert main([], Paths(tmp_path)) is Exit.USAGE
    assert set(NAMES) <= {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")}


@pytest.mark.parametrize("name", NAMES)
def test_a_command_has_a_function_and_the_same_help_alone(name: str) -> None:
    """`main` finds the function by the command's name; parsing one command knows the same options as parsing all."""
    whole, alone = subparser(parser(), name), subparser(parser(name), name)
    assert whole.format_help() == alone.format_help()
    module = import_module(f"conntrackd_guard.cli.commands.{alone.get_default('module')}")
    assert callable(getattr(module, name))


def test_values_are_completed_by_the_shell() -> None:
    """Each argument that takes a file, a decision or a namespace has the hint that shtab reads."""
    hints = {
        f"{name} {[action.dest, *action.option_strings][-1]}": action.complete["bash"]
        for name in NAMES
        for action in subparser(parser(), name)._actions
        if hasattr(action, "complete") and action.dest != "root"
    }
    assert hints == {
        "replay --against": "_shtab_compgen_files",
        "replay --ca-file": "_shtab_compgen_files",
        "replay --config": "_shtab_compgen_files",
        "replay --dask-ca": "_shtab_compgen_files",
        "replay --dask-cert": "_shtab_compgen_files",
        "replay --dask-key": "_shtab_compgen_files",
        "replay --expect": "_shtab_compgen_files",
        "replay --output": "_shtab_compgen_files",
        "replay --resume": "_shtab_compgen_files",
        "replay --token-file": "_shtab_compgen_files",
        "report --output": "_shtab_compgen_files",
        "run --config": "_shtab_compgen_files",
        "show id": "_guard_ids",
        "revert id": "_guard_raises",
        "top --namespace": "_guard_namespaces",
    }


def test_a_help_text_imports_no_command() -> None:
    """Nor a library that some command needs."""
    code = "import sys; from conntrackd_guard.cli.arguments import parser; parser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"rich", "yaml", "structlog", "sqlite3", "jinja2", "systemd", "dataclasses"}
    assert not {name for name in loaded if name.startswith("conntrackd_guard.cli.commands")}


@pytest.mark.parametrize(
    "arguments", [["--root", "{}", "status", "--json"], ["status", "--json", "--root", "{}"], None]
)
def test_the_host_may_be_below_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str] | None
) -> None:
    """By the option before or after the command, or by the environment; the settings are the container's own."""
    host, own = FakeHost(tmp_path / "host"), Paths(tmp_path / "own")
    (tmp_path / "own").mkdir()
    if arguments is None:
        monkeypatch.setenv("GUARD_ROOT", str(host.root))
        arguments = ["status", "--json"]
    own.settings_folder.parent.mkdir(parents=True)
    own.fleet_pause.write_text("")
    main([word.format(host.root) for word in arguments], own)
    found = json.loads(capsys.readouterr().out)
    assert found["limit"] == 98304
    assert found["paused"]["by"] == str(own.fleet_pause)


@pytest.mark.parametrize("name", ["recommend", "replay"])
def test_settings_of_a_pod_are_read(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A kubelet makes the folder of a ConfigMap open to all; a dry run's own history is the one that is read."""
    host, own = FakeHost(tmp_path / "host"), Paths(tmp_path / "own")
    own.settings_file.parent.mkdir(parents=True)
    own.settings_file.write_text("mode: dry-run\n", encoding="utf-8")
    own.settings_file.chmod(0o644)
    own.settings_file.parent.chmod(0o777)
    now = int(Clock().wall())
    with History(host.paths.for_mode(Mode.DRY_RUN).history, mode="writer") as history:
        history.add_points([Point(now - 3600, 1, "initial", 1_000_000, 200_000)])
    assert main([name, "--root", str(host.root)], own) is Exit.DONE
    assert {"recommend": "200,000 entries (history, ", "replay": "dry-run/history.db"}[name] in capsys.readouterr().out


def test_a_folder_without_a_host_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistaken --root is no host on which nothing was recorded."""
    assert main(["--root", str(tmp_path / "hots"), "history"], Paths(tmp_path)) is Exit.FAILED
    assert capsys.readouterr().err == (
        f"guard: {tmp_path}/hots/proc does not exist: mount the host's /proc there, or name another folder with --root.\n"
    )
