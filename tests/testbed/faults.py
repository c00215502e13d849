"""Faults for a running guard: killed or delayed at one system call, injected by `strace`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.limit_guard import LimitGuard
from testbed.private_world import Guard, PrivateWorld
from testbed.scratch_namespace import ScratchNamespace
from testbed.stage import LIMIT, Stage, limit

RUN = "run/conntrackd-guard"
STATE = "var/lib/conntrackd-guard"
DROP_IN = "etc/sysctl.d/99-zz-conntrackd-guard.conf"
LIMIT_PATH = "/proc/sys/net/netfilter/nf_conntrack_max"


@contextmanager
def injected(guard: Guard, syscall: str, fault: str, paths: tuple[str, ...], log: Path) -> Iterator[None]:
    """Inject `fault` into that system call of every thread of the guard, on those paths (none: on any path)."""
    chosen = [part for path in paths for part in ("-P", path)]
    command = ["strace", "-f", "-p", str(guard.process.pid), "-o", str(log), *chosen]
    command += ["-e", f"trace={syscall}", "-e", f"inject={syscall}:{fault}"]
    tracer = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    attached = tracer.stderr.readline()
    try:
        assert "attached" in attached, attached
        yield
    finally:
        tracer.terminate()  # detaches from the guard
        try:
            tracer.communicate(timeout=10)
        except subprocess.TimeoutExpired:  # strace 6.1 waits forever for a thread that dies as it detaches
            tracer.kill()
            tracer.communicate()


@contextmanager
def staged(limit_guard: LimitGuard, folder: Path) -> Iterator[Stage]:
    """Set up a stage with a limit guard that outlasts it. Messages have namespace numbers unless a test changes that."""
    with ScratchNamespace() as table, PrivateWorld(folder) as world:
        limit_guard.own(table.number)
        limit_guard.set_limit(LIMIT)
        yield Stage(limit_guard, table, world, numbered=True)
        limit_guard.check()


def reset(stage: Stage) -> None:
    """Remove all traces of earlier guards: state, drop-in, entries and limit. None may be running."""
    for folder in (RUN, STATE):
        shutil.rmtree(stage.world.root / folder, ignore_errors=True)
    (stage.world.root / DROP_IN).unlink(missing_ok=True)
    empty(stage)
    stage.limit_guard.set_limit(LIMIT)


def empty(stage: Stage) -> None:
    """Remove every entry of the stage's table."""
    command = ["nsenter", f"--net=/proc/{stage.table.pid}/ns/net", "conntrack", "-F"]
    subprocess.run(command, check=True, capture_output=True)


def fill_to(stage: Stage, share: float) -> None:
    """Fill the table up to that share of the limit in force."""
    stage.table.fill(max(0, int(limit() * share) - stage.table.count()))


def open_intents(stage: Stage) -> list[Path]:
    """Return the intents whose records are not durable yet."""
    return list((stage.world.root / RUN / "intents").glob("*.json"))


def persisted(stage: Stage) -> int | None:
    """Return the limit in the drop-in, None without one; an incomplete file is an error."""
    path = stage.world.root / DROP_IN
    if not path.exists():
        return None
    text = path.read_text()
    assert text.startswith("# Written by conntrackd-guard"), text
    assert text.endswith("\n"), text
    return int(text.splitlines()[-1].removeprefix("net.netfilter.nf_conntrack_max = "))
