"""The ring buffer: records are parsed, overruns survived, forgeries ignored."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host.kernel_log.kmsg import RingBuffer

DEVICE = Path("/dev/kmsg")
MESSAGE = "nf_conntrack: nf_conntrack: table full in netns 4026532316, dropping packet"
Records = list[bytes | int]


def ring(monkeypatch: pytest.MonkeyPatch, records: Records) -> RingBuffer:
    """Return a ring buffer whose reads return these records one by one, or fail with these errnos."""
    left: Iterator[bytes | int] = iter(records)

    def read(_descriptor: int, _most: int) -> bytes:
        record = next(left, errno.EAGAIN)
        if isinstance(record, int):
            raise OSError(record, os.strerror(record))
        return record

    made = RingBuffer(-1, "fake")
    monkeypatch.setattr("conntrackd_guard.host.kernel_log.kmsg.os.read", read)
    return made


@pytest.mark.parametrize(
    "record",
    [
        f"4,351,7156682430,-;{MESSAGE}\n",
        f"4,351,7156682430,-,caller=T1234;{MESSAGE}\n",
        f"4,351,7156682430,-;{MESSAGE}\n SUBSYSTEM=net\n DEVICE=+x\\x0ay\n",
    ],
)
def test_a_kernel_message_is_read_with_its_timestamp(monkeypatch: pytest.MonkeyPatch, record: str) -> None:
    """Further header fields of newer kernels, and dictionary lines, change nothing."""
    (event,) = ring(monkeypatch, [record.encode()]).read()
    assert (event.message.namespace, event.stamp_us, event.source) == (4026532316, 7156682430, "ring buffer")
    assert event.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize(
    "record",
    [
        f"12,351,7156682430,-;{MESSAGE}\n",
        f"8,351,7156682430,-;{MESSAGE}\n",
        f"4,351,7156682430,-;x {MESSAGE}\n",
        f"4,351,7156682430,-;{MESSAGE}\\x0aIN=lo\n",
        f"4,351,7156682430,-;other\n MESSAGE={MESSAGE}\n",
        f"-4,351,7156682430,-;{MESSAGE}\n",
        f"{MESSAGE}\n",
        "table full;",
        "",
    ],
)
def test_forged_and_broken_records_are_ignored(monkeypatch: pytest.MonkeyPatch, record: str) -> None:
    """Another facility, text around the message, a message in the dictionary, no header: none is the kernel's."""
    assert ring(monkeypatch, [record.encode() or b"\n"]).read() == []


def test_an_overrun_is_counted_and_read_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overruns are counted and later messages are read; an oversized record is skipped."""
    source = ring(
        monkeypatch, [errno.EPIPE, f"4,9,5,-;{MESSAGE}\n".encode(), errno.EINVAL, f"4,11,7,-;{MESSAGE}\n".encode()]
    )
    assert [event.stamp_us for event in source.read()] == [5, 7]
    assert source.overruns == 1


def test_catching_up_returns_the_newest_timestamp_of_any_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel stamps every record with its own clock, those of processes too."""
    events, newest = ring(monkeypatch, [f"4,1,5,-;{MESSAGE}\n".encode(), b"12,2,9,-;hello\n"]).catch_up()
    assert ([event.stamp_us for event in events], newest) == ([5], 9)


def test_an_empty_buffer_has_no_newest_timestamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without records there is no timestamp to compare with."""
    assert ring(monkeypatch, []).catch_up() == ([], None)


def test_a_turn_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood leaves the loop time for its other work."""
    source = ring(monkeypatch, [f"4,1,{stamp},-;{MESSAGE}\n".encode() for stamp in range(30)])
    assert [len(source.read(most=20)), len(source.read(most=20))] == [20, 10]


def test_a_refused_read_has_a_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other error becomes a HostError with the path."""
    with pytest.raises(HostError, match=r"read fake: .*journal"):
        ring(monkeypatch, [errno.EPERM]).read()


def test_only_the_device_is_adopted(tmp_path: Path) -> None:
    """Another file passed by mistake is refused; so is a path that does not open."""
    with pytest.raises(HostError, match="open"):
        RingBuffer.open(tmp_path / "kmsg")
    descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        assert not RingBuffer.is_kmsg(descriptor)
        with pytest.raises(HostError, match="Pass /dev/kmsg"):
            RingBuffer.adopt(descriptor)
    finally:
        os.close(descriptor)
    assert not RingBuffer.is_kmsg(descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: /dev/kmsg")
def test_messages_of_processes_in_the_real_device_are_ignored() -> None:
    """A message that root writes to /dev/kmsg moves the newest timestamp and is no event, opened or adopted."""
    opened = RingBuffer.open(DEVICE)
    adopted = RingBuffer.adopt(os.open(DEVICE, os.O_RDONLY))
    try:
        _, before = opened.catch_up()
        adopted.catch_up()
        with DEVICE.open("wb", buffering=0) as device:
            device.write(b"<4>nf_conntrack: nf_conntrack: table full in netns 4026530000, dropping packet\n")
        for source in (opened, adopted):
            assert all(event.message.namespace != 4026530000 for event in source.read())
        again = RingBuffer.open(DEVICE)
        events, after = again.catch_up()
        again.close()
        assert all(event.message.namespace != 4026530000 for event in events)
        assert before is not None
        assert after is not None
        assert after > before
    finally:
        opened.close()
        adopted.close()


def test_the_newest_warning_is_the_kernels_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings and worse of facility 0 count; information and messages of processes do not."""
    records: Records = [b"4,1,5,-;a\n", b"3,2,6,-;b\n", errno.EPIPE, b"6,3,7,-;c\n", b"12,4,8,-;d\n", b"junk"]
    assert ring(monkeypatch, records).newest_warning() == 6


def test_a_buffer_may_hold_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a warning there is no newest one."""
    assert ring(monkeypatch, [b"6,3,7,-;c\n"]).newest_warning() is None
