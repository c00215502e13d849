"""Try to leave each unit's sandbox: run attempts/ in it, aimed at processes, sockets and mounts of this host."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ground import AUDIT, GUARD, HELPER, NOTIFY, PERSIST, equal, run, shown, until

RESULTS = Path("/results")
"""Kept by scripts/test-host: the table of all attempts."""
PROGRAM = "/test-host/attempts"
_HELPER = "/usr/lib/python3/dist-packages/conntrackd_guard/host/conntrack/owner_helper.py"
"""It confines itself."""
CODE, WRITE = "runs code outside the sandbox", "writes a file outside its own"
_SIGNALS = "the kernel lets user 0 send the signal for input to every process of root; no filter sees which"
_ABSTRACT = "the host's tables are in the host's network namespace, and its abstract sockets are too"
_BELOW = "what is mounted below a directory that the unit shows appears there, as named namespaces must"
_KILL = "guard notify ends a command that takes too long, and the filter doesn't see which process"
_EVERYWHERE = {
    "kill_by_input": _SIGNALS,
    "abstract_datagrams": _ABSTRACT,
    "late_mount_below": _BELOW,
}
POSSIBLE = {
    GUARD: _EVERYWHERE,
    AUDIT: _EVERYWHERE,
    HELPER: {},
    PERSIST: {"sysctl_files": "it writes the drop-in, from two numbers", "late_mount_below": _BELOW},
    NOTIFY: _EVERYWHERE
    | dict.fromkeys(("kill", "kill_thread", "kill_by_descriptor", "kill_with_value"), _KILL)
    | {
        "abstract_stream": _ABSTRACT,
        "internet": "the command reports to other hosts",
        "netlink": "name service reads the addresses of this host",
        "identity": "to its own group only: it has no capability for another",
        "writable_code": "Java and JavaScript compile at run time",
    },
}
"""What is not refused, and why."""
OF_A_CONTAINER = {
    "bpf", "core_pattern", "descriptor_of_bare", "descriptor_of_root", "devices", "handles", "keys", "managed_oom",
    "memory_of_the_peer", "modprobe", "modules", "perf", "state_of_the_peer", "sysctl_request", "sysfs", "sysrq", "udev",
    "uevent_helper",
}  # fmt: skip
"""Refused or absent in this container without any sandbox, on some kernel or release. All others must work there."""
LATE = ("/mnt/attempts", "/srv/attempts", "/run/attempts")
"""A file system is mounted here after the start."""
LATE_BELOW = "/etc/attempts"
_PATH = NOTIFY.replace(".service", ".path")
_ABSTRACT_NAME = "conntrackd-guard-attempts"
_SPOOL = "/var/spool/attempts"
_STREAMS = (
    "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/snapd.socket",
    "/run/libvirt/libvirt-sock", f"{_SPOOL}/socket", f"\0{_ABSTRACT_NAME}",
)  # fmt: skip
_FIFO = f"{_SPOOL}/fifo"
_START = "/run/attempts.start"
"""The program waits for a byte from here: by then the mounts are made."""
_PROCESSES = {
    "root": ("sleep", "infinity"),
    "bare": ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "sleep", "infinity"),
    "prey": ("sleep", "infinity"),
}

Results = list[dict[str, str]]


def no_unit_leaves_its_sandbox() -> None:
    """Each unit refuses every attempt to leave its sandbox but the named ones, which run no code outside it."""
    found = {"no sandbox": _without_a_sandbox()}
    for unit, peer in ((GUARD, AUDIT), (AUDIT, GUARD), (NOTIFY, GUARD), (HELPER, GUARD), (PERSIST, GUARD)):
        run("systemctl", "start", peer)
        found[unit] = _inside(unit, int(shown(peer, "MainPID")))
    run("systemctl", "stop", AUDIT)
    run("systemctl", "reset-failed")  # the service that refused to write core_pattern
    (RESULTS / "attempts").write_text("".join(map(_table, found, found.values())), encoding="utf-8")
    (RESULTS / "attempts.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    useless = {row["id"] for row in found.pop("no sandbox") if row["result"] != "possible"}
    equal(sorted(useless - OF_A_CONTAINER), [])
    for unit, results in found.items():
        passed = {row["id"]: row["effect"] for row in results if row["result"] == "possible"}
        equal((unit, sorted(passed)), (unit, sorted(POSSIBLE[unit])))
        equal((unit, [row["id"] for row in results if row["result"] == "absent"]), (unit, []))
        code = {name for name, effect in passed.items() if effect == CODE}
        equal((unit, code), (unit, {"sysctl_files"} if unit == PERSIST else set()))
        equal(
            (unit, {name for name, effect in passed.items() if effect == WRITE} - {"late_mount_below"}), (unit, set())
        )


def links_in_the_guards_directories_lead_nowhere() -> None:
    """A link that the guard leaves in place of a directory of another unit makes no unit write elsewhere."""
    with contextlib.ExitStack() as stack:
        trap = Path("/mnt/trap")
        trap.mkdir(mode=0o755)
        stack.callback(trap.rmdir)
        (trap / "victim").write_text("as it was", encoding="ascii")
        stack.callback((trap / "victim").unlink)
        before = _listing(trap)
        run("systemctl", "stop", _PATH, NOTIFY, AUDIT)
        stack.callback(run, "systemctl", "start", _PATH)
        for name in (
            "/run/conntrackd-guard/notices",
            "/run/conntrackd-guard/dry-run",
            "/var/lib/conntrackd-guard/dry-run",
        ):
            path, aside = Path(name), Path(f"{name}.aside")
            path.mkdir(exist_ok=True)
            path.rename(aside)
            stack.callback(aside.rename, path)
            path.symlink_to(trap)
            stack.callback(path.unlink)
        for unit in (NOTIFY, AUDIT):
            run("systemctl", "start", "--no-block", unit)
            stack.callback(run, "systemctl", "stop", unit)
            until(lambda unit=unit: shown(unit, "Result") == "exit-code", 5, f"{unit} refuses to start")
        equal(_listing(trap), before)


def namespaces_added_later_are_seen() -> None:
    """A namespace that is named after the guard's start appears to it, as `ip netns add` and Docker mount it."""
    pid = shown(GUARD, "MainPID")
    for folder in ("/run/netns", "/run/docker/netns"):
        path = f"{folder}/attempts"
        # iproute2's lib/namespace.c and ip/ipnetns.c: the folder becomes a mount of its own, shared, at the first `add`.
        run("mount", "--bind", folder, folder)
        run("mount", "--make-rshared", folder)
        Path(path).touch()
        run("unshare", f"--net={path}", "true")
        try:
            mounts = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8")
            number = os.stat(path).st_ino
            equal({line.split()[3] for line in mounts.splitlines() if f" {path} " in line}, {f"net:[{number}]"})
            equal(os.stat(f"/proc/{pid}/root{path}").st_ino, number)
        finally:
            run("umount", path)
            os.unlink(path)
            run("umount", folder)


