"""The helper that reads owners of namespaces, and what the guard makes of its answers."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conntrackd_guard.host.conntrack import owner_client, owner_helper
from conntrackd_guard.host.conntrack.namespaces import NamespaceScanner
from conntrackd_guard.host.conntrack.owner_client import OwnerClient
from conntrackd_guard.host.paths import Paths

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_SYS_PTRACE")
PROC = Path("/proc")
KEY, ROOTS, USERS = 11, 4026531900, 4026531901


@pytest.fixture
def client(tmp_path: Path) -> Iterator[OwnerClient]:
    """Give a client that listens at `helper.sock`."""
    client = OwnerClient(tmp_path / "helper.sock", PROC)
    yield client
    client.close()


@contextlib.contextmanager
def a_helper(path: Path, client: OwnerClient) -> Iterator[subprocess.Popen[bytes]]:
    """Run the helper as its unit does, until it is connected and after that."""
    command = [sys.executable, "-I", "-S", owner_helper.__file__, str(path.parent / "absent.sock"), str(path)]
    with subprocess.Popen(command) as running:
        try:
            until_changed(client)
            yield running
        finally:
            running.kill()


def until_changed(client: OwnerClient) -> None:
    """Wait until the client has noticed a helper that comes or goes."""
    while not client.has_changed():
        time.sleep(0.01)


def a_peer(client: OwnerClient, path: Path) -> socket.socket:
    """Return the other end of the client's connection: this process may answer, as root."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.connect(str(path))
    assert client.has_changed()
    return peer


def test_an_answer_has_number_and_owner() -> None:
    """Of this process, for each time it is asked about."""
    number = os.stat("/proc/self/ns/net").st_ino
    pid = b"%d" % os.getpid()
    assert owner_helper.answer(b"%s %s" % (pid, pid)) == b"%s:%d:r %s:%d:r\n" % (pid, number, pid, number)


@pytest.mark.parametrize("request_", [b"", b"self", b"../etc", b"1/../1", b"-1", b"\xc2\xb2", b"0" * 11, b"4194305"])
def test_a_request_reads_nothing_else(request_: bytes) -> None:
    """Not a process, or none that exists: the answer is empty, but an answer."""
    assert owner_helper.answer(request_) == b"\n"


