"""The follower on real journal files, and on a journald that is ill-treated."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conntrackd_guard.core.model import KernelEvent
from conntrackd_guard.host import journal as followed
from conntrackd_guard.host.journal import JournalFollower
from conntrackd_guard.host.journal_reader import Drained, KernelJournal

REMOTE = "/lib/systemd/systemd-journal-remote"
BOOT = "3060c963-3376-45ed-a3ff-628ad3a476ae"
LINE = "nf_conntrack: nf_conntrack: table full in netns {}, dropping packet"
DEADLINE_SECONDS = 10.0

pytestmark = pytest.mark.skipif(not os.path.exists(REMOTE), reason="needs the package systemd-journal-remote")


def entry(number: int, **changed: str | bytes | None) -> bytes:
    """One entry of the export format; the line names namespace `number`, its stamp is `number` too."""
    fields: dict[str, str | bytes | None] = {
        "__REALTIME_TIMESTAMP": str(1_700_000_000_000_000 + number),
        "__MONOTONIC_TIMESTAMP": str(number),
        "_BOOT_ID": BOOT.replace("-", ""),
        "_TRANSPORT": "kernel",
        "SYSLOG_FACILITY": "0",
        "_SOURCE_MONOTONIC_TIMESTAMP": str(number),
        "MESSAGE": LINE.format(number),
    }
    told = b""
    for name, value in (fields | changed).items():
        if value is not None:
            content = value if isinstance(value, bytes) else value.encode()
            if b"\n" in content:
                told += name.encode() + b"\n" + len(content).to_bytes(8, "little") + content + b"\n"
            else:
                told += name.encode() + b"=" + content + b"\n"
    return told + b"\n"


def write(folder: Path, name: str, *entries: bytes) -> Path:
    """Make a journal file, or append to one."""
    path = folder / f"{name}.journal"
    subprocess.run([REMOTE, "-o", str(path), "-"], input=b"".join(entries), check=True, capture_output=True)
    return path


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.01)


Start = Callable[..., JournalFollower]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start followers that end with the test."""
    started: list[JournalFollower] = []

    def begin(folder: Path, cursor: str | None = None, *, state: str = "following") -> JournalFollower:
        follower = JournalFollower(folder)
        started.append(follower)
        follower.start(cursor)
        until(lambda: follower.state.startswith(state), f"{state}, not {follower.state}")
        return follower

    yield begin
    for follower in started:
        follower.stop()


def take(follower: JournalFollower, count: int) -> list[KernelEvent]:
    """Take events until there are `count`, and see that no more come."""
    taken: list[KernelEvent] = []

    def enough() -> bool:
        taken.extend(follower.take())
        return len(taken) >= count

    until(enough, f"{count} events, not {len(taken)}")
    time.sleep(0.05)
    return taken + follower.take()


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one at every look of a follower."""
    looks: list[int] = []
    drain = KernelJournal.drain

    def counted(self: KernelJournal, most: int, *, this_one_first: bool = False) -> Drained:
        looks.append(1)
        return drain(self, most, this_one_first=this_one_first)

    monkeypatch.setattr(KernelJournal, "drain", counted)
    return looks


def numbers(events: list[KernelEvent]) -> list[int | None]:
    """Return the namespaces that the lines name."""
    return [event.line.namespace for event in events]


def test_only_what_comes_after_the_start_is_told(tmp_path: Path, start: Start) -> None:
    """Without a cursor the follower begins at the end, and its descriptor says when there is something."""
    write(tmp_path, "a", entry(1), entry(2))
    follower = start(tmp_path)
    assert follower.take() == []
    write(tmp_path, "a", entry(3))
    assert select.select([follower], [], [], DEADLINE_SECONDS)[0]
    (event,) = take(follower, 1)
    assert (event.line.namespace, event.stamp_us, event.boot_id) == (3, 3, BOOT)
    assert (event.source, event.held_at_start, event.cursor) == ("journal", False, follower.newest_cursor)
    assert not select.select([follower], [], [], 0)[0]


def test_an_empty_journal_is_not_followed_deaf(tmp_path: Path, start: Start) -> None:
    """A journal without a kernel line at the start tells the first one that comes."""
    write(tmp_path, "a", entry(1, _TRANSPORT="syslog"))
    follower = start(tmp_path)
    write(tmp_path, "a", entry(2))
    assert numbers(take(follower, 1)) == [2]


def test_resuming_at_a_cursor_misses_nothing_and_repeats_nothing(tmp_path: Path, start: Start) -> None:
    """What came while no one listened is told, as the past; then what comes."""
    write(tmp_path, "a", entry(1))
    first = start(tmp_path)
    write(tmp_path, "a", entry(2))
    take(first, 1)
    first.stop()
    write(tmp_path, "a", entry(3), entry(4))
    second = start(tmp_path, first.newest_cursor)
    events = take(second, 2)
    assert (numbers(events), [event.held_at_start for event in events]) == ([3, 4], [True, True])
    write(tmp_path, "a", entry(5))
    (event,) = take(second, 1)
    assert (event.line.namespace, event.held_at_start) == (5, False)


def test_the_entry_after_a_vacuumed_cursor_is_new(tmp_path: Path, start: Start) -> None:
    """When the saved entry is gone, the one found in its place is told, not skipped."""
    old = write(tmp_path, "old", entry(1))
    first = start(tmp_path)
    first.take()
    first.stop()
    write(tmp_path, "new", entry(2), entry(3))
    old.unlink()
    assert numbers(take(start(tmp_path, first.newest_cursor), 2)) == [2, 3]


def test_a_cursor_from_the_future_or_no_cursor_at_all_falls_back_to_the_end(tmp_path: Path, start: Start) -> None:
    """A clock set back must not make the follower wait for years; what comes is told, and the loss is said."""
    write(tmp_path, "a", entry(1))
    future = f"s={'0' * 31}1;i=ffffff;b={'f' * 32};m=ffffffffff;t=7fffffffffffff;x=1"
    for cursor in (future, "no cursor"):
        follower = start(tmp_path, cursor)
        assert "1 cursors not found" in follower.state
        number = 2 if cursor == future else 3
        write(tmp_path, "a", entry(number))
        assert numbers(take(follower, 1)) == [number]


def test_only_the_kernels_own_lines_are_told(tmp_path: Path, start: Start) -> None:
    """Text of processes, of other facilities, around the line, or in several lines is not the kernel's line."""
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    forged = (
        entry(2, _TRANSPORT="syslog"),
        entry(3, SYSLOG_FACILITY="1"),
        entry(4, _TRANSPORT="journal"),
        entry(5, SYSLOG_FACILITY=None),
        entry(6, MESSAGE=LINE.format(6) + " IN=lo"),
        entry(7, MESSAGE=LINE.format(7) + "\n"),
        entry(8, MESSAGE=b"\xff" + LINE.format(8).encode()),
        entry(9, MESSAGE=None, PRIORITY="4"),
    )
    write(tmp_path, "a", *forged, entry(10))
    assert numbers(take(follower, 1)) == [10]


