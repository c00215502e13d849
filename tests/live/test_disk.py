"""Full, read-only, frozen and damaged disks, and a stopped journald: the raise happens anyway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from testbed.faults import DROP_IN, RUN, STATE, open_intents, persisted, staged
from testbed.limit_guard import LimitGuard
from testbed.private_world import Guard, eventually
from testbed.stage import LIMIT, Stage, limit

pytestmark = pytest.mark.live

SETTINGS = {
    "DEAF": True,
    "conflict_limit": 0,
    "LOOKAHEAD_SECONDS": 0,
    "cooldown": "50ms",
}

LINE_ONLY = {**SETTINGS, "DEAF": False, "raise_early": False}


@pytest.fixture(scope="module", name="limit_guard")
def borrow_the_limit() -> Iterator[LimitGuard]:
    """Hold the machine's limit for all tests of this file."""
    with LimitGuard() as limit_guard:
        yield limit_guard


@pytest.fixture(name="stage")
def set_the_stage(limit_guard: LimitGuard, tmp_path: Path) -> Iterator[Stage]:
    """Give each test a new world and a new table."""
    with staged(limit_guard, tmp_path) as stage:
        yield stage


def test_a_full_state_folder_delays_no_raise_and_loses_no_row(stage: Stage) -> None:
    """Without space for the history, two raises are logged and persisted; with space again, both rows appear."""
    inside(stage, "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", make_folder(stage, STATE))
    guard = stage.start(SETTINGS)
    ballast = fill_disk(stage, STATE)
    stage.table.fill(LIMIT)
    first = stage.raised()
    stage.table.fill(first - stage.table.count())
    second = stage.raised(first)
    trouble = error_about(guard, "history.db")
    assert "full" in trouble
    assert "Free space" in trouble
    eventually(lambda: (first, second) in raises_logged(guard), "both log lines", guard.log)
    eventually(lambda: persisted(stage) == limit(), "the drop-in", guard.log)
    assert len(open_intents(stage)) >= 2
    ballast.unlink()
    all_recorded(stage, LIMIT)
    eventually(lambda: not open_intents(stage), "the intents closed", guard.log)
    rows = [(row["from"], row["to"]) for row in stage.raises()]
    assert raises_logged(guard) == rows


