"""`guard notify`: every decision is delivered, retried, or given up with an error. Commands are real, time is simulated."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conntrackd_guard.actions import notify
from conntrackd_guard.actions.notify import Messenger
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import NotifySpool
from conntrackd_guard.host.paths import Paths

HOUR = 3600.0


class Post(Clock):
    """A host with a notify queue; sleeping advances its clock and calls `meanwhile`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = NotifySpool(Paths(root).notices)
        self.spool.folder.mkdir(parents=True)
        self.now, self.log = 0.0, io.StringIO()
        self.boottime = lambda: self.now
        self.words: tuple[str, ...] | None = (str(root / "command"), "an argument")
        self.meanwhile: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        """Advance the time."""
        self.now += seconds
        self.meanwhile()

    def leave(self, *names: str) -> None:
        """Queue decisions."""
        for name in names:
            number = int(name) if name.isdecimal() else None
            self.spool.put(name, json.dumps({"decision": {"id": number, "sentence": f"Held by {name}."}}))
            age = len(self.spool.files())
            os.utime(self.spool.folder / f"{name}.json", ns=(age, age))

    def command(self, text: str) -> None:
        """Write the command, a shell script."""
        (self.root / "command").write_text(f"#!/bin/sh\n{text}\n")
        (self.root / "command").chmod(0o755)

    def got(self) -> list[Any]:
        """Return the numbers of the decisions that the command got."""
        return [json.loads(line)["decision"]["id"] for line in (self.root / "got").read_text().splitlines()]

    def work(self) -> list[tuple[str, str]]:
        """Run `guard notify` until the queue is empty; return the log as (level, message)."""
        Messenger(self.spool, lambda: self.words, Log("json", self.log), self, self.sleep).work()
        lines = map(json.loads, self.log.getvalue().splitlines())
        return [(line["level"], line["message"]) for line in lines]


@pytest.fixture
def post(tmp_path: Path) -> Post:
    """A host whose command appends each decision to a file."""
    post = Post(tmp_path)
    post.command(f"cat >> {tmp_path}/got; echo >> {tmp_path}/got")
    return post


def test_decisions_are_delivered_oldest_first(post: Post) -> None:
    """The command runs once per decision; then the queue is empty, and each delivery is logged."""
    post.leave("2", "1", "3")
    assert post.work() == [("info", f"Decision {number} delivered.") for number in (2, 1, 3)]
    assert post.got() == [2, 1, 3]
    assert post.spool.files() == []
    assert post.now == 0.0


def test_failed_deliveries_are_retried_with_backoff(post: Post) -> None:
    """The file stays; retries follow after 10 s, 20 s and so on, until the first success."""
    post.command("exit 7")
    waits = ["10s", "20s", "40s", "1min 20s"]

    def meanwhile() -> None:
        if len(post.log.getvalue().splitlines()) == len(waits):
            post.command("exit 0")

    post.meanwhile = meanwhile
    post.leave("5")
    log = post.work()
    failed = "Decision 5 not delivered: the command failed with exit code 7."
    assert log[:-1] == [("warning", f"{failed} Next try in {wait}.") for wait in waits]
    assert log[-1] == ("info", "Decision 5 delivered.")
    assert 150 <= post.now <= 160


def test_a_failed_delivery_does_not_delay_others(post: Post) -> None:
    """A decision that the command refuses stays queued; later ones, and one queued in the meantime, are delivered."""
    post.command(f"read -r line; case $line in *poison*) exit 1;; esac; echo $line >> {post.root}/got")
    post.leave("poison", "6")
    came: list[str] = []

    def meanwhile() -> None:
        if not came:
            post.leave("7")
            came.append("7")
        elif post.now > 30:
            post.spool.drop("poison.json")

    post.meanwhile = meanwhile
    post.work()
    assert post.got() == [6, 7]


def test_after_a_day_a_delivery_is_given_up(post: Post) -> None:
    """An error names the decision, its sentence and the last failure."""
    post.command("exit 1")
    post.leave("8")
    log = post.work()
    failed = "not delivered for 1d, giving up: the command failed with exit code 1"
    assert log[-1] == ("error", f"Decision 8 {failed}. Held by 8.")
    assert [level for level, _ in log[:-1]] == ["warning"] * (len(log) - 1)
    assert 24 * HOUR <= post.now <= 25 * HOUR
    assert len(log) < 40
    assert post.spool.files() == []


@pytest.mark.parametrize(
    ("words", "why"),
    [(("/no/such/command",), "No such file or directory"), (("/etc/passwd",), "Permission denied")],
)
def test_a_command_that_can_not_be_run_is_a_failure(post: Post, words: tuple[str, ...], why: str) -> None:
    """The log has the path and the reason; it is retried until the operator has fixed it."""
    post.words = words

    def fixed() -> None:
        post.words = ("/bin/true",)

    post.meanwhile = fixed
    post.leave("9")
    failed, done = post.work()
    assert failed == ("warning", f"Decision 9 not delivered: can't run {words[0]}: {why}. Next try in 10s.")
    assert done == ("info", "Decision 9 delivered.")


