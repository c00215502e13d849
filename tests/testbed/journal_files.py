"""Real journal files for tests, written by systemd-journal-remote, and followers on them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conntrackd_guard.core.kernel_messages import KernelEvent
from conntrackd_guard.host.kernel_log.journal import JournalFollower
from conntrackd_guard.host.kernel_log.journal_reader import Drained, KernelJournal

REMOTE = "/lib/systemd/systemd-journal-remote"
BOOT = "3060c963-3376-45ed-a3ff-628ad3a476ae"
MESSAGE = "nf_conntrack: nf_conntrack: table full in netns {}, dropping packet"
DEADLINE_SECONDS = 10.0


def entry(number: int, **changed: str | bytes | None) -> bytes:
    """Return an entry in export format; its message names namespace `number`, its stamp is `number` too."""
    fields: dict[str, str | bytes | None] = {
        "__REALTIME_TIMESTAMP": str(1_700_000_000_000_000 + number),
        "__MONOTONIC_TIMESTAMP": str(number),
        "_BOOT_ID": BOOT.replace("-", ""),
        "_TRANSPORT": "kernel",
        "SYSLOG_FACILITY": "0",
        "_SOURCE_MONOTONIC_TIMESTAMP": str(number),
        "MESSAGE": MESSAGE.format(number),
    }
    exported = b""
    for name, value in (fields | changed).items():
        if value is not None:
            content = value if isinstance(value, bytes) else value.encode()
            if b"\n" in content:
                exported += name.encode() + b"\n" + len(content).to_bytes(8, "little") + content + b"\n"
            else:
                exported += name.encode() + b"=" + content + b"\n"
    return exported + b"\n"


def write(folder: Path, name: str, *entries: bytes) -> Path:
    """Make a journal file of the host below `folder`, or append to one."""
    return write_file(folder / f"var/log/journal/system@{name}.journal", *entries)


def write_file(path: Path, *entries: bytes) -> Path:
    """Make a journal file, or append to one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([REMOTE, "-o", str(path), "-"], input=b"".join(entries), check=True, capture_output=True)
    return path


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.01)


Start = Callable[..., JournalFollower]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start followers that end with the test."""
    started: list[JournalFollower] = []

    def begin(folder: Path, cursor: str | None = None, *, state: str = "following") -> JournalFollower:
        follower = JournalFollower(folder)
        started.append(follower)
        follower.begin(cursor)
        until(lambda: follower.state.startswith(state), f"{state}, not {follower.state}")
        return follower

    yield begin
    for follower in started:
        follower.stop()


def read_to_end(start: Start, folder: Path) -> str | None:
    """Have a follower read what is there, as an earlier run did, and return its cursor."""
    follower = start(folder)
    follower.take()
    follower.stop()
    return follower.newest_cursor


def take(follower: JournalFollower, count: int) -> list[KernelEvent]:
    """Take events until there are `count`, and see that no more come."""
    taken: list[KernelEvent] = []

    def enough() -> bool:
        taken.extend(follower.take())
        return len(taken) >= count

    until(enough, f"{count} events, not {len(taken)}")
    time.sleep(0.05)
    return taken + follower.take()


def count_openings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one whenever a journal is opened."""
    openings: list[int] = []
    init = KernelJournal.__init__

    def counted(self: KernelJournal, root: Path | None) -> None:
        openings.append(1)
        init(self, root)

    monkeypatch.setattr(KernelJournal, "__init__", counted)
    return openings


def count_readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one with every reading of a follower."""
    readings: list[int] = []
    drain = KernelJournal.drain

    def counted(self: KernelJournal, most: int, *, this_one_first: bool = False) -> Drained:
        readings.append(1)
        return drain(self, most, this_one_first=this_one_first)

    monkeypatch.setattr(KernelJournal, "drain", counted)
    return readings


def numbers(events: list[KernelEvent]) -> list[int | None]:
    """Return the namespaces that the messages name."""
    return [event.message.namespace for event in events]
