"""The operator's command: what it is given, what it may print, and that it ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from conntrackd_guard.host.command import MOST_OUTPUT_BYTES, Ending, run_command


def script(folder: Path, text: str, mode: int = 0o755) -> str:
    """Return the path of a shell script."""
    path = folder / "command"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return str(path)


def run(path: str, *words: str, given: bytes = b"{}", seconds: float = 10.0) -> Ending:
    """Run a command."""
    return run_command((path, *words), given, seconds)


def gone(pid_file: Path) -> bool:
    """Return whether the process that wrote its number there ends within some seconds."""
    status = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":  # nobody reaps in a bare container
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_it_gets_its_words_and_its_input(tmp_path: Path) -> None:
    """Words reach it as they are, unread by any shell, and stdin holds all that was given."""
    given = b"x" * 200_000
    ending = run(script(tmp_path, 'echo "$#:$1:$2"; wc -c'), "$HOME; *", "", given=given)
    assert ending == Ending(failure="", output=f"2:$HOME; *:\\n{len(given)}")


def test_it_need_not_read(tmp_path: Path) -> None:
    """A command that never looks at stdin is no failure."""
    assert run(script(tmp_path, "exit 0"), given=b"x" * 200_000) == Ending(failure="", output="")


def test_its_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the guard's own environment reaches it but a search path and a language."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    names = run(script(tmp_path, "/usr/bin/env")).output.split("\\n")
    assert sorted(name.partition("=")[0] for name in names if not name.startswith("_=")) == ["LANG", "PATH", "PWD"]
    assert "PWD=/" in names


@pytest.mark.parametrize(("text", "failure"), [("exit 3", "exit code 3"), ("kill -9 $$", "it was killed by signal 9")])
def test_it_fails(tmp_path: Path, text: str, failure: str) -> None:
    """The failure says how it ended, with what it said on both outputs."""
    ending = run(script(tmp_path, f"echo out; echo err >&2; {text}"))
    assert ending == Ending(failure=failure, output="out\\nerr")


def test_it_is_killed_at_the_limit_with_all_it_began(tmp_path: Path) -> None:
    """A command that hangs ends at the limit, its children too, and what it said until then is kept."""
    child = tmp_path / "child"
    text = f"sleep 1000 & echo $! > {child}; echo began; trap '' TERM; sleep 1000"
    ending = run(script(tmp_path, text), seconds=1.5)
    assert ending == Ending(failure="it did not end within 1.5 s and was killed", output="began")
    assert gone(child)


def test_what_it_leaves_behind_is_killed(tmp_path: Path) -> None:
    """A child that stays behind, its hand on the output, neither delays the end nor lives on."""
    child = tmp_path / "child"
    assert run(script(tmp_path, f"sleep 1000 & echo $! > {child}")).failure == ""
    assert gone(child)


def test_huge_output_is_cut(tmp_path: Path) -> None:
    """Of 20 MB the end is kept; nothing blocks, nothing grows."""
    ending = run(script(tmp_path, "head -c 20000000 /dev/zero | tr '\\0' y; echo END"), seconds=60.0)
    assert ending == Ending(failure="", output="y" * (MOST_OUTPUT_BYTES - 4) + "END")


def test_output_without_an_end_is_cut(tmp_path: Path) -> None:
    """A command that prints for ever is killed at the limit like any other."""
    ending = run(script(tmp_path, "exec yes"), seconds=0.5)
    assert ending.failure == "it did not end within 0.5 s and was killed"
    assert 0 < len(ending.output) <= 2 * MOST_OUTPUT_BYTES


def test_output_is_harmless_to_look_at(tmp_path: Path) -> None:
    """Escapes for a terminal and bytes that are no text become visible."""
    assert run(script(tmp_path, r"printf '\033[2J\377'")).output == "\\x1b[2J\N{REPLACEMENT CHARACTER}"


def test_it_can_close_its_output_and_continuing(tmp_path: Path) -> None:
    """Closing stdout is no end."""
    mark = tmp_path / "mark"
    assert run(script(tmp_path, f"exec >&- 2>&-; sleep 0.2; : > {mark}; exit 4")).failure == "exit code 4"
    assert mark.exists()


def test_what_can_not_be_run_is_told(tmp_path: Path) -> None:
    """Missing, not executable, a folder, and a file that no kernel runs: each says why."""
    assert run("/no/such\x1b").failure == "/no/such\\x1b can't be run: No such file or directory"
    assert run(script(tmp_path, "", mode=0o644)).failure.endswith("command can't be run: Permission denied")
    assert run(str(tmp_path)).failure.endswith("can't be run: Permission denied")
    (tmp_path / "command").write_text("no script")
    (tmp_path / "command").chmod(0o755)
    assert run(str(tmp_path / "command")).failure.endswith("can't be run: Exec format error")
