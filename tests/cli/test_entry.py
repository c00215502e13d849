"""The command as the shell starts it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from testbed.command_line import commands

from conntrackd_guard.cli import main as program
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.host.paths import Paths

REPOSITORY = Path(__file__).resolve().parents[2]

CODE = """
from conntrackd_guard.cli import main
main.main = lambda *_: print("262,144 → 393,216") or main.Exit.DONE
main.entry()
"""


def test_a_locale_without_arrows_and_bars_is_no_failure() -> None:
    """Characters that its encoding lacks become question marks."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"262,144 ? 393,216\n", b"")


@pytest.mark.parametrize("command", ["run", "run --dry-run", "status", "history", "show 1", "config check", "doctor"])
def test_missing_modules_are_one_sentence_with_the_cure(command: str) -> None:
    """Without site-packages no library is there; the repository's folder `systemd` is none, though Python imports it."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "conntrackd_guard", *command.split()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (Exit.FAILED, "")
    assert done.stderr == (
        "guard: Python modules are missing: systemd, yaml, structlog, rich, jinja2. Install them: "
        "apt install python3-systemd python3-yaml python3-structlog python3-rich python3-jinja2 "
        "(elsewhere: pip install systemd-python PyYAML structlog rich Jinja2).\n"
    )


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ModuleNotFoundError("No module named '_sqlite3'", name="_sqlite3"), "No module named '_sqlite3'"),
        (ImportError("libsystemd.so.0: cannot open shared object file"), "libsystemd.so.0: cannot open"),
    ],
)
def test_a_broken_installation_is_one_sentence(
    error: ImportError, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part of the standard library, or a shared object, may be missing too. A fault of our own is not hidden."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(program, "_load", fail)
    assert main(["doctor"], Paths(tmp_path)) is Exit.FAILED
    assert capsys.readouterr().err.startswith(f"guard: Can't load the Python libraries ({found}")
    error.name = "conntrackd_guard.core.gone"
    with pytest.raises(ImportError):
        main(["doctor"], Paths(tmp_path))


def test_an_old_python_is_one_sentence() -> None:
    """Read before anything that an old one can't parse, by the command as by `python3 -m`."""
    code = """
import runpy, sys
sys.version_info = (3, 9, 2)
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
    for module in ("conntrackd_guard", "conntrackd_guard.cli.main"):
        done = subprocess.run(
            [sys.executable, "-c", code, module], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (Exit.FAILED, "")
        assert done.stderr.startswith(f"guard: Python 3.11 or later is needed, and {sys.executable} is 3.9. ")
        assert done.stderr.count("\n") == 1
    for name in ("__init__", "__main__", "cli/__init__"):
        ast.parse((REPOSITORY / f"conntrackd_guard/{name}.py").read_text(), feature_version=(3, 5))


COMMANDS = [
    "run", "run --dry-run", "run --check", "history", "show 1", "replay", "report -o /dev/null", "status", "top",
    "recommend", "doctor", "pause", "resume", "revert", "revert 99", "notify", "events", "persist", "config check",
    "config show", "config example",
]  # fmt: skip


def test_every_command_is_tried_without_a_host() -> None:
    """The list below is complete."""
    assert {command.split()[0] for command in COMMANDS} == {name.split()[0] for name in commands() if name}


@pytest.mark.parametrize("folders", [(), ("run",), ("run", "proc/sys/kernel/random"), ("run", "proc", "sys", "etc")])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_chroot_is_one_sentence_with_the_cure(
    command: str, folders: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without /proc, /sys, /run or /dev a command says what is missing; none ends with an exception."""
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    if command in {"run", "run --dry-run"}:  # in a process of its own: it takes over signals
        code, out, err = in_a_process(tmp_path, *command.split())
    else:
        code = main(command.split(), Paths(tmp_path))
        out, err = capsys.readouterr()
    assert out or err
    if command.split(maxsplit=1)[0] in {"run", "status", "pause", "resume", "revert"}:
        assert code == Exit.FAILED
        assert err.count("\n") == 1
        assert err.startswith("guard: Can't ")
        assert "/run is mounted" in err or "Mount /proc" in err


def in_a_process(root: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a command on a tree in a process of its own; return exit code, stdout and stderr."""
    code = "import os, sys; os.geteuid = lambda: 0; from conntrackd_guard.cli.main import *; from pathlib import Path"
    code = f"{code}; sys.exit(main(sys.argv[2:], Paths(Path(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", code, root, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="scripts/run needs root")
def test_the_script_runs_without_apt(tmp_path: Path) -> None:
    """Without apt-get it installs nothing, and the guard itself says what is missing."""
    for name in ("bash", "dirname", "env", "readlink"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(
        [REPOSITORY / "scripts/run", "--check", "--log-format", "text"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (Exit.DONE, "")
    assert "Checked (mode act, " in done.stderr
