"""The ring buffer: records parsed, overruns survived, forgeries ignored."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.host.kernel_log.kmsg import RingBuffer

DEVICE = Path("/dev/kmsg")
LINE = "nf_conntrack: nf_conntrack: table full in netns 4026532316, dropping packet"
Records = list[bytes | int]


def ring(monkeypatch: pytest.MonkeyPatch, records: Records) -> RingBuffer:
    """A ring buffer whose reads return the records, or fail with the numbers, one after the other."""
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
        f"4,351,7156682430,-;{LINE}\n",
        f"4,351,7156682430,-,caller=T1234;{LINE}\n",
        f"4,351,7156682430,-;{LINE}\n SUBSYSTEM=net\n DEVICE=+x\\x0ay\n",
    ],
)
def test_a_kernel_line_is_read_with_its_stamp(monkeypatch: pytest.MonkeyPatch, record: str) -> None:
    """Header fields that newer kernels add, and dictionary lines, change nothing."""
    (event,) = ring(monkeypatch, [record.encode()]).read()
    assert (event.message.namespace, event.stamp_us, event.source) == (4026532316, 7156682430, "ring buffer")
    assert event.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize(
    "record",
    [
        f"12,351,7156682430,-;{LINE}\n",
        f"8,351,7156682430,-;{LINE}\n",
        f"4,351,7156682430,-;x {LINE}\n",
        f"4,351,7156682430,-;{LINE}\\x0aIN=lo\n",
        f"4,351,7156682430,-;other\n MESSAGE={LINE}\n",
        f"-4,351,7156682430,-;{LINE}\n",
        f"{LINE}\n",
        "table full;",
        "",
    ],
)
def test_forged_and_broken_records_are_ignored(monkeypatch: pytest.MonkeyPatch, record: str) -> None:
    """Another facility, text around the line, a line in the dictionary, no header: none is the kernel's line."""
    assert ring(monkeypatch, [record.encode() or b"\n"]).read() == []


def test_an_overrun_is_counted_and_read_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overwritten messages are counted, the ones after them are read, and an oversized record is skipped."""
    source = ring(monkeypatch, [errno.EPIPE, f"4,9,5,-;{LINE}\n".encode(), errno.EINVAL, f"4,11,7,-;{LINE}\n".encode()])
    assert [event.stamp_us for event in source.read()] == [5, 7]
    assert source.overruns == 1


def test_catching_up_notes_the_newest_stamp_of_any_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record's stamp is the kernel's own clock, a process's record too."""
    events, newest = ring(monkeypatch, [f"4,1,5,-;{LINE}\n".encode(), b"12,2,9,-;hello\n"]).catch_up()
    assert ([event.stamp_us for event in events], newest) == ([5], 9)


def test_an_empty_buffer_has_no_newest_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that was never written to divides nothing."""
    assert ring(monkeypatch, []).catch_up() == ([], None)


def test_a_turn_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood does not keep the loop from its other work."""
    source = ring(monkeypatch, [f"4,1,{stamp},-;{LINE}\n".encode() for stamp in range(30)])
    assert [len(source.read(most=20)), len(source.read(most=20))] == [20, 10]


def test_a_refused_read_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other error is the project's own, with the path."""
    with pytest.raises(HostError, match=r"read fake: .*journal"):
        ring(monkeypatch, [errno.EPERM]).read()


def test_only_the_device_is_adopted(tmp_path: Path) -> None:
    """Another file handed in by mistake is refused; so is a path that does not open."""
    with pytest.raises(HostError, match="open"):
        RingBuffer.open(tmp_path / "kmsg")
    descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        assert not RingBuffer.is_one(descriptor)
        with pytest.raises(HostError, match="Hand in /dev/kmsg"):
            RingBuffer.adopt(descriptor)
    finally:
        os.close(descriptor)
    assert not RingBuffer.is_one(descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: /dev/kmsg")
def test_the_real_device_opened_or_handed_in_ignores_what_processes_write() -> None:
    """A line that root writes to /dev/kmsg moves the newest stamp and is no event; both ways in see the same."""
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
    """Warnings and worse of facility 0 count, not information and not what a process wrote."""
    records: Records = [b"4,1,5,-;a\n", b"3,2,6,-;b\n", errno.EPIPE, b"6,3,7,-;c\n", b"12,4,8,-;d\n", b"junk"]
    assert ring(monkeypatch, records).newest_warning() == 6


def test_a_buffer_may_hold_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has nothing to complain of, there is no newest warning."""
    assert ring(monkeypatch, [b"6,3,7,-;c\n"]).newest_warning() is None