def _listing(folder: Path) -> list[tuple[str, int, int, int, str]]:
    """Return everything that a unit could have changed in a folder and its files."""
    found = [folder, *sorted(folder.iterdir())]
    return [(path.name, *_owner(path), path.read_text("ascii") if path.is_file() else "") for path in found]


def _owner(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mode, status.st_uid, status.st_gid


def _table(unit: str, results: Results) -> str:
    refused = sum(row["result"] == "refused" for row in results)
    rows = [f"    {row['result']:8}  {row['name']}: {row['detail']}\n" for row in results]
    return f"{unit}: {refused} of {len(results)} refused\n{''.join(rows)}"


def _without_a_sandbox() -> Results:
    """Return the results of a root service without a sandbox."""
    unit = Path("/run/systemd/system/attempts.service")
    unit.write_text("[Service]\n", encoding="ascii")
    run("systemctl", "daemon-reload")
    try:
        return _inside(unit.name, None)
    finally:
        unit.unlink()


def _inside(unit: str, peer: int | None) -> Results:
    """Run the attempts as a unit's program, and return their results. A unit that was active is started again."""
    if active := shown(unit, "ActiveState") == "active":
        run("systemctl", "stop", unit)
    drop_in, output = Path(f"/run/systemd/system/{unit}.d/attempts.conf"), Path(f"/run/attempts-{unit}.json")
    drop_in.parent.mkdir(exist_ok=True)
    try:
        with _targets() as targets, _fifo(_START) as start:
            helper = {"helper": _HELPER} if unit == HELPER else {}
            arguments = json.dumps(targets | helper | {"peer": peer}).replace('"', '\\"')
            drop_in.write_text(
                "[Service]\nType=exec\nRestart=no\nWatchdogSec=0\nOOMPolicy=continue\nExecStart=\n"
                f'ExecStart=/usr/bin/python3 -B {PROGRAM} "{arguments}"\nBindReadOnlyPaths=/test-host\n'
                f"StandardInput=file:{_START}\nStandardOutput=truncate:{output}\n",
                encoding="utf-8",
            )
            run("systemctl", "daemon-reload")
            run("systemctl", "start", unit)
            with _mounts():
                os.write(start, b"x")
                until(lambda: shown(unit, "ActiveState") in {"inactive", "failed"}, 60, f"{unit} has tried everything")
        if not (text := output.read_text(encoding="utf-8")):
            raise AssertionError(run("journalctl", "--quiet", "--unit", unit, "--lines=20"))
        return list(json.loads(text))
    finally:
        drop_in.unlink()
        drop_in.parent.rmdir()
        output.unlink(missing_ok=True)
        run("systemctl", "daemon-reload")
        if active:
            run("systemctl", "start", unit)


@contextlib.contextmanager
def _mounts() -> Iterator[None]:
    """Mount file systems where a service must not write them."""
    with contextlib.ExitStack() as stack:
        for folder in (*LATE, LATE_BELOW):
            Path(folder).mkdir(parents=True)
            stack.callback(os.rmdir, folder)
            run("mount", "-t", "tmpfs", "-o", "mode=755", "none", folder)
            stack.callback(run, "umount", folder)
        yield


@contextlib.contextmanager
def _targets() -> Iterator[dict[str, Any]]:
    """Start the processes and sockets that the attempts aim at; yield the fields of Targets."""
    master, terminal = os.openpty()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, master)
        stack.callback(os.close, terminal)
        pids = {name: stack.enter_context(_process(*command)) for name, command in _PROCESSES.items()}
        for address in _STREAMS:
            stack.enter_context(_listener(address, socket.SOCK_STREAM))
        stack.enter_context(_listener(f"\0{_ABSTRACT_NAME}-datagrams", socket.SOCK_DGRAM))
        stack.enter_context(_fifo(_FIFO))
        rest = {"abstract": _ABSTRACT_NAME, "late": LATE, "late_below": LATE_BELOW, "terminal": os.ttyname(terminal)}
        yield {**pids, **rest}


@contextlib.contextmanager
def _process(*command: str) -> Iterator[int]:
    null = subprocess.DEVNULL  # which another process can open again, unlike the journal's socket
    with subprocess.Popen(command, stdin=null, stdout=null, stderr=null) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def _fifo(path: str) -> Iterator[int]:
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        os.unlink(path)


@contextlib.contextmanager
def _listener(address: str, kind: int) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX, kind) as listener:
        if not address.startswith("\0"):
            Path(address).parent.mkdir(parents=True, exist_ok=True)
        listener.bind(address)
        if kind is socket.SOCK_STREAM:
            listener.listen(64)
        try:
            yield
        finally:
            if not address.startswith("\0"):
                os.unlink(address)
