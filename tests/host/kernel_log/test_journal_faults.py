"""A follower survives backlogs, damage, missing journals and a journald that is killed and rotated."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from systemd._reader import _Reader
from testbed.journal_files import (
    REMOTE,
    Start,
    count_openings,
    count_readings,
    entry,
    numbers,
    read_to_end,
    start,
    take,
    until,
    write,
)

from conntrackd_guard.host.kernel_log import journal as followed
from conntrackd_guard.host.kernel_log.journal import JournalBacklog, JournalFollower
from conntrackd_guard.host.kernel_log.journal_reader import Drained, KernelJournal

__all__ = ["start"]

pytestmark = pytest.mark.skipif(not os.path.exists(REMOTE), reason="needs the package systemd-journal-remote")


class _WithoutInotify(_Reader):
    """A reader on a host that is out of inotify instances."""

    def fileno(self) -> int:
        """Fail as inotify_init1(2) does."""
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_long_backlog_is_read_in_turns_and_bounded(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the queue takes stays in the journal, and all of it comes, in order."""
    monkeypatch.setattr(followed, "MOST_A_TURN", 20)
    monkeypatch.setattr(followed, "MOST_QUEUED", 50)
    monkeypatch.setattr(followed, "POLL_SECONDS", 0.01)
    write(tmp_path, "a", entry(1))
    cursor = read_to_end(start, tmp_path)
    write(tmp_path, "a", *(entry(number) for number in range(2, 302)))
    second = JournalFollower(tmp_path)
    second.begin(cursor)
    time.sleep(0.2)
    assert len(second._queue) <= 50 + 20
    assert numbers(take(second, 300)) == list(range(2, 302))
    second.stop()


