"""`guard config check`, `show` and `example`."""

from __future__ import annotations

import io
import json
import os
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from conntrackd_guard.cli.commands import config
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.files import load_settings
from conntrackd_guard.settings.keys import KEYS
from conntrackd_guard.settings.settings import read_settings

SHIPPED = Path(__file__).resolve().parents[2] / "config/guard.yaml"


def guard(root: Path, *arguments: str) -> tuple[Exit, str, str]:
    """Run `guard config` with these arguments on a tree; return exit code, stdout and stderr."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["config", *arguments], Paths(root))
    return code, out.getvalue(), err.getvalue()


def settings_file(tmp_path: Path, content: str) -> Path:
    """Return a file with this content that only its owner may write."""
    path = tmp_path / "mine.yaml"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o644)
    return path


def test_the_shipped_file_is_the_example(tmp_path: Path) -> None:
    """config/guard.yaml is what `guard config example` prints."""
    assert guard(tmp_path, "example") == (Exit.DONE, SHIPPED.read_text(encoding="utf-8"), "")


def test_the_example_as_it_stands_changes_nothing(tmp_path: Path) -> None:
    """Installed unedited, the example sets no key."""
    code, out, _ = guard(tmp_path, "show", "--config", str(settings_file(tmp_path, config.example())))
    assert code == Exit.DONE
    assert all(line.endswith("  default") for line in out.splitlines())


def test_the_example_uncommented_is_the_defaults(tmp_path: Path) -> None:
    """With one # taken from every line the file is valid, sets every key, and sets it to its default."""
    path = settings_file(tmp_path, re.sub(r"(?m)^#", "", config.example()))
    settings = load_settings(tmp_path / "none", tmp_path / "none", only=path, owner=os.geteuid())
    assert settings.policy == read_settings().policy
    assert "default" not in settings.origins.values()


def test_the_example_explains_every_key() -> None:
    """Each key has its effect, its values, the source of its default, and the effect of other values."""
    blocks = config.example().split("\n\n")[1:]
    assert [block.rstrip().rpartition("\n#")[2].partition(":")[0] for block in blocks] == [key.name for key in KEYS]
    for block, key in zip(blocks, KEYS, strict=True):
        prose = " ".join(line.lstrip("# ") for line in block.splitlines())
        for text in (key.does, key.kind.expected, f"Default: {key.source}", *(f"{v}: {why}" for v, why in key.instead)):
            assert text in prose


def test_check_without_a_problem(tmp_path: Path) -> None:
    """Good settings are confirmed, and the exit code is 0."""
    path = settings_file(tmp_path, "growth_factor: 2\nbudget: 5%\n")
    assert guard(tmp_path, "check", "--config", str(path)) == (
        Exit.DONE, "", "guard: Settings OK: 2 set in 1 file, the rest are defaults.\n",
    )  # fmt: skip
    assert guard(tmp_path, "check")[2] == "guard: Settings OK: all are defaults.\n"


def test_check_warns_of_settings_that_do_not_do_what_they_say(tmp_path: Path) -> None:
    """They are valid, so the exit code stays 0: a deployment that means it goes on."""
    path = settings_file(tmp_path, "metrics_file: /none/guard.prom\nnotify: /none/page\n")
    code, out, err = guard(tmp_path, "check", "--config", str(path))
    assert (code, out) == (Exit.DONE, "")
    assert err.splitlines() == [
        f"guard: warning: {path}:2: notify: /none/page does not exist: nobody is notified.",
        f"guard: warning: {path}:1: metrics_file: /none does not exist: no metrics are written.",
        "guard: Settings valid, with 2 warnings: 2 set in 1 file, the rest are defaults.",
    ]


@pytest.mark.parametrize("command", ["check", "show"])
def test_problems_end_with_78(tmp_path: Path, command: str) -> None:
    """Each problem is one line on stderr; nothing goes to stdout."""
    path = settings_file(tmp_path, "budjet: 5%\ngrowth_factor: none\n")
    assert guard(tmp_path, command, "--config", str(path)) == (
        Exit.BAD_SETTINGS,
        "",
        (
            f"{path}:1: 'budjet': found an unknown key; did you mean budget?\n"
            f"{path}:2: growth_factor: found 'none', expected a number from 1.01 to 10\n"
        ),
    )


def test_show_prints_value_and_origin(tmp_path: Path) -> None:
    """Every key is shown with its value in the syntax of the file, and the line that set it."""
    path = settings_file(tmp_path, "\nbudget: 262144k\n")
    _, out, _ = guard(tmp_path, "show", "--config", str(path))
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert list(rows) == [key.name for key in KEYS]
    assert rows["budget"] == ["256MiB", f"{path}:2"]
    assert rows["min_available"] == ["auto", "default"]


def test_show_json_is_one_versioned_document(tmp_path: Path) -> None:
    """The JSON holds the same values and origins."""
    path = settings_file(tmp_path, "cooldown: 1500ms\n")
    _, out, _ = guard(tmp_path, "show", "--json", "--config", str(path))
    document = json.loads(out)
    assert document["version"] == 1
    assert document["settings"]["cooldown"] == {"value": "1s 500ms", "from": f"{path}:1"}
    assert len(document["settings"]) == len(KEYS)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own settings: the files under /etc were NOT tested")
def test_the_hosts_files_are_read(tmp_path: Path) -> None:
    """Without --config the host's files are merged, and must be root's."""
    folder = tmp_path / "etc/conntrackd-guard/guard.d"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "10-site.yaml").write_text("mode: dry-run\n", encoding="utf-8")
    (folder / "10-site.yaml").chmod(0o644)
    _, out, _ = guard(tmp_path, "show")
    assert re.search(rf"(?m)^mode +dry-run +{re.escape(str(folder))}/10-site\.yaml:1$", out)
    os.chown(folder / "10-site.yaml", 65534, 65534)
    assert guard(tmp_path, "check")[0] == Exit.BAD_SETTINGS


def test_the_exit_codes_are_fixed() -> None:
    """The numbers are part of the interface."""
    assert {code.name: int(code) for code in Exit} == {
        "DONE": 0, "FAILED": 1, "USAGE": 2, "NO": 3, "NOT_PERMITTED": 77, "BAD_SETTINGS": 78,
    }  # fmt: skip
