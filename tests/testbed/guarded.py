"""A whole guard on a made-up host: a tree of files for /proc, /sys, /run, /etc and /var, and a manual clock."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.errors import GuardError, HostError
from conntrackd_guard.core.kernel_messages import KernelEvent, KernelMessage
from conntrackd_guard.core.model import (
    MessageKind,
    Outcome,
    OutcomeKind,
    Override,
    OverrideKind,
    Record,
    State,
    Trigger,
    TriggerKind,
)
from conntrackd_guard.daemon.applier import Applier
from conntrackd_guard.daemon.controller import Controller
from conntrackd_guard.daemon.debug_log import DebugLog
from conntrackd_guard.daemon.dependencies import Dependencies
from conntrackd_guard.daemon.flood_detector import FloodDetector
from conntrackd_guard.daemon.loop import Loop
from conntrackd_guard.daemon.recovery import Recovered, recover
from conntrackd_guard.history.database import History, Position, Row
from conntrackd_guard.host import files
from conntrackd_guard.host.conntrack import owner_helper
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.load_facts import load_facts
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import JsonFolder, RuntimeDir
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn
from conntrackd_guard.host.systemd_notify import Service
from conntrackd_guard.recording.recorder import Recorder
from conntrackd_guard.recording.samples import Sampling
from conntrackd_guard.recording.worker import Worker
from conntrackd_guard.replay.simulated_host import SimulatedClock, SimulatedLog

LIMIT = 65_536
GIB_KIB = 1 << 20
BARRIER_SECONDS = 10.0


class Killed(BaseException):
    """The process ends here, as by kill -9."""


class Host:
    """Files as the kernel shows them: 24 GiB, one initial namespace and one container of process 200."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._counts: dict[str, int] = {}
        for pid in ("1", "200"):
            self.namespace(pid, 0)
        (root / "proc/self").symlink_to("1")
        self.initial = (root / "proc/1/ns/net").stat().st_ino
        self.container = (root / "proc/200/ns/net").stat().st_ino
        self._write("proc/sys/kernel/random/boot_id", "boot-1\n")
        self._write("proc/meminfo", f"MemTotal: {24 * GIB_KIB} kB\nMemAvailable: {20 * GIB_KIB} kB\nHugetlb: 0 kB\n")
        self.buckets = 262_144
        self._write("sys/kernel/slab/nf_conntrack/slab_size", "256\n")
        self._write("etc/machine-id", "0123\n")
        for folder in ("run", "var/lib"):
            (root / folder).mkdir(parents=True)
        self.limit = LIMIT

    @property
    def limit(self) -> int:
        """The limit in force."""
        return int((self.root / "proc/sys/net/netfilter/nf_conntrack_max").read_text())

    @limit.setter
    def limit(self, limit: int) -> None:
        self._write("proc/sys/net/netfilter/nf_conntrack_max", f"{limit}\n")

    @property
    def buckets(self) -> int:
        """The hash buckets."""
        return int((self.root / "proc/sys/net/netfilter/nf_conntrack_buckets").read_text())

    @buckets.setter
    def buckets(self, buckets: int) -> None:
        self._write("proc/sys/net/netfilter/nf_conntrack_buckets", f"{buckets}\n")

    def namespace(self, pid: str, count: int) -> None:
        """Make one more container, of that process."""
        (self.root / f"proc/{pid}/net/stat").mkdir(parents=True)
        self._write(f"proc/{pid}/ns/net", "")
        self.table(count, pid=pid)

    def end(self, pid: str, *, memory_is_kept: bool) -> None:
        """End a container; its entries' memory is kept for now, or given back."""
        if (running := self.root / f"proc/{pid}").exists():
            running.rename(self.root / f"ended-{pid}")  # no other one gets its inode numbers
        self._counts[pid] *= memory_is_kept
        self._allocate()

    def table(self, count: int, drop: int = 0, pid: str = "1", *, chains: int | None = 0) -> None:
        """Have a namespace's table hold `count` and have dropped `drop`, and `chains` for long chains (None: no limit)."""
        row = {"entries": count, "drop": drop, "early_drop": 0, "insert_failed": chains or 0, "clashres": 0}
        row |= {} if chains is None else {"chainlength": chains}
        figures = " ".join(f"{figure:08x}" for figure in row.values())
        self._write(f"proc/{pid}/net/stat/nf_conntrack", f"{' '.join(row)}\n{figures}\n")
        self._counts[pid] = count
        self._allocate()

    def _allocate(self) -> None:
        used = sum(self._counts.values())
        for name, figure in (("objects", used), ("total_objects", used + LIMIT // 2)):  # the gate stands open
            self._write(f"sys/kernel/slab/nf_conntrack/{name}", f"{figure} N0={figure}\n")

    @property
    def persisted(self) -> int | None:
        """The limit in the drop-in."""
        return SysctlDropIn(Paths(self.root)).limit()

    @property
    def persisted_buckets(self) -> int | None:
        """The hash buckets in the drop-in."""
        persisted = SysctlDropIn(Paths(self.root)).persisted()
        return None if persisted is None else persisted.buckets

    def _write(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


class ManualClock(SimulatedClock):
    """A clock that only the test moves, of a host that booted in 2027."""

    def __init__(self) -> None:
        super().__init__(1.8e9)


class FaultyKernel(LiveKernel):
    """The kernel of the tree; `refusing` is the errno of every write, `after_write` runs once written."""

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths)
        self.refusing: int | None = None
        self.refusing_buckets: int | None = None
        self.writes: list[int] = []
        self.after_write: Callable[[], None] = lambda: None
        self._write_limit, self.set_limit = self.set_limit, self._set_limit
        self._write_buckets, self.set_buckets = self.set_buckets, self._set_buckets

    def _set_limit(self, target: int) -> int:
        """Write, or refuse."""
        self.writes.append(target)
        if self.refusing is not None:
            raise HostError("write", "the limit", OSError(self.refusing, "refused"), "Nothing to do.")
        back = self._write_limit(target)
        self.after_write()
        return back

    def _set_buckets(self, target: int) -> int:
        """Resize, or refuse."""
        if self.refusing_buckets is not None:
            error = OSError(self.refusing_buckets, "Cannot allocate memory")
            raise HostError("write", "the buckets", error, "Nothing to do.")
        return self._write_buckets(target)


class EventfulIntents(JsonFolder):
    """`meanwhile` holds what others do between a decision and its write, one each time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.meanwhile: list[Callable[[], None]] = []

    def put(self, key: str, content: object) -> None:
        """Note the intent; then something else happens."""
        super().put(key, content)
        if self.meanwhile:
            self.meanwhile.pop(0)()


class ToldIntake(SimulatedLog):
    """Kernel messages as the test gives them."""

    def descriptors(self) -> list[int]:
        """Return none: only a signal wakes the loop."""
        return []

    def position(self) -> Position:
        """Return a position that never moves."""
        return Position(boot_id="boot-1", stamp_us=1)

    def report(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class Guarded:
    """A host with a guard started on it; `crash` and another Guarded on the same host is a restart."""

    max_rows = 100_000
    sampling = Sampling()
    log_level = "info"

    def __init__(self, host: Host, policy: Policy | None = None, clock: ManualClock | None = None) -> None:
        self.host, self.policy, self.clock = host, policy or Policy(), clock or ManualClock()
        self.paths = Paths(host.root)
        self.runtime_dir = RuntimeDir(self.paths)
        self.runtime_dir.intents = self.intents_folder = EventfulIntents(self.paths.intents)
        self.runtime_dir.prepare()
        self.kernel = FaultyKernel(self.paths)
        self.log_sources = ToldIntake()
        self.log = io.StringIO()
        worker = Worker(
            paths=self.paths,
            drop_in=SysctlDropIn(self.paths),
            log=Log("json", self.log, level=self.log_level),
            runtime_dir=self.runtime_dir,
            retention_seconds=1e9,
            max_rows=self.max_rows,
        )
        worker.sampling = self.sampling
        self.recorder = Recorder(worker)
        self.recorder.start()
        boot_id = files.read_boot_id(self.paths.boot_id)
        self.recovered: Recovered = recover(
            self.recorder, self.runtime_dir, self.kernel, self.clock, boot_id, self.policy
        )
        self.kept = None
        with suppress(GuardError):  # the service logs it, and begins without
            self.kept = SysctlDropIn(self.paths).persisted()
        self.observer = Observer(self.paths, self.kernel, self.clock, self.runtime_dir)
        self.observer.observe(rescan=True)
        self.floods = FloodDetector(self.paths, self.observer)
        self.parts = parts = Dependencies(
            mode=Mode.ACT,
            kernel=self.kernel,
            observer=self.observer,
            floods=self.floods,
            applier=Applier(self.kernel, self.runtime_dir),
            recorder=self.recorder,
            runtime_dir=self.runtime_dir,
            log_sources=self.log_sources,
            clock=self.clock,
            service=Service(),
            kept=self.kept,
            load=load_facts(self.paths),
            debug=DebugLog(self.recorder) if self.log_level == "debug" else None,
        )
        self.controller = Controller(parts, self.policy, self.recovered.state)
        self.loop = Loop(parts, self.controller, frozenset)

    @property
    def state(self) -> State:
        """What the running guard remembers."""
        return self.controller.state

    def message(
        self, namespace: int | None = None, kind: MessageKind = MessageKind.TABLE_FULL, *, live: bool = True
    ) -> None:
        """Have the kernel print a message."""
        message = KernelMessage(kind=kind, namespace=namespace, text="nf_conntrack: table full, dropping packet")
        event = KernelEvent(message=message, stamp_us=int(self.clock.now * 1e6), boot_id="boot-1", source="ring buffer")
        self.log_sources.lines.append((event, live))

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, have the loop do one turn, and wait for the flood samples that it requested."""
        self.clock.now += seconds
        self.loop.turn()
        deadline = time.monotonic() + BARRIER_SECONDS
        while any(self.floods._results.get(name, (0.0,))[0] != at for name, at in self.floods._requested.items()):
            assert time.monotonic() < deadline, "the flood sampler is stuck"
            time.sleep(0.001)

    def written(self) -> None:
        """Wait until the recorder has done all that was handed over."""
        assert self.recorder.call(lambda _: True).result(BARRIER_SECONDS), "the recorder is stuck"

    def rows(self) -> list[Row]:
        """Return the history, oldest first, once all is written."""
        self.written()
        with History(self.paths.history, mode="reader") as history:
            return list(history.rows())[::-1]

    def history(self) -> History:
        """Open the history to read, once all is written."""
        self.written()
        return History(self.paths.history, mode="reader")

    def reasons(self) -> list[str]:
        """Return verdict, reason and outcome of each row, oldest first."""
        return [f"{row.verdict} {row.reason} {row.outcome}" for row in self.rows()]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log's messages of one event."""
        lines = map(json.loads, self.log.getvalue().splitlines())
        return [line for line in lines if line["event"] == event]

    def intents(self) -> int:
        """Return how many writes are not explained yet."""
        return len(self.runtime_dir.intents.all())

    def stop(self) -> None:
        """End the recorder."""
        assert self.recorder.close(BARRIER_SECONDS)


def an_override(guarded: Guarded, kind: OverrideKind, limit: int | None = None) -> Record:
    """Return an override's record, as the operator's command writes it."""
    seen = guarded.observer.observe()
    return Record(
        key=f"order-{kind}",
        mode=Mode.ACT,
        trigger=Trigger(kind=TriggerKind.OVERRIDE),
        observation=seen,
        state=State(),
        decision=Override(kind=kind, target=limit),
        outcome=Outcome(kind=OutcomeKind.APPLIED if limit else OutcomeKind.NONE, limit_after=limit),
    )


def again(guarded: Guarded) -> Guarded:
    """Start the guard again on the same host, a millisecond later."""
    guarded.clock.now += 0.001
    return Guarded(guarded.host, guarded.policy, guarded.clock)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Give a made-up host; its namespaces are files, which no user namespace owns."""
    monkeypatch.setattr(owner_helper, "_user_owned", lambda _: False)
    monkeypatch.setattr("conntrackd_guard.recording.recorder._FIRST_RETRY_SECONDS", 0.01)
    return Host(tmp_path)


def watch(guarded: Guarded, seconds: float) -> None:
    """Let the loop run, with a turn every quarter of a second."""
    for _ in range(int(4 * seconds)):
        guarded.turn(0.25)