def test_a_line_without_stamp_or_boot_is_told_as_such(tmp_path: Path, start: Start) -> None:
    """A missing or strange stamp is None; deciding what that means is not the follower's business."""
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    write(tmp_path, "a", entry(2, _SOURCE_MONOTONIC_TIMESTAMP=None), entry(3, _SOURCE_MONOTONIC_TIMESTAMP="x"))
    assert [event.stamp_us for event in take(follower, 2)] == [None, None]


def test_lines_that_come_late_with_old_stamps_count_as_held(tmp_path: Path, start: Start) -> None:
    """A journald that reads the ring buffer again gives old lines a fresh receive time; their stamps tell."""
    write(tmp_path, "a", entry(50))
    follower = start(tmp_path)
    write(tmp_path, "a", entry(60, _SOURCE_MONOTONIC_TIMESTAMP="49"), entry(61))
    assert [event.held_at_start for event in take(follower, 2)] == [True, False]


def test_the_cursor_moves_on_with_lines_that_are_not_the_guards(tmp_path: Path, start: Start) -> None:
    """A position saved now and then is near the end, even where the table never fills; it wakes no one."""
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    before = follower.newest_cursor
    write(tmp_path, "a", entry(2, MESSAGE="IN=eth0 OUT= SRC=192.0.2.1"))

    def moved() -> bool:
        assert not select.select([follower], [], [], 0)[0]
        assert follower.take() == []
        return follower.newest_cursor not in {before, None}

    until(moved, "a newer cursor")
    follower.stop()
    write(tmp_path, "a", entry(3))
    assert numbers(take(start(tmp_path, follower.newest_cursor), 1)) == [3]


def test_a_cursor_never_passes_events_that_were_not_taken(tmp_path: Path, start: Start) -> None:
    """Killed with events still waiting, the next run gets them."""
    write(tmp_path, "a", entry(1))
    first = start(tmp_path)
    saved = first.take() or first.newest_cursor
    write(tmp_path, "a", entry(2), entry(3, MESSAGE="other"))
    assert select.select([first], [], [], DEADLINE_SECONDS)[0]
    time.sleep(0.05)
    assert first.newest_cursor == saved
    first.stop()
    assert numbers(take(start(tmp_path, first.newest_cursor), 1)) == [2]


