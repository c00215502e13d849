"""Records that look like the kernel's: in the ring buffer, over journald's sockets, in journal files beside the host's."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from ground import Ground
from testbed.another_user import NOBODY
from testbed.journal_files import REMOTE, entry
from testbed.private_world import eventually
from testbed.stage import limit

_A_BATCH = 150
_MARK = "FORGED7f3a"
_WORDINGS = (
    "nf_conntrack: nf_conntrack: table full in netns {}, dropping packet",
    "nf_conntrack: nf_conntrack: table full, dropping packet",
    "nf_conntrack: table full, dropping packet.",
    "ip_conntrack: VPS {} table full, dropping packet",
    "nf_conntrack: expectation table full",
    "neighbour: arp_cache: neighbor table overflow!",
    "net_ratelimit: {} callbacks suppressed",
)
_DRESSES = (
    "{0}", "{0}", "{0}", "{0}\n", "<4>{0}", "<4>kernel: {0}", "kernel: {0}", "[  1.0] {0}", "4,1,1,-;{0}",
    _MARK + "\n{0}", _MARK + "\n{0}\n SUBSYSTEM=net\n DEVICE=+net:lo", "{0}\n _TRANSPORT=kernel\n " + _MARK + "=1",
    _MARK + "\r{0}", "\x1b[2J" + _MARK + "{0}", "{0}\x1b]0;" + _MARK + "\x07", "{0}\x00" + _MARK, _MARK + "\x9b31m{0}",
    "{0}" + " " * 900, "{0} " + _MARK * 60,
)  # fmt: skip


def run(ground: Ground, times: int) -> None:
    """Send `times` forged records to a guard whose table is full: a believed one raises the limit."""
    ground.stage.world.start_journald()
    for number in range(-(-times // _A_BATCH)):
        ground.attempt("batch", lambda number=number: _batch(ground, ring_buffer=number % 2 == 0), 0)


def _batch(ground: Ground, *, ring_buffer: bool) -> None:
    stage = ground.stage
    ground.clean()
    before = stage.messages_recorded(ground.start(ring_buffer=ring_buffer))
    first, known = stage.kernel.messages(), len(stage.world.decisions())
    guard = ground.start(ring_buffer=ring_buffer)
    stage.table.fill(limit())
    start = limit()
    for _ in range(_A_BATCH):
        sender = ground.random.choice(_SENDERS)
        numbers = (stage.table.number, stage.table.number + 1, 1, 4026531840, 2**32, 99999999999)
        text = ground.random.choice(_DRESSES).format(
            ground.random.choice(_WORDINGS).format(ground.random.choice(numbers))
        )
        sender(ground, text)
        ground.done[(sender.__doc__ or "").rstrip(".")] += 1
    assert limit() == start, "a forged record raised the limit"
    stage.table.overflow()  # the kernel's own message, after all of them
    eventually(lambda: limit() > start, "a raise for the real message", guard.log, seconds=60)
    recorded, expected = stage.messages_recorded(guard) - before, stage.kernel.messages() - first
    assert recorded == expected, f"{recorded} recorded, {expected} are the kernel's"
    ground.sound(guard)
    new = stage.world.decisions()[known:]
    assert [row["verdict"] for row in new] == ["raise"], new
    shown = stage.world.guard("history")
    for where, content in (("history", shown.stdout.encode()), ("log", guard.log.read_bytes()), *_stored(ground)):
        assert _MARK.encode() not in content, f"a forged text in {where}"


def _stored(ground: Ground) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in (ground.root / "var/lib/conntrackd-guard").glob("history*")]


def _ring_buffer(ground: Ground, text: str) -> None:
    """Ring buffer, any facility and level."""
    priority = ground.random.choice(("", *(f"<{n}>" for n in (0, 4, 7, 8, 12, 191, 2048, 2052, 2**31, 2**32 + 4, -4))))
    with open("/dev/kmsg", "wb", buffering=0) as device:  # an open file of its own: the kernel limits the rate of each
        device.write((priority + text).encode("latin-1")[:1000])


def _syslog(ground: Ground, text: str) -> None:
    """Syslog socket."""
    _send(ground, "dev-log", f"<{ground.random.choice((0, 4, 12))}>{text}".encode("latin-1"))


def _native(ground: Ground, text: str) -> None:
    """Journald's native socket, with the fields of a kernel record."""
    content = text.encode("latin-1")
    fields = [b"SYSLOG_FACILITY=0", b"PRIORITY=4", b"SYSLOG_IDENTIFIER=kernel", b"_TRANSPORT=kernel", b"_UID=0"]
    fields += [b"_SOURCE_MONOTONIC_TIMESTAMP=99999999999", b"_KERNEL_DEVICE=+net:lo", b"TRANSPORT=kernel"]
    fields.append(b"_BOOT_ID=" + Path("/proc/sys/kernel/random/boot_id").read_bytes().replace(b"-", b"").strip())
    ground.random.shuffle(fields)
    message = b"MESSAGE\n" + len(content).to_bytes(8, "little") + content
    _send(ground, "socket", b"\n".join((*fields[:4], message, *fields[4:], b"")))


def _stream(ground: Ground, text: str) -> None:
    """Journald's stream of a service's output."""
    _send(ground, "stdout", b"kernel\n\n4\n1\n0\n0\n0\n" + b"<4>" + text.encode("latin-1") + b"\n", stream=True)


def _journal_file(ground: Ground, text: str) -> None:
    """Journal file imported beside the host's own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "").strip()
    root = ground.root
    (root / "run/export").write_bytes(entry(10**12, MESSAGE=text.encode("latin-1"), _BOOT_ID=boot))
    machine = (root / "etc/machine-id").read_text().strip()
    name = f"{ground.random.getrandbits(32):x}.journal"
    place = ground.random.choice((f"remote/{name}", f"{machine}/user-65534@{name}", f"{'0' * 31}1/system@{name}"))
    path = root / "var/log/journal" / place
    path.parent.mkdir(exist_ok=True)
    answer = ground.stage.world.run([REMOTE, "-o", f"/var/log/journal/{place}", "/run/export"])
    assert answer.returncode == 0, answer.stderr


_SENDERS: tuple[Callable[[Ground, str], None], ...] = (
    _ring_buffer,
    _ring_buffer,
    _syslog,
    _native,
    _stream,
    _journal_file,
)


def _send(ground: Ground, name: str, content: bytes, *, stream: bool = False) -> None:
    """Send to a socket of journald as root or as nobody, who is another process: journald notes who sends."""
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    user = ground.random.choice((0, NOBODY))
    with socket.socket(socket.AF_UNIX, kind) as one:
        one.connect(str(ground.root / "run/systemd/journal" / name))
        if not (child := os.fork()):
            code = 1
            try:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
                one.sendall(content)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"could not send to {name}"
