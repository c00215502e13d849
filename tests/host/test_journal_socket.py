"""Records reach journald complete or not at all, and the daemon never waits for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from conntrackd_guard.host.journal_socket import MOST_BYTES, JournalSender


def listen(path: Path) -> socket.socket:
    """A journald's socket."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    listener.settimeout(5)
    return listener


def parse(datagram: bytes) -> dict[str, bytes]:
    """Read the native protocol."""
    fields = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, datagram = rest[8 : 8 + size], rest[9 + size :]
        else:
            datagram = rest
        fields[name.decode()] = value
    return fields


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    """A journald that reads when the test does."""
    with listen(tmp_path / "socket") as listener:
        yield listener


def test_every_value_arrives_unchanged(tmp_path: Path, journald: socket.socket) -> None:
    """Text, numbers, bytes, and newlines that could otherwise forge a field."""
    sender = JournalSender(str(tmp_path / "socket"))
    forged = "two\nPRIORITY=0"
    assert sender.send({"MESSAGE": forged, "PRIORITY": 4, "GUARD_TEXT": "ä=b", "GUARD_RAW": b"\x00\n\xff"})
    expected = {"MESSAGE": forged.encode(), "PRIORITY": b"4", "GUARD_TEXT": "ä=b".encode(), "GUARD_RAW": b"\x00\n\xff"}
    assert parse(journald.recv(1 << 20)) == expected
    sender.close()


def test_an_oversized_record_is_cut_and_marked(tmp_path: Path, journald: socket.socket) -> None:
    """A long value is cut between two characters; a record that is still too large is cut further."""
    sender = JournalSender(str(tmp_path / "socket"))
    assert sender.send({"MESSAGE": "ä" * MOST_BYTES})
    value = parse(journald.recv(1 << 20))["MESSAGE"]
    assert len(value) <= MOST_BYTES
    assert value.decode().endswith("ä [cut]")
    assert sender.send({f"F{number}": "x" * MOST_BYTES for number in range(100)})
    fields = parse(journald.recv(1 << 20))
    assert len(fields) == 100
    assert all(value.endswith(b" [cut]") for value in fields.values())
    sender.close()


def test_a_journald_that_does_not_read_is_not_waited_for(tmp_path: Path, journald: socket.socket) -> None:
    """Once its queue is full, `send` returns False at once; the records in the queue arrive in order later."""
    sender = JournalSender(str(tmp_path / "socket"))
    taken = 0
    while taken < 10_000 and sender.send({"MESSAGE": str(taken)}):
        taken += 1
    assert 0 < taken < 10_000
    assert [parse(journald.recv(1 << 20))["MESSAGE"] for _ in range(taken)] == [b"%d" % n for n in range(taken)]
    assert sender.send({"MESSAGE": "again"})
    sender.close()


def test_a_restarted_journald_gets_the_very_next_record(tmp_path: Path) -> None:
    """While journald is away `send` returns False; once it is back no record is lost."""
    sender = JournalSender(str(tmp_path / "socket"))
    assert not sender.send({"MESSAGE": "nobody"})
    with listen(tmp_path / "socket") as first:
        assert sender.send({"MESSAGE": "one"})
        first.recv(1 << 20)
    assert not sender.send({"MESSAGE": "nobody"})
    with listen(tmp_path / "socket"):
        assert sender.send({"MESSAGE": "two"})
    with listen(tmp_path / "socket") as third:
        assert sender.send({"MESSAGE": "three"})
        assert parse(third.recv(1 << 20)) == {"MESSAGE": b"three"}
    sender.close()