@pytest.mark.parametrize("broken", ["full", "read-only"])
def test_an_unwritable_drop_in_is_written_later(stage: Stage, broken: str) -> None:
    """The raise is applied, the log names the consequence for the next boot, and the next guard writes the drop-in."""
    inside(stage, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/etc/sysctl.d")
    ballast = fill_disk(stage, "etc/sysctl.d")
    if broken == "read-only":
        inside(stage, "mount", "-o", "remount,ro", "/etc/sysctl.d")
    guard = stage.start(SETTINGS)
    stage.table.fill(LIMIT)
    after = stage.raised()
    trouble = error_about(guard, DROP_IN)
    assert {"full": "No space left", "read-only": "Read-only"}[broken] in trouble
    assert "next boot" in trouble
    assert [(row["to"], row["outcome"]) for row in stage.raises()] == [(after, "applied")]
    assert persisted(stage) is None
    guard.kill()
    if broken == "read-only":
        inside(stage, "mount", "-o", "remount,rw", "/etc/sysctl.d")
    ballast.unlink()
    stage.start(SETTINGS)
    eventually(lambda: persisted(stage) == after, "the drop-in")
    assert len(stage.raises()) == 1
    eventually(lambda: not open_intents(stage), "the intent closed")


def test_a_frozen_state_folder_delays_no_raise_and_loses_no_row(stage: Stage, tmp_path: Path) -> None:
    """While /var/lib blocks writes, the limit is raised twice; after the thaw both rows appear."""
    with file_system(stage, tmp_path / "image") as folder:
        guard = stage.start(SETTINGS)
        with frozen(stage, folder):
            stage.table.fill(LIMIT)
            first = stage.raised()
            stage.table.fill(first - stage.table.count())
            second = stage.raised(first)
            assert second > first
            assert len(open_intents(stage)) >= 2
        all_recorded(stage, LIMIT)
        eventually(lambda: persisted(stage) == limit(), "the drop-in", guard.log)
        assert guard.stop() == 0


def test_a_frozen_disk_does_not_delay_the_search_for_the_full_table(stage: Stage, tmp_path: Path) -> None:
    """A message without a namespace number needs that search; after the thaw the rows appear."""
    stage.numbered = False
    stage.limit_guard.set_message_cost(0)
    with file_system(stage, tmp_path / "image") as folder:
        guard = stage.start(LINE_ONLY)
        with frozen(stage, folder):
            stage.table.fill(LIMIT)
            stage.table.overflow()
            first = stage.raised()
            stage.table.fill(first - stage.table.count())
            stage.table.overflow()
            stage.raised(first)
        all_recorded(stage, LIMIT)
        assert {(row["trigger"], row["namespace"]) for row in stage.raises()} == {("kernel_message", None)}
        assert guard.stop() == 0


def test_a_guard_starts_and_raises_with_a_frozen_state_folder(stage: Stage, tmp_path: Path) -> None:
    """A guard that can't read its history raises anyway; after the thaw it logs that, and the row appears."""
    with file_system(stage, tmp_path / "image") as folder:
        stage.start(SETTINGS).stop()
        with frozen(stage, folder):
            stage.table.fill(LIMIT)
            guard = start_without_waiting(stage, tmp_path / "frozen.log")
            after = stage.raised()
        stage.decision(lambda row: row["to"] == after, "the row")
        assert any("this boot's history" in event["message"].lower() for event in guard.events())
        assert guard.stop() == 0


@pytest.mark.parametrize("where", ["everywhere", "past the first page"])
def test_a_damaged_history_is_moved_away_and_replaced(stage: Stage, where: str) -> None:
    """Garbage in the file is detected at start; the log names the moved file, and the guard continues."""
    stage.table.fill(LIMIT)
    guard = stage.start(SETTINGS)
    after = stage.raised()
    stage.raises()
    assert guard.stop() == 0
    damage(stage, where)
    guard = stage.start(SETTINGS)
    message = error_about(guard, "is damaged")
    (aside,) = (stage.world.root / STATE).glob("history.db.corrupt-*")
    assert str(aside.name) in message
    stage.table.fill(after - stage.table.count())
    stage.raised(after)
    all_recorded(stage, after)


def test_a_stopped_journald_delays_no_raise(stage: Stage, tmp_path: Path) -> None:
    """With journald stopped the limit is raised twice; every message arrives once after it continues."""
    stage.world.start_journald()
    guard = start_without_waiting(stage, tmp_path / "guard.log", "journal")
    status = stage.world.root / RUN / "status.json"
    eventually(status.exists, "a guard that watches", guard.log)
    stage.world.signal_journald(signal.SIGSTOP)
    stage.table.fill(LIMIT)
    first = stage.raised()
    stage.table.fill(first - stage.table.count())
    stage.raised(first)
    all_recorded(stage, LIMIT)
    stage.world.signal_journald(signal.SIGCONT)
    rows = [str(row["to"]) for row in stage.raises()]
    show = ["journalctl", "-q", "-o", "json", "GUARD_EVENT=guard.raise"]

    def complete() -> bool:
        return [json.loads(line)["GUARD_TO"] for line in stage.world.run(show).stdout.splitlines()] == rows

    eventually(complete, "every message", guard.log)


def all_recorded(stage: Stage, start: int) -> None:
    """Wait until the raises in the history lead from `start` to the limit in force without a gap."""

    def whole() -> bool:
        steps = [(row["from"], row["to"]) for row in stage.world.decisions() if row["verdict"] == "raise"]
        ends = [start, *(to for _, to in steps)]
        return bool(steps) and [came for came, _ in steps] == ends[:-1] and ends[-1] == limit()

    eventually(whole, "a row for every raise")


def inside(stage: Stage, *command: str) -> None:
    """Run a command in the private world; it must succeed."""
    answer = stage.world.run(list(command))
    assert answer.returncode == 0, answer.stderr


def make_folder(stage: Stage, folder: str) -> str:
    """Create a folder in the private world and return its path inside."""
    (stage.world.root / folder).mkdir(parents=True, exist_ok=True)
    return f"/{folder}"


def fill_disk(stage: Stage, folder: str) -> Path:
    """Fill the file system of that folder to its last block; return the file to remove."""
    ballast = stage.world.root / folder / "ballast"
    room = os.statvfs(ballast.parent)
    with suppress(OSError), ballast.open("wb", buffering=0) as file:  # the guard may take the last block first
        for _ in range(room.f_bavail * room.f_frsize // 4096):
            file.write(bytes(4096))
    return ballast


@contextmanager
def file_system(stage: Stage, image: Path) -> Iterator[str]:
    """Mount a separate ext4 as the private world's state folder and yield its path inside."""
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    folder = make_folder(stage, STATE)
    inside(stage, "mount", "-o", "loop", str(image), folder)
    try:
        yield folder
    finally:
        stage.world.run(["umount", "--lazy", folder])


@contextmanager
def frozen(stage: Stage, folder: str) -> Iterator[None]:
    """Freeze that file system, so that writes block. A separate process thaws it, even if this one is killed."""
    script = 'fsfreeze -f "$1" && echo frozen && cat; fsfreeze -u "$1"'
    holder = subprocess.Popen(
        [*stage.world.enter, "sh", "-c", script, "sh", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "frozen\n"
        yield
    finally:
        holder.communicate(timeout=15)
    assert holder.returncode == 0


def start_without_waiting(stage: Stage, log: Path, form: str = "json") -> Guard:
    """Start a guard without waiting for its first message."""
    command = ["/usr/bin/python3", *stage.configure(SETTINGS).split(), "run", "--log-format", form]
    with log.open("wb") as out:
        guard = Guard(stage.world._spawn(command, out), log)
    stage.world._guards.append(guard)  # so that the world ends it in every case
    return guard


def damage(stage: Stage, where: str) -> None:
    """Write garbage over the history."""
    path = stage.world.root / STATE / "history.db"
    content = path.read_bytes()
    sound = 0 if where == "everywhere" else 4096
    path.write_bytes(content[:sound] + b"\xab" * (len(content) - sound))


def error_about(guard: Guard, text: str) -> str:
    """Wait for an error in the log that contains this text and return its message."""

    def find() -> str | None:
        messages = (event["message"] for event in guard.events() if event["level"] == "error")
        return next((message for message in messages if text in message), None)

    return str(eventually(find, f"an error about {text}", guard.log))


def raises_logged(guard: Guard) -> list[tuple[int, int]]:
    """Return (from, to) of every raise in the log."""
    return [(event["from"], event["to"]) for event in guard.events() if event["event"] == "guard.raise"]
