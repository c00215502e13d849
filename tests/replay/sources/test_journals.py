"""Evidence from real journal files, as systemd-journal-remote writes them, and from streams of their entries."""

from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path

import pytest
from testbed.journal_files import entry, write_file

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.model import MessageKind
from conntrackd_guard.replay.model import Grade, HostFacts, HostInput, Message, Skipped, Span
from conntrackd_guard.replay.sources import journals, streams

SECOND = 1_000_000
START = 1_700_000_000
FULL = "nf_conntrack: nf_conntrack: table full, dropping packet"


def kernel(second: float, message: str = FULL, **changed: str | bytes | None) -> bytes:
    """Return a kernel entry of web1 that was logged that many seconds after the start."""
    fields: dict[str, str | bytes | None] = {"_HOSTNAME": "web1", "_MACHINE_ID": "1" * 32, "MESSAGE": message}
    return entry(int(second * SECOND), **(fields | changed))


BOOT_LINES = (
    kernel(0, "Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) (gcc-12) #1 SMP"),
    kernel(1, "Memory: 3218116K/25165432K available (14342K kernel code, 2332K rwdata)"),
    kernel(2, "smp: Brought up 1 node, 2 CPUs"),
)


def read(*paths: Path, span: Span | None = None) -> tuple[list[HostInput], list[Skipped]]:
    """Return the hosts and what is skipped of all journals at or below `paths`."""
    found: list[HostInput | Skipped] = []
    for group in journals.find(paths):
        found += [group] if isinstance(group, Skipped) else group.read(span or Span())
    return [one for one in found if isinstance(one, HostInput)], [one for one in found if isinstance(one, Skipped)]


def from_stream(content: bytes) -> tuple[list[HostInput], list[Skipped]]:
    """Return the hosts and what is skipped of a stream."""
    found = list(streams.read(io.BytesIO(content), Span()))
    return [one for one in found if isinstance(one, HostInput)], [one for one in found if isinstance(one, Skipped)]


def test_a_fleet_in_one_folder_is_grouped_by_the_names_of_its_files(tmp_path: Path) -> None:
    """Rotated and unclean files belong to their host; what the entries claim changes no name."""
    closed = "0005f2c1a2b3c4d5"
    write_file(tmp_path / "remote-web1.journal", *BOOT_LINES, kernel(60))
    write_file(tmp_path / f"remote-web1@{closed}-0123456789abcdef.journal", kernel(30, _BOOT_ID="2" * 32))
    os.rename(
        write_file(tmp_path / "x.journal", kernel(45)), tmp_path / f"remote-web1@{closed}-fedcba9876543210.journal~"
    )
    write_file(tmp_path / "remote-db.example.journal", kernel(10, _HOSTNAME="web1"))
    hosts, skipped = read(tmp_path)
    assert [host.name for host in hosts] == ["db.example", "web1"]
    assert skipped == []
    web = hosts[1]
    assert web.grade is Grade.ASKED_ONLY
    assert web.facts == HostFacts(total_bytes=25165432 * 1024, cpus=2, kernel="6.1.0-18-amd64", boots=2)
    assert list(web.messages) == [Message(START + at, MessageKind.TABLE_FULL, None) for at in (30.0, 45.0, 60.0)]
    assert list(web.samples) == []


def test_a_copied_journal_folder_is_one_host_by_its_machine_id(tmp_path: Path) -> None:
    """A user's files have no kernel messages and need not be opened."""
    folder = tmp_path / ("a" * 32)
    write_file(folder / "system.journal", kernel(1))
    write_file(folder / "system@0123-0001-0005.journal", kernel(0))
    write_file(folder / "user-1000.journal", kernel(2))
    (group,) = journals.find([tmp_path])
    assert isinstance(group, journals.JournalGroup)
    assert (group.key, len(group.paths)) == ("a" * 32, 2)


def test_equal_names_in_two_folders_stay_two_hosts(tmp_path: Path) -> None:
    """Two sites may each have a web1; a file named twice is read once."""
    files = [write_file(tmp_path / site / "remote-web1.journal", kernel(1)) for site in ("east", "west")]
    hosts, _ = read(tmp_path, files[0])
    assert [host.name for host in hosts] == [f"{tmp_path}/east/web1", f"{tmp_path}/west/web1"]


