"""The settings' files: order, trust, and the YAML features that are refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from conntrackd_guard.core.errors import SettingsError
from conntrackd_guard.settings.files import MAX_BYTES, load_settings
from conntrackd_guard.settings.keys import Settings

NOBODY = 65534


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Return a settings folder with an empty guard.d."""
    (tmp_path / "guard.d").mkdir(mode=0o755)
    return tmp_path


def put(path: Path, content: str | bytes, mode: int = 0o644) -> Path:
    """Write a file with exactly this mode."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def load(etc: Path, only: Path | None = None, owner: int | None = None) -> Settings:
    """Load the settings; the user who runs the test is trusted."""
    owner = os.geteuid() if owner is None else owner
    return load_settings(etc / "guard.yaml", etc / "guard.d", only=only, owner=owner)


def problems(etc: Path, only: Path | None = None, owner: int | None = None) -> list[str]:
    """Return the lines of the error, paths relative to the folder."""
    with pytest.raises(SettingsError) as raised:
        load(etc, only, owner)
    return str(raised.value).replace(f"{etc}/", "").splitlines()


def test_without_files_the_defaults_hold(tmp_path: Path) -> None:
    """Neither the files nor the folder have to exist."""
    assert set(load(tmp_path).origins.values()) == {"default"}


@pytest.mark.parametrize("content", ["", "\n", "# only a comment\n", "---\n", "\ufeff"])
def test_an_empty_file_sets_nothing(etc: Path, content: str) -> None:
    """A file without a setting is no problem."""
    put(etc / "guard.yaml", content)
    assert set(load(etc).origins.values()) == {"default"}


def test_files_merge_in_name_order(etc: Path) -> None:
    """guard.yaml comes first, then guard.d by name. Each value has its file and line. Other names are ignored."""
    put(etc / "guard.yaml", "# hello\ngrowth_factor: 2\nbudget: 5%\n")
    put(etc / "guard.d/20-b.yaml", "growth_factor: 4\n")
    put(etc / "guard.d/10-a.yaml", "\n\ngrowth_factor: 3\ncooldown: 5s\n")
    put(etc / "guard.d/.30-hidden.yaml", "growth_factor: 5\n")
    put(etc / "guard.d/40-c.yaml~", "growth_factor: 6\n")
    settings = load(etc)
    assert settings.policy.growth_factor == 4.0
    found = {
        key: settings.origins[key].replace(f"{etc}/", "")
        for key in ("growth_factor", "budget", "cooldown", "threshold")
    }
    assert found == {
        "growth_factor": "guard.d/20-b.yaml:1", "budget": "guard.yaml:3", "cooldown": "guard.d/10-a.yaml:4",
        "threshold": "default",
    }  # fmt: skip


def test_a_file_from_the_command_line_is_read_alone(etc: Path) -> None:
    """It replaces the others; if it is missing, that is a problem."""
    put(etc / "guard.yaml", "growth_factor: 2\n")
    only = put(etc / "mine.yaml", "budget: 5%\n")
    settings = load(etc, only)
    assert (settings.policy.growth_factor, settings.policy.budget.fraction) == (1.5, 0.05)
    only.unlink()
    assert problems(etc, only) == ["mine.yaml: can't be opened: No such file or directory; create or remove it"]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("growth_factor: 2\ngrowth_factor: 3\n", 2, "'growth_factor': found again, first on line 1; keep one"),
        ("factor: !!float 2\n", 1, "found the YAML tag 'tag:yaml.org,2002:float', expected a plain value"),
        ("a: 1\nb: !!python/object/apply:os.system [x]\n", 2, "found the YAML tag "),
        ("factor: &x 2\n", 1, "found the anchor '&x', expected a plain value"),
        ("factor: *x\n", 1, "found the alias '*x', expected a plain value"),
        ("budget:\n  share: 10%\n", 1, "'budget': found a mapping, expected a single value"),
        ("growth_factor: 2\nbudget: [1, 2]\n", 2, "'budget': found a list, expected a single value"),
        ("budget: {a: {b: c}}\n", 1, "found nested lists or mappings"),
        ("a: " + "[" * 60_000, 1, "found nested lists or mappings"),
        ("? [a]\n: b\n", 1, "found a list or mapping as a key"),
        ("- factor\n", 1, "found no settings, expected lines of the form key: value"),
        ("--- ''\n", 1, "found no settings, expected lines of the form key: value"),
        ("just words\n", 1, "found no settings, expected lines of the form key: value"),
        ("growth_factor: 2\n---\ngrowth_factor: 3\n", 2, "found a second YAML document, expected one"),
        ("growth_factor: 2\nmode: a: b\n", 2, "found invalid YAML ("),
        ("growth_factor: 2\n\tmode: act\n", 2, "found invalid YAML ("),
        ('growth_factor: 2\nmode: "act\n', 3, "found invalid YAML ("),
        (b"growth_factor: 2\nmode: \xff\n", 2, "found byte 0xff, expected UTF-8"),
        (b"growth_factor: 2\nmode: \x1b[2J\n", 2, "found invalid YAML ("),
        (b"\x00", 1, "found invalid YAML ("),
        ("growth_factor:\n", 1, "growth_factor: found nothing, expected a number from 1.01 to 10"),
        ("threshhold: 80%\n", 1, "'threshhold': found an unknown key; did you mean threshold?"),
    ],
)
def test_refused_content(etc: Path, content: str | bytes, line: int, problem: str) -> None:
    """Anything but plain `key: value` is refused, with its line."""
    put(etc / "guard.yaml", content)
    assert any(found.startswith(f"guard.yaml:{line}: {problem}") for found in problems(etc))


def test_every_problem_of_every_file_is_listed(etc: Path) -> None:
    """One run lists everything to fix."""
    put(etc / "guard.yaml", "growth_factor: 0\nmodus: act\n")
    put(etc / "guard.d/10-a.yaml", "factor: !x 1\n")
    put(etc / "guard.d/20-b.yml", "growth_factor: 2\n")
    put(etc / "guard.d/30-c.yaml", "conflict_limit: many\n")
    assert [found.split(": ")[0] for found in problems(etc)] == [
        "guard.yaml:1", "guard.yaml:2", "guard.d/10-a.yaml:1", "guard.d/20-b.yml", "guard.d/30-c.yaml:1",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_refused(etc: Path, mode: int) -> None:
    """Whoever can write the settings sets the limit."""
    put(etc / "guard.yaml", "growth_factor: 2\n", mode)
    assert problems(etc) == [f"guard.yaml: found mode 0{mode:o}, writable by others; sudo chmod go-w"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away: foreign owners were NOT tested")
def test_a_foreign_owner_is_refused(etc: Path) -> None:
    """A file or folder of another user is refused, even through a symlink of root."""
    target = put(etc / "elsewhere", "growth_factor: 2\n")
    os.chown(target, NOBODY, NOBODY)
    (etc / "guard.yaml").symlink_to(target)
    os.chown(etc / "guard.d", NOBODY, NOBODY)
    wrong = f"found owner uid {NOBODY}, expected root; sudo chown root"
    assert problems(etc, owner=0) == [f"guard.yaml: {wrong}", f"guard.d: {wrong}"]


def test_a_folder_that_others_may_write_is_refused(etc: Path) -> None:
    """Whoever can add a file to guard.d sets the limit."""
    (etc / "guard.d").chmod(0o777)
    assert problems(etc) == ["guard.d: found mode 0777, writable by others; sudo chmod go-w"]


def test_the_folder_of_all_settings_is_nobody_elses(etc: Path) -> None:
    """Whoever can replace guard.yaml sets the limit."""
    put(etc / "guard.yaml", "growth_factor: 2\n")
    etc.chmod(0o777)
    assert problems(etc) == [f"{etc}: found mode 0777, writable by others; sudo chmod go-w"]


def test_the_folder_of_a_pods_volume_is_open_to_all(etc: Path) -> None:
    """A kubelet makes it so, below a folder that only root enters."""
    put(etc / "guard.yaml", "growth_factor: 2\n")
    etc.chmod(0o777)
    settings = load_settings(etc / "guard.yaml", etc / "guard.d", owner=os.geteuid(), in_container=True)
    assert settings.policy.growth_factor == 2


def test_a_file_name_with_escapes_is_printed_escaped(etc: Path) -> None:
    """It may clear the screen of whoever reads the problem, or the origin of a value."""
    put(etc / "guard.d/10-\x1b[2J.yaml", "growth_factor: 2\n")
    assert load(etc).origins["growth_factor"].endswith("guard.d/10-\\x1b[2J.yaml:1")
    put(etc / "guard.d/20-\x1b[2J.yml", "growth_factor: 0\n")
    put(etc / "guard.d/30-\x1b[2J.yaml", "growth_factor: 0\n")
    assert "".join(problems(etc)).isprintable()


def test_a_symlink_to_a_trusted_file_is_followed(etc: Path) -> None:
    """Configuration tools link files: only the target counts. A dangling symlink is a problem."""
    (etc / "guard.yaml").symlink_to(put(etc / "real", "growth_factor: 2\n"))
    assert load(etc).policy.growth_factor == 2.0
    (etc / "real").unlink()
    assert problems(etc) == ["guard.yaml: can't be opened: No such file or directory; create or remove it"]


def test_only_regular_files_are_read(etc: Path) -> None:
    """A pipe doesn't block the guard; folders and devices are refused."""
    os.mkfifo(etc / "guard.yaml", 0o600)
    (etc / "guard.d/10-folder.yaml").mkdir()
    (etc / "guard.d/20-device.yaml").symlink_to("/dev/zero")
    assert problems(etc) == [
        f"{name}: found something other than a regular file"
        for name in ("guard.yaml", "guard.d/10-folder.yaml", "guard.d/20-device.yaml")
    ]


def test_a_file_in_place_of_the_folder_is_refused(etc: Path) -> None:
    """Otherwise guard.d as a plain file would silently set nothing."""
    (etc / "guard.d").rmdir()
    put(etc / "guard.d", "growth_factor: 2\n")
    assert problems(etc) == ["guard.d: can't be opened: Not a directory; make it a folder or remove it"]


def test_a_huge_file_is_refused(etc: Path) -> None:
    """64 KiB are accepted, one byte more is not."""
    put(etc / "guard.yaml", "growth_factor: 2\n" + "#" * (MAX_BYTES - 17))
    assert load(etc).policy.growth_factor == 2.0
    put(etc / "guard.yaml", "growth_factor: 2\n" + "#" * (MAX_BYTES - 16))
    assert re.fullmatch(r"guard\.yaml: found more than 64 KiB; .*", problems(etc)[0])