def test_a_command_that_hangs_is_a_failure(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed at the limit and retried."""
    monkeypatch.setattr(notify, "TIME_LIMIT_SECONDS", 0.2)
    post.command("sleep 1000")
    post.meanwhile = lambda: post.command("exit 0")
    post.leave("10")
    (_, failed), (_, done) = post.work()
    assert "the command was killed after 0.2 s" in failed
    assert done == "Decision 10 delivered."


def test_the_command_gets_its_words_and_the_decision(post: Post) -> None:
    """No shell splits or expands the words; the decision is complete on stdin."""
    post.words = (str(post.root / "command"), "$HOME; *", "")
    post.command(f'echo "$#:$1:$2" > {post.root}/words; cat > {post.root}/got')
    post.leave("15")
    queued = post.spool.read("15.json")
    post.work()
    assert queued is not None
    assert (post.root / "words").read_text() == "2:$HOME; *:\n"
    assert (post.root / "got").read_bytes() == queued.content


def test_the_command_need_not_read_its_input(post: Post) -> None:
    """A command that ignores stdin succeeds."""
    post.command("exit 0")
    post.leave("16")
    assert post.work() == [("info", "Decision 16 delivered.")]


def test_the_environment_of_the_command_is_clean(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gets a search path and a language, and nothing else of the guard's environment."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    post.command(f"/usr/bin/env > {post.root}/env")
    post.leave("17")
    post.work()
    names = (post.root / "env").read_text().split()
    assert sorted(name.partition("=")[0] for name in names if not name.startswith("_=")) == ["LANG", "PATH", "PWD"]
    assert "PWD=/" in names


def test_a_command_killed_by_a_signal_is_a_failure(post: Post) -> None:
    """The log has the signal."""
    post.command("kill -9 $$")
    post.meanwhile = lambda: post.command("exit 0")
    post.leave("18")
    assert "the command was killed by signal 9" in post.work()[0][1]


def test_a_process_left_behind_delays_nothing(post: Post) -> None:
    """A child that keeps the output open does not count as a command that hangs."""
    post.command(f"sleep 1000 & echo $! > {post.root}/child")
    post.leave("19")
    assert post.work() == [("info", "Decision 19 delivered.")]
    os.kill(int((post.root / "child").read_text()), signal.SIGKILL)


def test_foreign_files_are_set_aside(post: Post) -> None:
    """A file that the guard did not write is logged and set aside, and delays nothing."""
    (post.spool.folder / "a\x1b.json").write_text("{")
    post.leave("11")
    log = post.work()
    assert ("info", "Decision 11 delivered.") in log
    ((_, error),) = [line for line in log if line[0] == "error"]
    (moved,) = post.spool.folder.glob(".set-aside-a\x1b.json-*")
    aside = str(moved).replace("\x1b", "\\x1b")
    assert (
        error == f"a\\x1b.json is not a decision (not a JSON object: Expecting property name enclosed in "
        f"double quotes: line 1 column 2 (char 1)). Moved to {aside}."
    )


@pytest.mark.parametrize("work", ["set_aside", "drop"])
def test_a_file_that_stays_holds_up_no_other(post: Post, monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    """It is logged and delivered once. The process waits while it is there: systemd would start it again at once."""
    does = getattr(NotifySpool, work)

    def refuse(spool: NotifySpool, file: str) -> object:
        if file == "10.json":
            raise HostError("move", file, OSError(1, "Operation not permitted"), "Remove it by hand.")
        return does(spool, file)

    monkeypatch.setattr(NotifySpool, work, refuse)
    stuck = post.spool.folder / "10.json"
    stuck.write_text("{") if work == "set_aside" else post.leave("10")
    came = False

    def meanwhile() -> None:
        nonlocal came
        if came:
            stuck.unlink(missing_ok=True)
        else:
            post.leave("11")
        came = True

    post.meanwhile = meanwhile
    log = post.work()
    assert ("error", "Can't move 10.json: Operation not permitted. Remove it by hand.") in log
    assert post.got() == [11] if work == "set_aside" else [10, 11]


def test_with_the_setting_off_the_queue_is_emptied(post: Post) -> None:
    """A warning is logged for each decision that is not delivered."""
    post.words = None
    post.leave("12")
    assert post.work() == [("warning", "Decision 12 not delivered: `notify` is none now.")]
    assert post.spool.files() == []


def settings(root: Path, text: str) -> None:
    """Write the host's settings."""
    path = Paths(root).settings_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own settings: the command was NOT tested")


@needs_root
def test_the_command_line_reads_the_setting(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    """`guard notify` runs the words of the setting; an empty queue is no error."""
    settings(post.root, f"notify: {post.root}/command\n")
    post.leave("13")
    assert main(["notify"], Paths(post.root)) == Exit.DONE
    assert post.got() == [13]
    assert "Decision 13 delivered." in capsys.readouterr().err
    assert main(["notify"], Paths(post.root)) == Exit.DONE
    assert capsys.readouterr().err == "guard: No decision is queued.\n"


@needs_root
def test_a_relative_path_is_refused(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad settings end with exit code 78, the line is named, and the queue is kept."""
    settings(post.root, "# mine\nnotify: bin/command\n")
    post.leave("14")
    assert main(["notify"], Paths(post.root)) == Exit.BAD_SETTINGS
    assert "guard.yaml:2: notify: found 'bin/command', expected none, or the absolute path" in capsys.readouterr().err
    assert post.spool.files() == ["14.json"]
