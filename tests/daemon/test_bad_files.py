"""Whatever stands in the place of a file: the running daemon starts, raises, records, says so, and stops."""

from __future__ import annotations

import os

import pytest
from testbed.bad_files import KINDS, replace
from testbed.guarded import LIMIT, Host
from testbed.running_daemon import RunningDaemon

from conntrackd_guard.history.database import History

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: `guard run` was NOT tested with bad files")

RUN = "run/conntrackd-guard"
HISTORY = "var/lib/conntrackd-guard/history.db"
PLACES = (
    "etc/sysctl.d/99-zz-conntrackd-guard.conf", f"{RUN}/lock", f"{RUN}/status.json", f"{RUN}/intents/x.json",
    f"{RUN}/overrides/x.json", f"{RUN}/drop-in.lock", f"{RUN}/drop-in.override", HISTORY,
)  # fmt: skip
OTHERS = (f"{RUN}/intents", f"{RUN}/overrides", f"{HISTORY}-wal", f"{HISTORY}-shm")
"""In the place of a folder, or beside a history."""
KEPT = {(HISTORY, "a dangling link")}
"""Left as it is: the link may lead to a disk that is mounted later."""


def raises(host: Host) -> list[str]:
    """Start, fill the table, wait for the raise, and stop; return the messages that are errors."""
    with RunningDaemon(host) as daemon:
        daemon.ready()
        host.table(LIMIT)
        daemon.until(lambda: host.limit > LIMIT, "raise")
        daemon.until(lambda: daemon.logged("guard.raise"), "message about the raise")
        daemon.stop()
        return daemon.logged("guard.error")


def has_row(host: Host) -> bool:
    """Return whether the raise is in a history."""
    with History(host.root / HISTORY, mode="reader") as history:
        return any(row.verdict == "raise" and row.outcome == "applied" for row in history.rows())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_file_at_every_place(host: Host, kind: str) -> None:
    """Each is set aside, replaced or named in an error; the raise is recorded and persisted."""
    for place in PLACES:
        if (place, kind) not in KEPT:
            replace(host.root / place, kind)
    errors = raises(host)
    assert has_row(host)
    assert "intents/" in str(errors)
    assert "overrides/" in str(errors)
    if "folder" not in kind:
        assert host.persisted == host.limit


@pytest.mark.parametrize("place", OTHERS)
@pytest.mark.parametrize(
    "kind", ["a FIFO", "a folder that is not empty", "a link to /dev/zero", "a dangling link", "100 MB"]
)
def test_other_places(host: Host, place: str, kind: str) -> None:
    """What SQLite or the daemon expects there is made again."""
    replace(host.root / place, kind)
    raises(host)
    assert has_row(host)
