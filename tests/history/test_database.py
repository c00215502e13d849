"""The history keeps every decision, survives what disks and people do, and is readable by those who may."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from testbed.another_user import run_as_another
from testbed.records import BOOT, RAISE, a_record, add, raised

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.hold_reasons import HoldReason
from conntrackd_guard.core.model import (
    Hold,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Record,
    Table,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.core.state import fold
from conntrackd_guard.history import database, rows
from conntrackd_guard.history.database import History, HistoryDamaged, Position
from conntrackd_guard.history.details import detail
from conntrackd_guard.history.schema import MIGRATIONS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the history of a fresh host goes."""
    return tmp_path / "conntrackd-guard/history.db"


def test_a_record_comes_back_as_it_went_in(path: Path) -> None:
    """Everything that led to a decision can be read back exactly, with the policy that made it."""
    outcome = Outcome(kind=OutcomeKind.REJECTED, errno=13, detail="refused")
    record = replace(raised("a"), outcome=outcome)
    policy = Policy(max_limit=1000)
    with History(path, mode="writer") as history:
        row_id = history.add(record, policy=policy, sentence="why", kernel_release="6.1", position=None)
    with History(path, mode="reader") as history:
        found = detail(history, row_id)
        assert found is not None
        assert (found.record, found.policy) == (record, policy)
        assert (found.row.at, found.row.from_limit, found.row.to_limit) == ("1970-01-01T00:16:40.000Z", 65536, 98304)
        assert found.row.reason == "kernel_message confirmed"
        assert detail(history, 99) is None


def test_a_redelivered_record_is_kept_once(path: Path) -> None:
    """The same event taken in twice is one row, and still moves the position."""
    with History(path, mode="writer") as history:
        first = add(history, a_record("a"))
        assert add(history, a_record("a"), Position(cursor="c2")) == first
        assert (history.find_key("a"), history.find_key("b")) == (1, None)
        assert len(list(history.rows())) == 1
        assert history.position() == Position(cursor="c2")


def test_row_and_position_are_one_transaction(path: Path) -> None:
    """A row that can't be written leaves the position where it was, so the event is delivered again."""
    with History(path, mode="writer") as history:
        history.count([], Position(cursor="before", boot_id=BOOT, stamp_us=5))
        broken = replace(a_record("a"), trigger=Trigger(kind=TriggerKind.START, namespace=2**70))
        with pytest.raises(OverflowError):
            add(history, broken, Position(cursor="after"))
        assert history.position() == Position(cursor="before", boot_id=BOOT, stamp_us=5)
        assert add(history, a_record("b")) == 1


def test_a_position_that_cannot_be_understood_is_none(path: Path) -> None:
    """The journal is then followed from its end: a start never fails for it."""
    with History(path, mode="writer") as history:
        history._database.execute("INSERT INTO meta VALUES ('position', '{\"cursor\": 7}')")
        assert history.position() is None


def test_only_what_changes_the_state_is_folded(path: Path) -> None:
    """At start the guard reads this boot's raises, overrides and other writers in order, and no plain hold."""
    lowered = Hold(reason=HoldReason.LIMIT_LOWERED)
    kept = [
        raised("r"),
        a_record("w", lowered, trigger=TriggerKind.OTHER_WRITER),
        a_record("x", RAISE, OutcomeKind.REJECTED),
        a_record("o", Override(kind=OverrideKind.REVERT, target=4096, uid=0, login_uid=1000)),
    ]
    with History(path, mode="writer") as history:
        for record in [raised("old", boot_id="boot-0"), a_record("h"), *kept, a_record("i")]:
            add(history, record)
        assert [record.key for record in history.records(BOOT)] == ["r", "w", "x", "o"]
        assert fold(history.records(BOOT), 1e9) == fold(kept, 1e9)


