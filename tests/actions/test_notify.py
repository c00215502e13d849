"""`guard notify`: every decision is told, tried again, or given up aloud. The commands are real, the clock is told."""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conntrackd_guard.actions import notify
from conntrackd_guard.actions.notify import Messenger
from conntrackd_guard.cli.commands.run import _notices, _reload
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.model import Mode
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import NotifySpool
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.settings import Entry, read_settings

HOUR = 3600.0


class Post(Clock):
    """A host where decisions wait; sleeping moves its clock, and `meanwhile` is what happens then."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notices = NotifySpool(Paths(root))
        self.notices.folder.mkdir(parents=True)
        self.now, self.log = 0.0, io.StringIO()
        self.words: tuple[str, ...] | None = (str(root / "command"), "an argument")
        self.meanwhile: Callable[[], None] = lambda: None

    def boottime(self) -> float:
        """Return the told time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.meanwhile()

    def leave(self, *names: str) -> None:
        """Have the guard leave decisions."""
        for name in names:
            number = int(name) if name.isdecimal() else None
            self.notices.put(name, json.dumps({"decision": {"id": number, "sentence": f"Held by {name}."}}))
            age = len(self.notices.files())
            os.utime(self.notices.folder / f"{name}.json", ns=(age, age))

    def command(self, text: str) -> None:
        """Have the command be this shell script."""
        (self.root / "command").write_text(f"#!/bin/sh\n{text}\n")
        (self.root / "command").chmod(0o755)

    def got(self) -> list[Any]:
        """Return the numbers that the command kept."""
        return [json.loads(line)["decision"]["id"] for line in (self.root / "got").read_text().splitlines()]

    def work(self) -> list[tuple[str, str]]:
        """Let `guard notify` do its work; return the log as (level, message)."""
        Messenger(self.notices, lambda: self.words, Log("json", self.log), self, self.sleep).work()
        lines = map(json.loads, self.log.getvalue().splitlines())
        return [(line["level"], line["message"]) for line in lines]


@pytest.fixture
def post(tmp_path: Path) -> Post:
    """A host with a command that keeps what it is given, a line each."""
    post = Post(tmp_path)
    post.command(f"cat >> {tmp_path}/got; echo >> {tmp_path}/got")
    return post


def test_each_is_told_oldest_first_and_goes(post: Post) -> None:
    """One run of the command a decision; then nothing waits, and the log says so."""
    post.leave("2", "1", "3")
    assert post.work() == [("info", f"The notify command took decision {number}.") for number in (2, 1, 3)]
    assert post.got() == [2, 1, 3]
    assert post.notices.files() == []
    assert post.now == 0.0


def test_a_failure_is_tried_again_ever_later(post: Post) -> None:
    """The file stays; the next tries come after 10 s, 20 s and so on, and the first success ends it."""
    post.command("echo no route; exit 7")
    waits = ["10s", "20s", "40s", "1min 20s"]

    def meanwhile() -> None:
        if len(post.log.getvalue().splitlines()) == len(waits):
            post.command("exit 0")

    post.meanwhile = meanwhile
    post.leave("5")
    log = post.work()
    failed = "The notify command failed: exit code 7. It printed: no route"
    assert log[:-1] == [("warning", f"Decision 5 waits, next try in {wait}. {failed}") for wait in waits]
    assert log[-1] == ("info", "The notify command took decision 5.")
    assert 150 <= post.now <= 160


def test_one_that_fails_keeps_no_other_back(post: Post) -> None:
    """A decision that the command chokes on waits, while those after it, and one that comes meanwhile, are told."""
    post.command(f"read -r line; case $line in *poison*) exit 1;; esac; echo $line >> {post.root}/got")
    post.leave("poison", "6")
    came: list[str] = []

    def meanwhile() -> None:
        if not came:
            post.leave("7")
            came.append("7")
        elif post.now > 30:
            post.notices.drop("poison.json")

    post.meanwhile = meanwhile
    post.work()
    assert post.got() == [6, 7]


def test_after_a_day_it_is_given_up_aloud(post: Post) -> None:
    """No decision is lost silently: an error names it, with its sentence and the last failure."""
    post.command("exit 1")
    post.leave("8")
    log = post.work()
    assert log[-1] == ("error", "Given up after 1d, decision 8: Held by 8. The notify command failed: exit code 1.")
    assert [level for level, _ in log[:-1]] == ["warning"] * (len(log) - 1)
    assert 24 * HOUR <= post.now <= 25 * HOUR
    assert len(log) < 40
    assert post.notices.files() == []


