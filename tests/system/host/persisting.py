"""Check that the sandboxed guard persists limits through conntrackd-guard-persist.service, and nothing else.

A container can't write the limit, so scripts take the guard's place in its own unit and sandbox.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ground import GUARD, equal, holds, lines, run, shown, until

DROP_IN = Path("/etc/sysctl.d/99-zz-conntrackd-guard.conf")
RUN = Path("/run/conntrackd-guard")
REQUEST = RUN / "drop-in.request"
PATH, SERVICE = "conntrackd-guard-persist.path", "conntrackd-guard-persist.service"
_KEY = "net.netfilter.nf_conntrack_max = "
_RESULT = RUN / "try.json"
_PERSIST = """
import json, sys, time
from pathlib import Path
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.dropin_lock import DropInLock
from conntrackd_guard.host.dropin_request import DropInRequest, Persisted
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.requested_dropin import RequestedDropIn

def persisted(limit):
    return Persisted(limit=limit, limit_before=1, wall_seconds=int(time.time()), decision="7", memory_total_bytes=1, budget_bytes=1)

def put(limit):
    begin = time.monotonic()
    try:
        drop_in.put(persisted(limit), Clock().boottime())
        error = ""
    except GuardError as found:
        error = str(found)
    return [round(time.monotonic() - begin, 3), drop_in.limit(), error]

drop_in, lock = RequestedDropIn(Paths()), DropInLock(Paths())
"""
_EACH = "answers = [put(limit) for limit in range(300_000, 300_020)]\n"
_BURST = """
for limit in range(400_000, 400_020):
    content = persisted(limit)
    lock.leave_request(DropInRequest(boot_id=lock.boot_id, decided_us=int(Clock().boottime() * 1e6), content=content))
    time.sleep(0.1)
answers = []
"""
_ONE = "answers = [put({limit})]\n"
_OVERRIDE = Path("/run/systemd/system")


@contextlib.contextmanager
def unit_altered(unit: str, text: str) -> Iterator[None]:
    """Add directives to a unit."""
    file = _OVERRIDE / f"{unit}.d/try.conf"
    file.parent.mkdir(parents=True)
    try:
        file.write_text(f"[Service]\n{text}", encoding="ascii")
        run("systemctl", "daemon-reload")
        yield
    finally:
        file.unlink()
        file.parent.rmdir()
        run("systemctl", "daemon-reload")


def in_the_sandbox(script: str) -> list[Any]:
    """Run a script as the guard, in its unit's sandbox, and return its answers."""
    program = Path("/usr/local/lib/try.py")
    program.write_text(f"{_PERSIST}\n{script}\nPath('{_RESULT}').write_text(json.dumps(answers))\n", encoding="ascii")
    as_guard = f"Type=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\nExecStart=/usr/bin/python3 {program}\n"
    with unit_altered(GUARD, as_guard):
        try:
            run("systemctl", "restart", GUARD)
        except AssertionError as error:
            raise AssertionError(run("journalctl", "--unit", GUARD, "--lines=20")) from error
        run("systemctl", "stop", GUARD)
    program.unlink()
    answers = json.loads(_RESULT.read_text(encoding="ascii"))
    _RESULT.unlink()
    return list(answers)


def saved() -> str:
    """Return the limit in the file, "" without one."""
    if not DROP_IN.exists():
        return ""
    text = DROP_IN.read_text(encoding="utf-8")
    equal([line for line in text.splitlines() if not line.startswith(("#", _KEY))], [])
    return text.partition(_KEY)[2].strip()


def complaints() -> list[str]:
    """Return what the service printed."""
    return [line["MESSAGE"] for line in lines(SERVICE) if line["SYSLOG_IDENTIFIER"] == "guard"]