def test_other_programs_changes_are_folded_without_their_observations(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs that fight over the limit make 60,000 rows in a day; decoding each in whole takes longer than a start."""
    changes = [a_change(number, 100.0 * number) for number in range(5)]
    with History(path, mode="writer") as history:
        for change in changes:
            add(history, change)
        monkeypatch.setattr(rows, "record_of", None)
        assert fold(history.records(BOOT), 1e9) == fold(changes, 1e9)
        assert history.damage == ""


def test_a_conflict_is_remembered_behind_any_number_of_changes(path: Path) -> None:
    """Conflicts keep raising off for a day, whatever other programs do to the limit meanwhile."""
    conflict = replace(a_change(0, 10.0), observation=replace(a_change(0, 10.0).observation, limit=4096))
    known = [raised("r", limit_after=98304), conflict]
    with History(path, mode="writer") as history:
        history._database.execute("PRAGMA synchronous = OFF")
        for record in (*known, *(a_change(number, 100.0 * number) for number in range(1, 1200))):
            add(history, record)
        state, _ = fold(history.records(BOOT), 1e9)
    assert (state.conflict_seconds, len(state.raise_seconds)) == ((10.0,), 1)


def a_change(number: int, seconds: float) -> Record:
    """Return a change of the limit by another program at CLOCK_BOOTTIME `seconds`: one that lowers it or one that raises it."""
    reason = (HoldReason.LIMIT_LOWERED, HoldReason.LIMIT_RAISED)[number % 2]
    limit, was = (65536, 131072) if number % 2 else (131072, 65536)
    change = a_record(
        f"change-{number}", Hold(reason=reason), trigger=TriggerKind.OTHER_WRITER, boottime_seconds=seconds, limit=limit
    )
    return replace(change, trigger=replace(change.trigger, was=was))


def test_rows_are_chosen_newest_first(path: Path) -> None:
    """A list has the selected decisions, newest first, and reads the arithmetic only on request."""
    with History(path, mode="writer") as history:
        for number, make in enumerate([a_record, raised, a_record, raised]):
            add(history, make(str(number), wall_seconds=1000.0 + number))
        assert [row.key for row in history.rows()] == ["3", "2", "1", "0"]
        assert [row.key for row in history.rows(last=2)] == ["3", "2"]
        assert [row.key for row in history.rows(verdict="raise")] == ["3", "1"]
        assert [row.key for row in history.rows(since=1001.0, until=1002.0)] == ["2", "1"]
        assert {row.arithmetic is None for row in history.rows()} == {True}
        assert [row.arithmetic["bytes_per_entry"] for row in history.rows(arithmetic=True) if row.arithmetic] == [
            563
        ] * 4


def test_pruning_spares_what_this_boot_needs(path: Path) -> None:
    """Old rows are deleted; beyond the maximum holds first; this boot's raises stay in any case."""
    with History(path, mode="writer") as history:
        add(history, raised("old raise", boot_id="boot-0", wall_seconds=10.0))
        add(history, raised("raise", boot_id="boot-0"))
        for key in ("h1", "h2", "h3"):
            add(history, a_record(key))
        add(history, raised("mine", wall_seconds=20.0))
        assert history.prune(1100.0, 900.0, 100) == 1
        assert [row.key for row in history.rows()] == ["mine", "h3", "h2", "h1", "raise"]
        history.prune(1100.0, 900.0, 3)
        assert [row.key for row in history.rows()] == ["mine", "h3", "raise"]
        history.prune(1100.0, 900.0, 0)
        assert [row.key for row in history.rows()] == ["mine"]
        assert list(history.records(BOOT)) == [raised("mine", wall_seconds=20.0)]


def test_its_size_is_bounded_and_raises_go_last(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bytes the oldest holds are deleted, then overrides, then raises: down to a tenth less."""
    monkeypatch.setattr(database, "PRUNE_AT_ONCE", 1)
    monkeypatch.setattr(database, "SHRINK_AT_ONCE", 100)
    large = (Table(namespace=1, label="x" * 60, count=1, source="y" * 20_000),)
    with History(path, mode="writer") as history:
        for number in range(10):
            add(history, raised(f"r{number}", boot_id="boot-0", tables=large))
            add(history, a_record(f"o{number}", Override(kind=OverrideKind.PAUSE), boot_id="boot-0", tables=large))
            add(history, a_record(f"h{number}", boot_id="boot-0", tables=large))
        add(history, raised("mine", wall_seconds=20.0))
        assert history.shrink(1 << 20) == 0
        whole = history.used_bytes()
        for most, kinds in ((int(share * whole), kinds) for share, kinds in ((0.9, "hor"), (0.6, "or"), (0.3, "r"))):
            assert history.shrink(most) > 0
            assert history.used_bytes() <= 0.9 * most
            left = [row.key for row in history.rows()]
            assert {key[0] for key in left if key != "mine"} == set(kinds)
            for kind in kinds:  # the newest of each are left
                kept = [int(key[1:]) for key in left if key[0] == kind and key != "mine"]
                assert kept == list(range(9, 9 - len(kept), -1))
            assert history.shrink(most) == 0
        assert list(history.records(BOOT)) == [raised("mine", wall_seconds=20.0)]
    assert path.stat().st_size < 1 << 20  # freed pages are used again


def test_a_far_too_large_file_is_shrunk_bit_by_bit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of an earlier version may be: the recorder's other work waits for a part only."""
    monkeypatch.setattr(database, "PRUNE_AT_ONCE", 2)
    with History(path, mode="writer") as history:
        for number in range(25):
            add(history, a_record(f"h{number}", boot_id="boot-0"))
        add(history, raised("mine"))
        assert [history.shrink(0) for _ in range(4)] == [10, 10, 5, 0]


def test_a_boot_keeps_what_its_state_is_folded_from_and_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program that changes the limit every few seconds for months doesn't fill the disk."""
    monkeypatch.setattr(database, "FOLDED_MOST", 3)
    with History(path, mode="writer") as history:
        for number in range(6):
            change = a_record(f"c{number}", Hold(reason=HoldReason.LIMIT_LOWERED), trigger=TriggerKind.OTHER_WRITER)
            add(history, change)
        history.shrink(0)
        assert [row.key for row in history.rows()] == ["c5", "c4", "c3"]


def test_a_command_completes_what_the_daemon_wrote_of_its_override(path: Path) -> None:
    """The daemon may write it first, from a file that the command left before it was done."""
    queued = a_record("1-2-revert", Override(kind=OverrideKind.REVERT, target=65536), OutcomeKind.APPLIED)
    done = replace(queued, outcome=replace(queued.outcome, limit_after=65536, detail="The drop-in does not follow yet"))
    with History(path, mode="writer") as history:
        row_id = add(history, queued)
        final = history.add(done, policy=Policy(), sentence="done", kernel_release="6.1", is_final=True)
        assert final == row_id == add(history, queued)
        (row,) = history.rows()
        assert (row.detail, row.limit_after, row.sentence) == ("The drop-in does not follow yet", 65536, "done")
        assert history.record(row) == done


def test_a_damaged_file_is_set_aside(path: Path) -> None:
    """A file that is no database is moved aside with a clear message, and a new history starts at once."""
    path.parent.mkdir()
    path.write_bytes(b"not a database, " * 500)
    history, sentence = History.open_or_set_aside(path, now=0.0)
    with history:
        assert sentence is not None
        assert "damaged (file is not a database). Moved it to" in sentence
        assert add(history, a_record("a")) == 1
    assert path.with_name("history.db.corrupt-19700101T000000Z").read_bytes().startswith(b"not a database")


def test_an_intact_file_is_opened_without_a_message(path: Path) -> None:
    """Opening an earlier guard's file logs nothing and loses nothing."""
    with History(path, mode="writer") as history:
        add(history, a_record("a"))
    history, sentence = History.open_or_set_aside(path, now=0.0)
    with history:
        assert sentence is None
        assert len(list(history.rows())) == 1


def test_damage_in_the_middle_is_named(path: Path) -> None:
    """A bad page is reported as damage when it is read, so that the file can be set aside."""
    with History(path, mode="writer") as history:
        for number in range(200):
            add(history, a_record(str(number)))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    with (
        pytest.raises(HistoryDamaged, match=r"history\.db: database disk image is malformed"),
        History(path, mode="writer") as history,
    ):
        list(history.rows(arithmetic=True))


def test_a_newer_file_is_refused_and_not_moved(path: Path) -> None:
    """After a downgrade the newer guard's history is neither read wrongly nor thrown away."""
    History(path, mode="writer").close()
    file = sqlite3.connect(path)
    file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(HostError, match=rf"it has schema 99, this guard knows {len(MIGRATIONS)}\. Use the newer guard"):
        History.open_or_set_aside(path, now=0.0)
    with pytest.raises(HostError, match="schema 99"):
        History(path, mode="reader")
    assert path.exists()


def test_an_absent_file_is_named(path: Path) -> None:
    """A reader creates no file, and names the missing one."""
    with pytest.raises(HostError, match=r"open the history .*history\.db: No such file") as raised_error:
        History(path, mode="reader")
    assert raised_error.value.errno == 2
    assert not path.parent.exists()


def test_a_full_disk_is_named(path: Path) -> None:
    """The error names the file and the next step, and the history is usable later."""
    with History(path, mode="writer") as history:
        history._database.execute(f"PRAGMA max_page_count = {path.stat().st_size // 4096 + 5}")
        with pytest.raises(HostError, match=r"history\.db: database or disk is full\. Free space"):
            add(history, a_record("large", tables=(Table(namespace=1, label="x" * 200_000, count=1),)))
        history._database.execute("PRAGMA max_page_count = 100000")
        assert add(history, a_record("later")) == 1


def test_text_that_is_no_unicode_is_kept_visibly(path: Path) -> None:
    """A kernel message with bytes that are no UTF-8 is written, with the bytes as escapes."""
    record = replace(a_record("a"), trigger=Trigger(kind=TriggerKind.KERNEL_MESSAGE, message="full \udcff"))
    with History(path, mode="writer") as history:
        add(history, record)
        assert [row.message for row in history.rows()] == ["full \\udcff"]
        found = detail(history, 1)
        assert found is not None
        assert found.record == record


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from testbed import records as t
from conntrackd_guard.history.database import History, Position
history = History(Path(sys.argv[1]), mode="writer")
t.add(history, t.raised("a"), Position(cursor="c"))
os.kill(os.getpid(), 9)
"""


def test_what_was_added_survives_kill(path: Path) -> None:
    """The moment `add` returns, a kill -9 loses neither the row nor the position."""
    subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(Path(__file__).resolve().parents[1])], check=False, cwd=Path.cwd()
    )
    history, sentence = History.open_or_set_aside(path, now=0.0)
    with history:
        assert sentence is None
        assert list(history.records(BOOT)) == [raised("a")]
        assert history.position() == Position(cursor="c")


ADM = 4
"""The number that Debian gives to adm."""
READS = """
import sys
from pathlib import Path
from conntrackd_guard.history.database import History
from conntrackd_guard.history.details import detail
with History(Path(sys.argv[1]), mode="reader") as history:
    print([row.key for row in history.rows()])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to the group adm")
@pytest.mark.parametrize("guard", ["stopped", "running", "killed"])
def test_members_of_adm_may_read_and_others_not(path: Path, tmp_path: Path, guard: str) -> None:
    """With the guard running, stopped or killed, the group adm reads the history and nobody else does."""
    if guard == "killed":
        command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).resolve().parents[1])]
        subprocess.run(command, check=False, cwd=Path.cwd())
    else:
        history = History(path, mode="writer")
        add(history, raised("a"))
        if guard == "stopped":
            history.close()
    assert (path.stat().st_mode & 0o777, path.stat().st_gid) == (0o640, ADM)
    assert (path.parent.stat().st_mode & 0o777, path.parent.stat().st_gid) == (0o750, ADM)
    member = run_as_another(READS, str(path), tmp_path=tmp_path, group=ADM)
    assert (member.stdout, member.stderr) == ("['a']\n", "")
    other = run_as_another(READS, str(path), tmp_path=tmp_path)
    assert "Permission denied. Run as root or as a member of adm." in other.stderr


def test_a_traceless_reader_leaves_nothing_behind(path: Path) -> None:
    """It creates no -wal and no -shm; beside a writer it reads the writer's rows."""
    with History(path, mode="writer") as history:
        add(history, raised("1"))
        with History(path, mode="reader", traceless=True) as beside:
            assert [row.key for row in beside.rows()] == ["1"]
    before = sorted(path.parent.iterdir())
    with History(path, mode="reader", traceless=True) as history:
        assert [row.key for row in history.rows()] == ["1"]
        assert history.check(60.0)
    assert sorted(path.parent.iterdir()) == before == [path]


def test_a_check_of_all_pages_ends_in_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that would take too long returns False, and the history stays readable."""
    monkeypatch.setattr("conntrackd_guard.history.file.PROGRESS_STEPS", 1)
    with History(path, mode="writer") as history:
        add(history, raised("1"))
        assert not history.check(-1.0)
        assert [row.key for row in history.rows()] == ["1"]
        assert history.check(60.0)