def test_the_journal_is_reopened_to_unmap_what_was_read(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message comes once, whether it waited before the start or was logged after it."""
    monkeypatch.setattr(followed, "MOST_A_TURN", 3)
    monkeypatch.setattr(followed, "MOST_AN_OPENING", 10)
    write(tmp_path, "a", entry(1))
    cursor = read_to_end(start, tmp_path)
    write(tmp_path, "a", *(entry(number) for number in range(2, 102)))
    openings = count_openings(monkeypatch)
    follower = JournalFollower(tmp_path)
    follower.begin(cursor)
    assert numbers(take(follower, 100)) == list(range(2, 102))
    assert len(openings) >= 100 / (10 + 3)
    write(tmp_path, "a", *(entry(number) for number in range(102, 152)))
    assert numbers(take(follower, 50)) == list(range(102, 152))
    follower.stop()


def test_a_backlog_is_read_within_bounds_and_closed(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reading stops at either bound, leaves the journal closed, and the next one goes on there."""
    monkeypatch.setattr(followed, "MOST_A_TURN", 3)
    monkeypatch.setattr(followed, "MOST_AN_OPENING", 10)
    write(tmp_path, "a", entry(1))
    cursor = read_to_end(start, tmp_path)
    write(tmp_path, "a", *(entry(number) for number in range(2, 42)))
    backlog = JournalBacklog(tmp_path)
    backlog.begin(cursor)
    assert backlog.read_once() == 0.0
    assert backlog._journal is None
    first = numbers(backlog.take())
    assert first == list(range(2, 2 + len(first)))
    assert 10 <= len(first) < 10 + 3
    monkeypatch.setattr(followed, "MOST_QUEUED", 5)
    assert (backlog.read_once(), backlog.read_once()) == (0.0, followed.POLL_SECONDS)
    monkeypatch.undo()
    assert backlog.read_once() == followed.BACKLOG_SECONDS
    assert first + numbers(backlog.take()) == list(range(2, 42))
    assert backlog.state == "read once a minute"


def test_a_missing_journal_is_waited_for(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a journal the follower goes on, and follows it once it is there."""
    monkeypatch.setattr(followed, "ABSENT_SECONDS", 0.3)
    follower = start(tmp_path / "later", state="not found on this host")
    (tmp_path / "later").mkdir()
    write(tmp_path / "later", "a", entry(1))
    until(lambda: follower.state == "following", "following")
    write(tmp_path / "later", "a", entry(2))
    assert numbers(take(follower, 1)) == [2]


def test_damage_is_waited_out_and_skipped(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that always fails is retried within bounds, then skipped to the end; later entries are taken."""
    monkeypatch.setattr(followed, "RETRY_SECONDS", 0.01)
    write(tmp_path, "a", entry(1))
    cursor = read_to_end(start, tmp_path)
    write(tmp_path, "a", entry(2))
    drain = KernelJournal.drain
    failures: list[int] = []

    def damaged(self: KernelJournal, most: int, *, this_one_first: bool = False) -> Drained:
        if len(failures) < followed.FAILURES_BEFORE_SKIPPING:
            failures.append(1)
            raise OSError(None, "bad message")
        return drain(self, most, this_one_first=this_one_first)

    monkeypatch.setattr(KernelJournal, "drain", damaged)
    follower = start(tmp_path, cursor)
    assert follower.reopens == followed.FAILURES_BEFORE_SKIPPING
    assert "reopened after an error" in follower.state
    write(tmp_path, "a", entry(3))
    assert numbers(take(follower, 1)) == [3]


def test_a_file_of_noise_beside_good_ones_is_survived(tmp_path: Path, start: Start) -> None:
    """Beside a truncated file and one that is no journal, the good one is followed; the others are counted and named."""
    cut = write(tmp_path, "cut", *(entry(number) for number in range(1, 500)))
    cut.write_bytes(cut.read_bytes()[: 1 << 17])
    noise = cut.with_name("system@noise.journal")
    noise.write_bytes(os.urandom(1 << 16))
    write(tmp_path, "good", entry(1000))
    follower = start(tmp_path)
    write(tmp_path, "good", entry(1001))
    assert 1001 in numbers(take(follower, 1))
    assert follower.state == (f"following (2 files that this libsystemd can't read, such as {cut} (No data available))")


def test_a_newer_journald_is_named(tmp_path: Path, start: Start) -> None:
    """A journal of which no file can be read is not called absent."""
    path = write(tmp_path, "a", entry(1))
    content = bytearray(path.read_bytes())
    content[12] |= 0x80  # an incompatible flag (le32 behind the signature and the compatible ones), which none has yet
    path.write_bytes(content)
    follower = start(tmp_path, state="not readable")
    assert follower.state == (
        f"not readable (1 files that this libsystemd can't read, such as {path} (Protocol not supported))"
    )


def test_without_inotify_messages_come_and_no_core_is_busy(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a host that is out of inotify instances the journal is read a few times a second."""
    write(tmp_path, "a", entry(1))
    monkeypatch.setattr("systemd._reader._Reader", _WithoutInotify)
    follower = start(tmp_path, state="following without inotify")
    readings = count_readings(monkeypatch)
    time.sleep(0.5)
    assert len(readings) < 10  # a spinning thread makes thousands
    write(tmp_path, "a", entry(2))
    assert numbers(take(follower, 1)) == [2]


def test_stopping_is_prompt_and_can_be_done_before_the_start(tmp_path: Path, start: Start) -> None:
    """Neither a pause nor a thread that never ran delays the end."""
    JournalFollower(tmp_path).stop()
    write(tmp_path, "a", entry(1))
    follower = start(tmp_path)
    follower.stop()
    assert follower._thread is not None
    assert not follower._thread.is_alive()
    assert follower.state == "stopped"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root")
def test_a_journald_that_is_killed_rotated_and_vacuumed_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """60 random steps on a real journald: every message once, in order, and no deleted file held open."""
    private = """
        mount -n -t tmpfs tmpfs /run; mkdir -p /var/log/journal /run/systemd/journal /run/log/journal
        mount -n -t tmpfs tmpfs /var/log/journal; mount -n -t tmpfs tmpfs /etc/systemd
        touch /run/systemd/journal/flushed
        printf '[Journal]\\nAudit=no\\nRateLimitBurst=0\\nStorage=persistent\\nSystemMaxFileSize=1M\\n' \
            > /etc/systemd/journald.conf
        exec "$@"
    """
    trial = Path(__file__).resolve().parents[2] / "testbed/journald_trial.py"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", private, "sh"]
    seed = str(time.time_ns() % 100_000)
    ran = subprocess.run(
        [*command, sys.executable, str(trial), seed, "60"], cwd=tmp_path, capture_output=True, check=True, timeout=60
    )
    result = json.loads(ran.stdout)
    assert len(result["sent"]) > 100
    assert result["taken"] == result["sent"], f"seed {seed}"
    assert (result["state"], result["deleted_open"]) == ("following", [])