def test_a_second_machine_id_under_one_name_is_noted(tmp_path: Path) -> None:
    """A sender may pretend to be another host, or a host was installed again."""
    write_file(tmp_path / "remote-web1.journal", kernel(1), kernel(2, _MACHINE_ID="2" * 32, _HOSTNAME="\x1b[2Jevil"))
    (host,), _ = read(tmp_path)
    assert host.notes == (
        f"entries of 2 machine ids under one name: {'1' * 32}, {'2' * 32}",
        r"host name in the entries: \x1b[2Jevil, web1",
    )


def test_only_the_kernels_own_messages_count(tmp_path: Path) -> None:
    """A program's line with the same text, and one that root wrote to /dev/kmsg, are none."""
    write_file(tmp_path / "a.journal", kernel(1, _TRANSPORT="syslog"), kernel(2, SYSLOG_FACILITY="1"), kernel(3))
    (host,), _ = read(tmp_path)
    assert [message.wall_seconds for message in host.messages] == [START + 3]


def test_equal_messages_of_one_second_are_one_with_a_count(tmp_path: Path) -> None:
    """A flood must not take memory for each message."""
    write_file(tmp_path / "a.journal", *(kernel(1 + number / 10) for number in range(10)), kernel(2))
    (host,), _ = read(tmp_path)
    assert [(message.wall_seconds - START, message.count) for message in host.messages] == [(1, 10), (2, 1)]


def test_the_span_bounds_messages_but_not_the_boot_before_it(tmp_path: Path) -> None:
    """The memory that a boot message showed is still there a week later; a later boot's is not yet."""
    later = kernel(100, "Memory: 1K/99999K available (1K kernel code)")
    write_file(tmp_path / "a.journal", *BOOT_LINES, kernel(10), kernel(20), kernel(30), later)
    (host,), _ = read(tmp_path, span=Span(since=START + 20, until=START + 25))
    assert [message.wall_seconds - START for message in host.messages] == [20]
    assert host.facts.total_bytes == 25165432 * 1024


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: content[: len(content) // 2], "No data available. 0 kernel entries were read."),
        (lambda _: b"LPKSHHRH" + bytes(300), "0 kernel entries were read."),
        (lambda _: b"no journal at all", "0 kernel entries were read."),
        (lambda _: b"", "0 kernel entries were read."),
    ],
)
def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path: Path, damage: object, expected: str) -> None:
    """One damaged file costs neither its host nor the fleet."""
    write_file(tmp_path / "remote-web1.journal", kernel(1))
    broken = tmp_path / "remote-web1@01-02.journal~"
    broken.write_bytes(damage((tmp_path / "remote-web1.journal").read_bytes()))  # type: ignore[operator]
    (host,), (skipped,) = read(tmp_path)
    assert len(list(host.messages)) == 1
    assert skipped.name == f"web1: {broken}"
    assert expected in skipped.why


def test_a_host_without_a_readable_file_is_skipped(tmp_path: Path) -> None:
    """A row of zeros would look as if the host had no trouble."""
    (tmp_path / "remote-web1.journal").write_bytes(b"LPKSHHRH")
    hosts, skipped = read(tmp_path)
    assert (hosts, len(skipped)) == ([], 1)