def test_a_backlog_is_read_in_turns_and_bounded(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than fits the queue waits in the journal, and all of it comes, in order."""
    monkeypatch.setattr(followed, "MOST_A_TURN", 20)
    monkeypatch.setattr(followed, "MOST_QUEUED", 50)
    monkeypatch.setattr(followed, "DEAF_LOOK_SECONDS", 0.01)
    write(tmp_path, "a", entry(1))
    first = start(tmp_path)
    first.take()
    first.stop()
    write(tmp_path, "a", *(entry(number) for number in range(2, 302)))
    second = JournalFollower(tmp_path)
    second.start(first.newest_cursor)
    time.sleep(0.2)
    assert len(second._queue) <= 50 + 20
    assert numbers(take(second, 300)) == list(range(2, 302))
    second.stop()


def test_a_missing_journal_is_waited_for(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """No journald is a state, not an end; the journal is followed once it is there."""
    monkeypatch.setattr(followed, "ABSENT_SECONDS", 0.3)
    follower = start(tmp_path / "later", state="waiting: this host has no journal")
    (tmp_path / "later").mkdir()
    write(tmp_path / "later", "a", entry(1))
    until(lambda: follower.state == "following", "following")
    write(tmp_path / "later", "a", entry(2))
    assert numbers(take(follower, 1)) == [2]


def test_damage_is_waited_out_and_skipped(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that fails for ever is retried within bounds, then given up for the end; what comes is told."""
    monkeypatch.setattr(followed, "RETRY_SECONDS", (0.01, 0.02))
    write(tmp_path, "a", entry(1))
    first = start(tmp_path)
    first.take()
    first.stop()
    write(tmp_path, "a", entry(2))
    drain = KernelJournal.drain
    failures: list[int] = []

    def damaged(self: KernelJournal, most: int, *, this_one_first: bool = False) -> Drained:
        if len(failures) < followed.FAILURES_BEFORE_SKIPPING:
            failures.append(1)
            raise OSError(None, "bad message")
        return drain(self, most, this_one_first=this_one_first)

    monkeypatch.setattr(KernelJournal, "drain", damaged)
    follower = start(tmp_path, first.newest_cursor)
    assert follower.reopens == followed.FAILURES_BEFORE_SKIPPING
    assert "reopened after an error" in follower.state
    write(tmp_path, "a", entry(3))
    assert numbers(take(follower, 1)) == [3]


def test_a_file_of_noise_beside_good_ones_is_survived(tmp_path: Path, start: Start) -> None:
    """A truncated file and one that is no journal don't keep the good one from being followed."""
    whole = write(tmp_path, "cut", *(entry(number) for number in range(1, 500))).read_bytes()
    (tmp_path / "cut.journal").write_bytes(whole[: len(whole) // 64])
    (tmp_path / "noise.journal").write_bytes(os.urandom(1 << 16))
    write(tmp_path, "good", entry(1000))
    follower = start(tmp_path)
    write(tmp_path, "good", entry(1001))
    assert 1001 in numbers(take(follower, 1))


def test_without_inotify_lines_come_and_no_processor_is_burnt(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is out of inotify instances is looked at a few times a second."""
    write(tmp_path, "a", entry(1))
    monkeypatch.setattr(KernelJournal, "_open_descriptor", lambda _self: None)
    follower = start(tmp_path, state="following without inotify")
    looks = count_looks(monkeypatch)
    time.sleep(0.5)
    assert len(looks) < 10  # a spinning thread makes thousands
    write(tmp_path, "a", entry(2))
    assert numbers(take(follower, 1)) == [2]


def test_stopping_is_prompt_and_can_be_done_before_the_start(tmp_path: Path, start: Start) -> None:
    """Neither a long wait nor a thread that never ran holds the end up."""
    JournalFollower(tmp_path).stop()
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    follower.stop()
    assert not follower._thread.is_alive()
    assert follower.state == "stopped"


def test_looking_often_hears_before_journald_says_so(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the journal is the only source, the loop can ask for looks; the wish takes effect at once."""
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    looks = count_looks(monkeypatch)
    time.sleep(0.1)
    assert len(looks) < 5
    follower.poll_seconds = 0.01
    until(lambda: len(looks) > 20, "20 looks")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root")
def test_a_journald_that_is_killed_rotated_and_vacuumed_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """60 random steps on a real journald: every line once, in order, and no deleted file held open."""
    private = """
        mount -n -t tmpfs tmpfs /run; mkdir -p /var/log/journal /run/systemd/journal /run/log/journal
        mount -n -t tmpfs tmpfs /var/log/journal; mount -n -t tmpfs tmpfs /etc/systemd
        touch /run/systemd/journal/flushed
        printf '[Journal]\\nAudit=no\\nRateLimitBurst=0\\nStorage=persistent\\nSystemMaxFileSize=1M\\n' \
            > /etc/systemd/journald.conf
        exec "$@"
    """
    trial = Path(__file__).with_name("journald_trial.py")
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", private, "sh"]
    seed = str(time.time_ns() % 100_000)
    ran = subprocess.run(
        [*command, sys.executable, str(trial), seed, "60"], cwd=tmp_path, capture_output=True, check=True, timeout=60
    )
    result = json.loads(ran.stdout)
    assert len(result["sent"]) > 100
    assert result["taken"] == result["sent"], f"seed {seed}"
    assert (result["state"], result["deleted_open"]) == ("following", [])