@pytest.mark.parametrize(
    ("words", "why"),
    [(("/no/such/command",), "No such file or directory"), (("/etc/passwd",), "Permission denied")],
)
def test_a_command_that_can_not_be_run_is_a_failure(post: Post, words: tuple[str, ...], why: str) -> None:
    """Missing or not executable: said with its path, and tried again until the operator has mended it."""
    post.words = words

    def mended() -> None:
        post.words = ("/bin/true",)

    post.meanwhile = mended
    post.leave("9")
    failed, done = post.work()
    assert failed == (
        "warning",
        f"Decision 9 waits, next try in 10s. The notify command failed: {words[0]} can't be run: {why}.",
    )
    assert done == ("info", "The notify command took decision 9.")


def test_a_command_that_hangs_is_a_failure(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed at the limit and tried again."""
    monkeypatch.setattr(notify, "TIME_LIMIT_SECONDS", 0.2)
    post.command("sleep 1000")
    post.meanwhile = lambda: post.command("exit 0")
    post.leave("10")
    (_, failed), (_, done) = post.work()
    assert "it did not end within 0.2 s and was killed" in failed
    assert done == "The notify command took decision 10."


def test_what_is_no_decision_is_set_aside(post: Post) -> None:
    """A file that no guard wrote is said and put aside, and delays nothing."""
    (post.notices.folder / "a\x1b.json").write_text("{")
    post.leave("11")
    log = post.work()
    assert ("info", "The notify command took decision 11.") in log
    ((_, error),) = [line for line in log if line[0] == "error"]
    assert error == (
        "What stood in a\\x1b.json is no decision (it holds no JSON: JSONDecodeError). "
        f"It was set aside: {post.notices.folder}/.set-aside-a\\x1b.json."
    )
    assert (post.notices.folder / ".set-aside-a\x1b.json").exists()


def test_with_the_setting_off_nobody_is_told_and_that_is_said(post: Post) -> None:
    """An operator who took the command away is not left with files that wait for ever."""
    post.words = None
    post.leave("12")
    assert post.work() == [("warning", "Nobody is told of decision 12: the setting `notify` is none by now.")]
    assert post.notices.files() == []


def settings(root: Path, text: str) -> None:
    """Write the host's settings."""
    path = Paths(root).settings_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)


@pytest.mark.parametrize(("text", "left"), [("/bin/x", True), ("none", False)])
def test_the_guard_leaves_decisions_only_where_they_are_wanted(tmp_path: Path, text: str, left: bool) -> None:  # noqa: FBT001 - a case
    """Only with the setting; and a dry run tells nobody."""
    read = read_settings([Entry(key="notify", value=text, file="guard.yaml", line=1)])
    assert (_notices(Paths(tmp_path), read) is not None) == left
    assert _notices(Paths(tmp_path, Mode.DRY_RUN), read) is None


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own settings: the command was NOT tested")


@needs_root
def test_the_command_line_reads_the_setting(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    """`guard notify` runs the words of the setting; there is nothing to do when nothing waits."""
    settings(post.root, f"notify: {post.root}/command\n")
    post.leave("13")
    assert main(["notify"], Paths(post.root)) == Exit.DONE
    assert post.got() == [13]
    assert "The notify command took decision 13." in capsys.readouterr().err
    assert main(["notify"], Paths(post.root)) == Exit.DONE
    assert capsys.readouterr().err == "guard: No decision waits.\n"


@needs_root
def test_a_relative_path_is_refused(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad settings end with 78, name the line, and lose nothing."""
    settings(post.root, "# mine\nnotify: bin/command\n")
    post.leave("14")
    assert main(["notify"], Paths(post.root)) == Exit.BAD_SETTINGS
    assert "guard.yaml:2: notify: found 'bin/command', expected none, or the absolute path" in capsys.readouterr().err
    assert post.notices.files() == ["14.json"]


@needs_root
def test_a_reload_turns_it_on_and_off(tmp_path: Path) -> None:
    """The setting holds from `systemctl reload` on; bad settings keep what was."""
    keeper, paths = SimpleNamespace(notices=None), Paths(tmp_path)
    service = SimpleNamespace(reloading=lambda: None, ready=lambda: None)
    recorder = SimpleNamespace(log=lambda *_: None)
    args = argparse.Namespace(config=None, dry_run=False)
    found = []
    for text in ("notify: /bin/x\n", "notify: x\n", "notify: none\n"):
        settings(tmp_path, text)
        _reload(args, paths, read_settings(), service, recorder, keeper)
        found.append(keeper.notices is not None)
    assert found == [True, True, False]