def test_no_damage_shortens_a_reading_in_silence(tmp_path: Path) -> None:
    """Where a chain of the index is broken, libsystemd ends or skips the middle, without an error."""
    content = write_file(tmp_path / "whole.journal", *map(kernel, range(1, 2001))).read_bytes()
    used = len(content.rstrip(b"\0"))
    chance = random.Random(7)  # noqa: S311 - the same damage in every run
    path = tmp_path / "remote-a.journal"
    partly_read = silent = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(10):
            at = chance.randrange(used // 10, used)
            damaged[at : at + 8] = chance.randbytes(8)
        path.write_bytes(damaged)
        hosts, skipped = read(path)
        read_messages = sum(message.count for host in hosts for message in host.messages)
        silent += not skipped and read_messages < 1900  # a message whose own text is damaged is none
        partly_read += bool(skipped) and bool(read_messages)
    assert partly_read > 10
    assert silent == 0


def test_a_path_without_journals_is_skipped_and_one_that_is_missing_fails(tmp_path: Path) -> None:
    """The first may be one of many; the second is a typing error."""
    _, (skipped,) = read(tmp_path)
    assert skipped == Skipped(name=str(tmp_path), why="There is no journal file at or below this path.")
    with pytest.raises(HostError, match=r"Can't read .*/none: No such file or directory\. Name a journal file"):
        read(tmp_path / "none")


def as_json(content: bytes) -> bytes:
    """Return entries in export format as `journalctl -o json` prints them."""
    entries = content.decode().rstrip("\n").split("\n\n")
    lines = (json.dumps(dict(field.split("=", 1) for field in found.split("\n"))) for found in entries)
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize("form", [bytes, as_json])
def test_a_stream_of_entries_has_a_row_for_each_host_that_it_names(form: type[bytes]) -> None:
    """The same evidence as from files, with a note that the name is a claim."""
    content = b"".join((*BOOT_LINES, kernel(5), kernel(6, _TRANSPORT="syslog"), kernel(7, _HOSTNAME="db")))
    (db, web), skipped = from_stream(form(content))
    assert (db.name, web.name, skipped) == ("db", "web1", [])
    assert web.facts == HostFacts(total_bytes=25165432 * 1024, cpus=2, kernel="6.1.0-18-amd64", boots=1)
    assert list(web.messages) == [Message(START + 5.0, MessageKind.TABLE_FULL, None)]
    assert web.notes == ("the host's name is what its entries claim",)


def test_binary_and_long_fields_of_a_stream_are_passed_over() -> None:
    """A field may contain newlines, and an entry's end, and have any size up to the journal's own."""
    trap = b"one\n\nMESSAGE=" + FULL.encode() + b"\n\n"
    content = (
        kernel(1, OTHER=trap)
        + kernel(2, LONG=b"x" * (3 << 20))
        + kernel(3, BINARY=b"\n" + b"x" * (3 << 20))
        + kernel(4)
    )
    (host,), skipped = from_stream(content)
    assert [message.wall_seconds - START for message in host.messages] == [1, 2, 3, 4]
    assert skipped == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "There is no kernel entry in it."),
        (b"GET / HTTP/1.1\r\n\r\n", "Line 1 is no field of a journal entry: GET / HTTP/1.1"),
        (b"\x1b[2J=1\n\n", r"Line 1 is no field of a journal entry: \x1b[2J."),
        (b"BIG\n" + b"\xff" * 8 + b"x", "The field in line 1 would have 18446744073709551615 bytes"),
        (b"{" + b"[" * 100_000 + b"\n", "Line 1 is no JSON object."),
        (b'{"MESSAGE": 1}\n[]\n', "Line 2 is no JSON object."),
        (b'{"MESSAGE": 1}\n', "1 entries have no time of their own"),
        (kernel(1, __REALTIME_TIMESTAMP="9" * 5000), "1 entries have no time of their own"),
    ],
)
def test_a_stream_that_is_no_journal_ends_in_a_clear_line(content: bytes, expected: str) -> None:
    """What was found, where, and what to use instead."""
    hosts, skipped = from_stream(content)
    assert hosts == []
    assert any(expected in one.why for one in skipped)


def test_the_host_names_of_a_stream_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes memory, and a hostile sender can claim a new one with each entry."""
    monkeypatch.setattr(streams, "MOST_HOSTS", 3)
    hosts, (skipped,) = from_stream(b"".join(kernel(number, _HOSTNAME=f"h{number}") for number in range(5)))
    assert len(hosts) == 3
    assert skipped.why == "More than 3 host names. Replay the hosts in several runs."


def test_names_and_boot_ids_of_a_stream_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry may claim a megabyte of them."""
    monkeypatch.setattr(streams, "MOST_BOOTS", 2)
    (found,), _ = from_stream(
        b"".join(kernel(number, _HOSTNAME="h" * 300_000, _BOOT_ID=f"{number}" * 300_000) for number in range(4))
    )
    assert found.name == "h" * streams.LONGEST_NAME
    assert found.facts.boots == 2


def test_boot_ids_that_begin_alike_are_kept_apart_by_64_bytes() -> None:
    """An id of systemd's has 32 characters."""
    (found,), _ = from_stream(
        b"".join(kernel(number, _BOOT_ID="a" * 64 + f"{number}" * 300_000) for number in range(4))
    )
    assert found.facts.boots == 1