@NEEDS_ROOT
def test_the_helper_places_namespaces(client: OwnerClient, tmp_path: Path) -> None:
    """A scan has numbers and owners from it: of the namespaces of root and of users."""
    scanner = NamespaceScanner(Paths(), client.read)
    with contextlib.ExitStack() as running:
        numbers = []
        for owner in ([], ["--user"]):
            command = ["unshare", *owner, "--net", "sh", "-c", "stat -L -c %i /proc/self/ns/net; exec cat"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            running.enter_context(process)
            assert process.stdout is not None
            numbers.append(int(process.stdout.readline()))
            running.callback(process.kill)
        assert {netns.owner_unknown for netns in scanner.scan()[0] if not netns.initial and netns.pids} == {True}
        with a_helper(tmp_path / "helper.sock", client):
            found = {netns.namespace: netns for netns in scanner.scan()[0]}
        assert [(found[number].user_owned, found[number].owner_unknown) for number in numbers] == [
            (False, False),
            (True, False),
        ]
        until_changed(client)
        after = [netns for netns in scanner.scan()[0] if not netns.initial and netns.pids]
        assert {(netns.namespace, netns.owner_unknown) for netns in after} == {(None, True)}


@NEEDS_ROOT
def test_answers_are_believed_only_about_what_was_asked(client: OwnerClient, tmp_path: Path) -> None:
    """Numbers of other ids, of no namespace, or of another form change nothing."""
    with a_peer(client, tmp_path / "helper.sock") as peer:
        peer.send(b"7:%d:r\n" % ROOTS)
        assert client.read({KEY: [8]}) == {}
        peer.recv(owner_helper.MOST_BYTES)
        peer.send(b"9:%d:r 8:0:r 8:-1:r 8:4294967296:r 8:%d:x 8\n" % (ROOTS, ROOTS) + b"8" * 60_000)
        assert client.read({KEY: [8]}) == {}


@NEEDS_ROOT
def test_a_late_answer_is_taken_with_the_next_scan(client: OwnerClient, tmp_path: Path) -> None:
    """The scan goes on with the last answer, as long as its process is in the namespace."""
    with a_peer(client, tmp_path / "helper.sock") as peer:
        assert client.read({KEY: [8, 9]}) == {}
        assert peer.recv(owner_helper.MOST_BYTES) == b"8 9"
        peer.send(b"9:%d:u\n" % USERS)
        assert client.read({KEY: [8, 9]}) == {KEY: (USERS, True)}
        assert client.read({KEY: [8, 9]}) == {KEY: (USERS, True)}
        assert client.known({KEY: [9, 10]}) == {KEY: (USERS, True)}
        assert client.known({KEY: [8]}) == {}
        assert client.read({KEY: [8]}) == {}


@NEEDS_ROOT
def test_many_namespaces_are_asked_about_in_turn(client: OwnerClient, tmp_path: Path) -> None:
    """What one deadline leaves out is first in the next scan."""
    wanted = {key: [key] for key in range(1, 301)}
    with a_peer(client, tmp_path / "helper.sock") as peer:
        client.read(wanted)
        first = peer.recv(owner_helper.MOST_BYTES).split()
        peer.send(b" ".join(b"%s:%d:r" % (one, ROOTS) for one in first) + b"\n")
        assert len(client.read(wanted)) == len(first) == 256
        assert peer.recv(owner_helper.MOST_BYTES).split()[:44] == [b"%d" % one for one in range(257, 301)]


@NEEDS_ROOT
def test_a_helper_that_says_nothing_is_let_go(
    client: OwnerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is missing like one that has ended, and none of its answers counts."""
    now = time.monotonic()
    with a_peer(client, tmp_path / "helper.sock") as peer:
        client.read({KEY: [8]})
        assert not client.has_changed()
        monkeypatch.setattr(time, "monotonic", lambda: now + 20.0)
        assert client.has_changed()
        assert not client.is_missing
        monkeypatch.setattr(time, "monotonic", lambda: now + 31.0)
        assert client.is_missing
        assert peer.recv(8) == b"8"
        assert peer.recv(8) == b""


CONNECT = """
import socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
peer.connect(sys.argv[1])
print(peer.recv(8) == b"")
"""


@NEEDS_ROOT
@pytest.mark.parametrize("start", [[], ["unshare", "--user", "--map-root-user"]])
def test_a_user_can_not_answer(client: OwnerClient, tmp_path: Path, start: list[str]) -> None:
    """Neither with no rights, nor with all those that a user namespace gives, nor by running a privileged program."""
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [*drop, *start, sys.executable, "-I", "-c", CONNECT, str(tmp_path / "helper.sock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        while running.poll() is None:
            assert not client.has_changed()
            time.sleep(0.01)
        assert running.stdout is not None
        assert running.stdout.read() == "True\n"


def test_a_peer_that_has_become_root_can_not_answer(
    client: OwnerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's program connects, then runs one that is privileged: the process has rights that its user has not."""
    proc = tmp_path / "proc"
    (proc / str(os.getpid())).mkdir(parents=True)
    (proc / str(os.getpid()) / "uid_map").write_text("0 0 4294967295\n")
    (proc / str(os.getpid()) / "status").write_text("Uid:\t1000\t0\t0\t0\nCapEff:\t000001ffffffffff\n")
    monkeypatch.setattr(client, "_proc", proc)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(str(tmp_path / "helper.sock"))
        assert not client.has_changed()
        assert peer.recv(8) == b""


@NEEDS_ROOT
def test_what_stands_in_the_way_delays_the_helper_only(tmp_path: Path) -> None:
    """A folder at the socket's path is set aside; where none can be made, that is tried again."""
    path = tmp_path / "run/helper.sock"
    client = OwnerClient(path, PROC)
    assert not client.has_changed()
    path.mkdir(parents=True)
    assert not client.has_changed()
    a_peer(client, path).close()
    client.close()


@pytest.mark.parametrize(("effective", "reads"), [("000001ffffffffff", True), ("0000000000080000", True), ("0", False)])
def test_a_guard_with_the_right_needs_no_helper(tmp_path: Path, effective: str, *, reads: bool) -> None:
    """As in the foreground, as full root."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(f"Uid:\t0\t0\t0\t0\nCapEff:\t{effective}\n")
    assert owner_client.reads_owners(tmp_path) is reads
    listening = owner_client.listen(tmp_path / "helper.sock", tmp_path)
    assert (listening is None) is reads
    if listening is not None:
        listening.close()


@NEEDS_ROOT
@pytest.mark.parametrize(("uid", "answers"), [(owner_client.HELPER_UID, True), (65534, False), (0, False)])
def test_in_a_container_the_helper_is_known_by_its_user(tmp_path: Path, uid: int, *, answers: bool) -> None:
    """Its process has no number in the guard's container."""
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    client = OwnerClient(tmp_path / "helper.sock", tmp_path, in_container=True)
    command = [
        "setpriv",
        f"--reuid={uid}",
        "--clear-groups",
        sys.executable,
        "-I",
        "-c",
        CONNECT,
        str(tmp_path / "helper.sock"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        noticed = False
        while running.poll() is None and not noticed:
            noticed = client.has_changed()
            time.sleep(0.01)
        client.close()
    assert noticed is answers


CONFINED = """
import os, runpy, socket, sys
helper = runpy.run_path(sys.argv[1])
helper["confine"]()
print(helper["answer"](b"%d" % os.getpid()).decode(), end="")
for attempt in (
    lambda: os.open("/dev/null", os.O_WRONLY),
    lambda: os.open(sys.argv[2], os.O_RDONLY | os.O_CREAT),
    os.fork,
    lambda: os.kill(os.getpid(), 0),
    lambda: os.mkdir(sys.argv[2]),
    lambda: socket.socket(socket.AF_INET),
    lambda: os.execv("/bin/true", ["true"]),
    lambda: os.setuid(0),
):
    try:
        print(attempt())
    except PermissionError:
        print("refused")
"""


@NEEDS_ROOT
def test_in_a_container_the_helper_confines_itself(tmp_path: Path) -> None:
    """It still answers, and can neither write a file, start or signal a process, nor use the network."""
    command = [sys.executable, "-I", "-S", "-c", CONFINED, owner_helper.__file__, str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer, *refused = done.stdout.splitlines()
    assert answer.endswith(f":{os.stat('/proc/self/ns/net').st_ino}:r"), done.stderr
    assert refused == ["refused"] * 8