def twenty_raises_are_persisted() -> None:
    """Of 20 raises within seconds each is read back by the sandboxed guard, and the file ends with the last."""
    equal((shown(PATH, "ActiveState"), shown(SERVICE, "ActiveState")), ("active", "inactive"))
    answers = in_the_sandbox(_EACH)
    equal([answer[1:] for answer in answers], [[limit, ""] for limit in range(300_000, 300_020)])
    equal(saved(), "300019")


def no_request_is_missed() -> None:
    """Of 20 requests that don't wait for each other, and come while the service runs, the file ends with the last."""
    in_the_sandbox(_BURST)
    until(lambda: saved() == "400019", 10, "the file has the last of them")
    equal((REQUEST.exists(), shown(PATH, "ActiveState")), (False, "active"))


def a_masked_unit_is_reported() -> None:
    """With a masked service the guard names it and the cure, and its request is served after the cure."""
    run("systemctl", "mask", "--runtime", SERVICE)
    try:
        ((_, _, error),) = in_the_sandbox(_ONE.format(limit=500_000))
        holds(error, f"{SERVICE} did not start within 3 s", f"`systemctl restart {PATH}`", "it is tried again")
        equal(saved(), "400019")
    finally:
        run("systemctl", "unmask", "--runtime", SERVICE)
        run("systemctl", "restart", PATH)
    until(lambda: saved() == "500000", 10, "the request is served")


def a_start_that_fails_is_tried_again() -> None:
    """If the service can't be started, or fails at once, it is started every 5 s until it can, without an operator."""
    broken = ("InaccessiblePaths=+/usr/bin/python3\n", "ExecStart=\nExecStart=/usr/bin/false\n")
    for limit, directive in enumerate(broken, 600_000):
        with unit_altered(SERVICE, directive):
            before = failures()
            ((_, _, error),) = in_the_sandbox(_ONE.format(limit=limit))
            holds(error, f"{SERVICE} did not start")
            time.sleep(8)
            if (found := failures() - before) not in {2, 3, 4}:
                raise AssertionError(f"it failed {found} times")
        until(lambda limit=limit: saved() == str(limit), 15, "the request is served")
        equal(shown(PATH, "ActiveState"), "active")


def failures() -> int:
    """Return how often the service has failed."""
    return len(lines(None, UNIT=SERVICE, UNIT_RESULT="exit-code"))


