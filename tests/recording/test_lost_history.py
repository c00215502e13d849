"""A history that somebody removes, renames, replaces or cuts under the running guard: noticed, logged, written again."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from testbed.disks import until
from testbed.guarded import LIMIT, Guarded, Host, again

from conntrackd_guard.history.database import History, Position


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush at every turn of the recorder."""
    monkeypatch.setattr("conntrackd_guard.recording.worker.FLUSH_SECONDS", 0.0)


def _replace(path: Path) -> None:
    other = path.with_name("other.db")
    with History(other, mode="writer"):
        pass
    other.rename(path)


def _remove_all(path: Path) -> None:
    for file in path.parent.glob("history.db*"):
        file.unlink()


def reader(path: Path, opened: list[History] = []) -> None:  # noqa: B006 - it keeps the last one
    """Open it as `guard status --watch` does, and leave it open until the next one is."""
    opened[:] = [History(path, mode="reader")]
    next(opened[0].rows())


DEEDS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "removed": (Path.unlink,),
    "removed with its WAL": (_remove_all,),
    "removed with its folder": (lambda path: shutil.rmtree(path.parent),),
    "removed while it is read": (reader, Path.unlink),
    "renamed": (lambda path: path.rename(path.with_name("old.db")),),
    "replaced": (_replace,),
    "replaced by a folder": (Path.unlink, Path.mkdir),
    "replaced by a FIFO": (Path.unlink, os.mkfifo),
    "replaced by a link to itself": (Path.unlink, lambda path: path.symlink_to(path)),
    "emptied": (lambda path: os.truncate(path, 0),),
    "emptied while it is read": (reader, lambda path: os.truncate(path, 0)),
    "cut": (lambda path: os.truncate(path, 3 * 4096),),
}


def checkpointed(path: Path) -> None:
    """Have the file hold everything, so that a cut takes some of it."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def raise_again(guarded: Guarded) -> int:
    """Fill the table again, for one more raise; return the limit after it."""
    guarded.host.table(guarded.host.limit)
    guarded.message()
    guarded.turn(3.0)
    return guarded.host.limit


@pytest.mark.parametrize("deed", DEEDS)
def test_a_lost_history(host: Host, deed: str) -> None:
    """Every later raise is in a sound file, which also has the position; it is logged once, and nothing is in trouble."""
    guarded = Guarded(host)
    guarded.recorder.note_position(Position(cursor="c"))
    raise_again(guarded)
    guarded.written()
    checkpointed(guarded.paths.history)
    until(lambda: not guarded.recorder.report()["backlog"])
    for step in DEEDS[deed]:
        step(guarded.paths.history)
    reached = [raise_again(guarded) for _ in range(3)]
    assert [row.limit_after for row in guarded.rows()][-3:] == reached
    with guarded.history() as history:
        assert history.position() is not None
    logged = [line["message"] for line in guarded.logged("guard.error")]
    assert ("is damaged (" if deed.startswith(("emptied", "cut")) else "Opened it again") in logged[0]
    assert len(logged) <= 2  # what is no history is set aside too
    assert guarded.recorder.report()["trouble"] == []
    guarded.stop()
    with closing(sqlite3.connect(guarded.paths.history)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    after = again(guarded)
    assert after.recovered.state.set_limit == reached[-1]
    after.stop()


def test_a_renamed_history_is_whole(host: Host) -> None:
    """It has all that was written before, also what was in its WAL."""
    guarded = Guarded(host)
    first = raise_again(guarded)
    guarded.written()
    old = guarded.paths.history.with_name("old.db")
    guarded.paths.history.rename(old)
    until(guarded.paths.history.exists)  # noticed without a new decision
    with History(old, mode="reader") as history:
        assert [row.limit_after for row in history.rows()] == [first]
    assert first > LIMIT
    guarded.stop()


def test_a_history_that_only_grows_or_is_compacted_stays_open(host: Host) -> None:
    """VACUUM makes the file smaller: it is checked, and its rows are kept."""
    guarded = Guarded(host)
    reached = [raise_again(guarded) for _ in range(4)]
    guarded.written()
    with closing(sqlite3.connect(guarded.paths.history)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    reached.append(raise_again(guarded))
    assert [row.limit_after for row in guarded.rows()] == reached
    guarded.stop()
