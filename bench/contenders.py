"""The contenders: the guard with different settings, and the simple programs that people run today."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from testbed.scratch_namespace import ScratchNamespace

from bench.checkout import PYTHON, THIS, Checkout
from bench.ground import Ground, wait_for

STATE = Path("/var/lib/conntrackd-guard")
LIMIT_FILE = "/proc/sys/net/netfilter/nf_conntrack_max"
_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
_FOLLOWER = f"""
from systemd import journal
reader = journal.Reader()
reader.add_match(_TRANSPORT="kernel")
reader.seek_tail()
reader.get_previous()
print("ready", flush=True)
while True:
    reader.wait()
    for entry in reader:
        if "nf_conntrack: table full" in entry["MESSAGE"]:
            limit = int(open("{LIMIT_FILE}").read())
            open("{LIMIT_FILE}", "w").write(str(limit * 3 // 2))
"""
_PIPE = f"""
(sleep 1; echo ready) &
journalctl -kf -n0 -o cat | grep --line-buffered 'nf_conntrack: table full' | while read -r line; do
    echo $(($(cat {LIMIT_FILE}) * 3 / 2)) >{LIMIT_FILE}
done
"""
_LOOP = f"""
echo ready
while sleep 1; do
    count=$(nsenter --net=/proc/$1/ns/net cat {_COUNT}); limit=$(cat {LIMIT_FILE})
    if [ $((count * 10)) -ge $((limit * 8)) ]; then echo $((limit * 3 / 2)) >{LIMIT_FILE}; fi
done
"""
_HIDDEN = 'mount --bind /run/bench/nodev/kmsg /dev/kmsg && exec "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A program that should keep the table from overflowing. `{pid}` and `{folder}` in its command are filled in."""

    name: str
    command: tuple[str, ...] = ()
    settings: dict[str, object] | None = None
    """The guard's settings; None for a yardstick."""
    checkout: Checkout = THIS
    """Which guard."""
    hide_ring_buffer: bool = False
    journald_stopped: bool = False
    """Whether journald is stopped while the packet is dropped."""
    state_stalled: bool = False
    """Whether writes to the guard's state folder stall throughout."""
    run_by: type[Running] | None = None
    """What runs it otherwise than as a process of this checkout."""


def guard(name: str, *, checkout: Checkout = THIS, program: tuple[str, ...] = (), **settings: object) -> Contender:
    """Return the guard of `checkout` with `settings` that differ from its defaults, started by `program` if that is given."""
    return Contender(name=checkout.label(name), command=program, settings=settings, checkout=checkout)


def elsewhere(contender: Contender, checkout: Checkout) -> Contender:
    """Return the same contender with the guard of another checkout."""
    return replace(contender, name=checkout.label(contender.name), checkout=checkout)


C_ON_MESSAGE = Contender(name="C program on /dev/kmsg", command=("{folder}/on_message",))
FOLLOWER = Contender(name="bare python-systemd follower", command=(PYTHON, "-c", _FOLLOWER))
PIPE = Contender(name="shell pipe on journalctl -kf", command=("sh", "-c", _PIPE))
C_POLL = Contender(name="C program, polls every 10 ms", command=("{folder}/poll", "{pid}", "10"))
LOOP = Contender(name="shell loop, polls once a second", command=("sh", "-c", _LOOP, "loop", "{pid}"))


def named(contenders: Iterable[Contender], who: list[str]) -> list[Contender]:
    """Return those with one of `who` in their name; all of them for an empty list."""
    return [contender for contender in contenders if not who or any(part in contender.name for part in who)]


@dataclass(slots=True)
class Running:
    """Run a contender from ready to killed. Raise TimeoutError with its output if it doesn't get ready."""

    ground: Ground
    contender: Contender
    namespace_pid: int
    process: subprocess.Popen[bytes] = field(init=False)
    ready_ms: float = field(init=False)
    """From its start until it was ready."""

    def __enter__(self) -> Self:
        log = self.ground.folder / "output"
        ready = "ready" if self.contender.settings is None else "guard.ready"
        command, began = self._command(), time.monotonic()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.contender.checkout.environment(),
                start_new_session=True,
            )
        try:
            wait_for(
                lambda: self.process.poll() is not None or ready in log.read_text("utf-8", "replace"),
                ready,
                look_seconds=0.002,
            )
            self.ready_ms = (time.monotonic() - began) * 1000
            if self.process.poll() is not None:
                raise TimeoutError("it ended")  # noqa: TRY301
        except TimeoutError as error:
            self.__exit__()
            text = log.read_text("utf-8", "replace")
            raise TimeoutError(f"{self.contender.name}: {error}; its output: {text}") from error
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def cpu_seconds(self) -> float:
        """Return the processor time used so far by the whole group, children it waited for included."""
        return sum(_cpu_seconds(pid) for pid in _group(self._leader()))

    def memory_kib(self) -> tuple[int, int]:
        """Return the first process's (resident, own) memory; what isn't its own is mapped files, the journal's."""
        status = Path(f"/proc/{self._leader()}/status").read_text("ascii")
        return _kib(status, "VmRSS:"), _kib(status, "RssAnon:")

    def peak_kib(self) -> int:
        """Return the peak resident memory of the first process."""
        return _kib(Path(f"/proc/{self._leader()}/status").read_text("ascii"), "VmHWM:")

    def _leader(self) -> int:
        """Return the process that leads the group."""
        return self.process.pid

    def _command(self) -> list[str]:
        if self.contender.settings is None:
            return [
                part.replace("{pid}", str(self.namespace_pid)).replace("{folder}", str(self.ground.folder))
                for part in self.contender.command
            ]
        prefix = _hide_ring_buffer() if self.contender.hide_ring_buffer else []
        return prefix + _fresh_guard(self.contender)


def run(ground: Ground, contender: Contender, namespace: ScratchNamespace | None = None) -> Running:
    """Return `contender` to be run in a `with`; `namespace` is the one that polling yardsticks watch."""
    return (contender.run_by or Running)(ground, contender, namespace.pid if namespace else 1)


def raises_recorded(checkout: Checkout) -> int:
    """Return how many raises the last guard's history holds. Raises CalledProcessError when it can't be read."""
    command = checkout.guard("history", "--json", "--verdict", "raise")
    answer = subprocess.run(command, env=checkout.environment(), stdout=subprocess.PIPE, check=True)
    return len(json.loads(answer.stdout)["decisions"])


def forget_earlier_guards() -> None:
    """Remove what earlier guards left: state and drop-ins."""
    for folder in (STATE, Path("/run/conntrackd-guard")):
        shutil.rmtree(folder, ignore_errors=True)  # a mount point stays, empty
    for left in Path("/etc/sysctl.d").iterdir():
        left.unlink()


def _fresh_guard(contender: Contender) -> list[str]:
    """Write the settings, and return the command."""
    forget_earlier_guards()
    file = Path("/run/bench/guard.yaml")
    file.write_text(contender.checkout.settings(contender.settings or {}), "utf-8")
    arguments = ["run", "--config", str(file), "--log-format", "json"]
    return [*contender.command, *arguments] if contender.command else contender.checkout.guard(*arguments)


def _hide_ring_buffer() -> list[str]:
    """Return a prefix under which opening /dev/kmsg fails: a device node on a mount that allows none."""
    folder = Path("/run/bench/nodev")
    if not folder.exists():
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "nodev", "tmpfs", str(folder)], check=True)
        subprocess.run(["mknod", str(folder / "kmsg"), "c", "1", "11"], check=True)
    return ["unshare", "--mount", "sh", "-c", _HIDDEN, "sh"]


def _group(leader: int) -> list[int]:
    """Return the processes of the group that `leader` leads."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.getpgid(int(pid)) == leader:
                found.append(int(pid))
        except ProcessLookupError:
            continue  # it ended meanwhile
    return found


def _cpu_seconds(pid: int) -> float:
    """Return a process's time on a processor: its threads' to the nanosecond, its ended children's in clock ticks."""
    try:
        own = sum(int(file.read_text("ascii").split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return 0.0  # it ended meanwhile; its parent counts its time
    return own / 1e9 + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _kib(text: str, name: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name))