def a_full_disk_is_reported() -> None:
    """The guard's error has the reason that only the service sees."""
    run("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "tmpfs", "/etc/sysctl.d")
    try:
        ((_, _, error),) = in_the_sandbox(_ONE.format(limit=700_000))
        holds(error, f"Can't write {DROP_IN}: No space left on device.", "it is tried again")
    finally:
        run("umount", "/etc/sysctl.d")
    equal((saved(), complaints()[-1]), ("600001", f"guard: {error}"))


def hostile_requests_write_nothing() -> None:
    """Whatever stands in place of a request is refused with one line each, and no file of sysctl.d changes."""
    before, sysctl_d = saved(), sorted(os.listdir("/etc/sysctl.d"))
    good = {
        # Not from /proc: a container has an id of its own there, and units a new /proc, with the kernel's.
        "boot_id": RUN.joinpath("drop-in.lock").read_text(encoding="ascii").split()[1],
        "decided_us": 10**15,
        "content": {
            "limit": 800_000, "limit_before": 1, "wall_seconds": 1, "decision": "7", "memory_total_bytes": 1,
            "budget_bytes": 1,
        },
    }  # fmt: skip

    def changed(**fields: object) -> str:
        return json.dumps({**good, "content": {**good["content"], **fields}})  # type: ignore[dict-item]

    def written(text: str) -> None:
        REQUEST.with_name("new").write_text(text, encoding="ascii")
        REQUEST.with_name("new").rename(REQUEST)

    texts = {
        changed(**{"kernel.core_pattern": "|/bin/sh"}): "unknown key 'kernel.core_pattern'",
        changed(decision="7`\nkernel.core_pattern = |/bin/sh"): "decision is '7`\\nkernel.core_pattern",
        changed(limit="800000\nkernel.core_pattern = |/bin/sh"): "limit is '800000\\nkernel",
        changed(limit=0): "limit is 0, expected",
        changed(limit=2**31): "limit is 2147483648, expected",
        changed(limit=True): "limit is True, expected",
        changed(limit=8e5): "limit is 800000.0, expected",
        changed(buckets=2**30): "buckets is 1073741824, expected",
        changed(wall_seconds=-1): "wall_seconds is -1, expected",
        "[" * 4000: "",  # the reason depends on the version of Python
        "9" * 10_000_000: "larger than 4 KiB",
        "": "Expecting value",
        json.dumps({**good, "boot_id": "x"}): "of another boot",
    }
    things = {
        lambda: os.mkfifo(REQUEST): "not a regular file",
        lambda: REQUEST.symlink_to("/etc/shadow"): "a symbolic link",
        lambda: REQUEST.symlink_to("/dev/zero"): "a symbolic link",
        REQUEST.mkdir: "not a regular file",
    }
    actions = [(lambda text=text: written(text), line) for text, line in texts.items()] + [*things.items()]
    for number, (act, line) in enumerate(actions, len(complaints()) + 1):
        act()
        until(lambda number=number: len(complaints()) >= number, 10, f"a line about {line}")
        equal((len(complaints()), "\n" in complaints()[-1], REQUEST.exists()), (number, False, False))
        holds(complaints()[-1], f"guard: Can't carry out {REQUEST}: ", line, "Nothing was written.")
        equal((saved(), sorted(os.listdir("/etc/sysctl.d"))), (before, sysctl_d))
    equal(shown(PATH, "ActiveState"), "active")
    RUN.joinpath("drop-in.lock").unlink()
    RUN.joinpath("drop-in.lock").symlink_to("/etc/sysctl.d/10-other.conf")
    written(json.dumps(good))
    until(lambda: "drop-in.lock: Too many levels of symbolic links" in complaints()[-1], 10, "the lock is a link")
    RUN.joinpath("drop-in.lock").unlink()
    equal((saved(), sorted(os.listdir("/etc/sysctl.d"))), (before, sysctl_d))


def the_guard_can_not_reach_into_the_service() -> None:
    """While the service runs, the guard can neither write through its view of the host nor into its memory."""
    tries = """
answers = []
for path, mode in (("root/etc/sysctl.d/planted.conf", "w"), ("cwd/etc/sysctl.d/planted.conf", "w"), ("mem", "r+b"), ("maps", "r")):
    try:
        open(f"/proc/{pid}/{path}", mode).close()
        answers.append(f"opened {path}")
    except OSError:
        pass
"""
    with unit_altered(SERVICE, "ExecStart=\nExecStart=/usr/bin/sleep 60\n"):
        run("systemctl", "start", "--no-block", SERVICE)
        pid = until(lambda: int(shown(SERVICE, "MainPID")), 5, "the service runs")
        equal(in_the_sandbox(tries.replace("{pid}", str(pid))), [])
        equal(int(shown(SERVICE, "MainPID")), pid)
        run("systemctl", "stop", SERVICE)
    equal([path.name for path in Path("/etc/sysctl.d").glob("planted*")], [])


def the_guard_runs_again() -> None:
    """After these checks the guard runs as before."""
    DROP_IN.unlink()
    for name in ("drop-in.lock", "drop-in.answer"):
        RUN.joinpath(name).unlink(missing_ok=True)
    run("systemctl", "start", GUARD)
    equal(shown(GUARD, "ActiveState"), "active")


PERSISTING = (
    twenty_raises_are_persisted,
    no_request_is_missed,
    a_masked_unit_is_reported,
    a_start_that_fails_is_tried_again,
    a_full_disk_is_reported,
    hostile_requests_write_nothing,
    the_guard_can_not_reach_into_the_service,
    the_guard_runs_again,
)
