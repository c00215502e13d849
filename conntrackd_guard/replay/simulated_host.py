"""A host that exists in memory: clock, kernel, one table, memory and log, in the place of the real ones.

Each class replaces one part of `daemon.dependencies`; loop, controller, applier and policy are the daemon's own.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from conntrackd_guard.core.assessment import Growth
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.kernel_messages import KernelEvent, KernelMessage
from conntrackd_guard.core.model import (
    LoadFacts,
    MessageKind,
    Observation,
    Pause,
    PersistedLimit,
    Record,
    State,
    Table,
)
from conntrackd_guard.core.verification import Verification
from conntrackd_guard.daemon.applier import Applier
from conntrackd_guard.daemon.controller import Controller
from conntrackd_guard.daemon.dependencies import Dependencies
from conntrackd_guard.daemon.flood_detector import FloodDetector
from conntrackd_guard.daemon.log_sources import LogSources
from conntrackd_guard.daemon.loop import Loop
from conntrackd_guard.daemon.publisher import Publisher
from conntrackd_guard.history.database import Position
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.namespaces import NetNamespace
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.runtime_dir import JsonFolder, RuntimeDir
from conntrackd_guard.host.systemd_notify import Service
from conntrackd_guard.recording.recorder import Recorder
from conntrackd_guard.recording.series_collector import SeriesCollector
from conntrackd_guard.replay.model import HostFacts

NAMESPACE = 0xF0000000
"""PROC_NET_INIT_INO's neighbourhood: no namespace made later has a number below."""
BOOTTIME = 1000.0
"""Of the first evidence: nothing is special about the first seconds."""

Took = Callable[[Record, int], None]
"""Called with each record, and the messages that it answers."""


class SimulatedClock(Clock):
    """A clock that only the simulation moves. `boot_wall_seconds` is the wall time of the boot."""

    def __init__(self, boot_wall_seconds: float) -> None:
        self.boot_wall_seconds = boot_wall_seconds
        self.now = BOOTTIME
        """CLOCK_BOOTTIME."""
        self.boottime = lambda: self.now
        self.wall = lambda: boot_wall_seconds + self.now


class SimulatedKernel:
    """Limit and buckets in memory: every write succeeds."""

    rehearsing = False

    def __init__(self, limit: int, buckets: int | None) -> None:
        self.unread: dict[str, str] = {}
        self.value = limit
        self._buckets = buckets

    def limit(self) -> int:
        """Return the limit."""
        return self.value

    limit_in_force = limit

    def set_limit(self, target: int) -> int:
        """Set the limit."""
        self.value = target
        return target

    def not_writable(self) -> None:
        """Return None: it can be written."""

    def buckets(self) -> int | None:
        """Return the buckets, None if the evidence has none."""
        return self._buckets

    def set_buckets(self, target: int) -> int:
        """Resize the hash."""
        self._buckets = target
        return target

    def module(self) -> int:
        """Return the number of the one loading of the module."""
        return 1


class SimulatedObserver(Observer):
    """Shows one table, of the initial namespace, and memory, as the simulation sets them."""

    def __init__(self, facts: HostFacts, kernel: SimulatedKernel, clock: Clock) -> None:
        self.facts, self._sysctl, self._clock = facts, kernel, clock
        self.boot_id = "simulated"
        self.count = self.drop = 0
        self.has_drops = False
        self.available_bytes: int | None = facts.available_bytes
        self.present = frozenset({NAMESPACE})
        self.unread = ()
        self.buckets = facts.buckets
        self.chain_limit = facts.chain_limit
        self._growth = Growth()

    def watch(self, limit: int | None, *, attentive: bool) -> tuple[tuple[Table, ...], bool]:  # noqa: ARG002 - one read costs nothing
        """Look at the table."""
        return (self._table(),), False

    def observe(
        self,
        *,
        namespaces: Collection[int] = (),  # noqa: ARG002
        rescan: bool = False,  # noqa: ARG002
        existed_at: float = 0.0,  # noqa: ARG002
    ) -> Observation:
        """Return what the evidence shows of this moment."""
        return self._observation((self._table(),))

    def outline(self) -> Observation:
        """Return the same: nothing is cheaper."""
        return self.observe()

    def netns(self, namespace: int) -> NetNamespace | None:  # noqa: ARG002
        """Return None: no namespace can be entered."""
        return None

    def entries(self) -> int:
        """Return the entries of the table."""
        return self.count

    def rebase(self) -> list[Table]:
        """Count drops again after a raise."""
        table = self._table()
        self._growth.restart()
        return [table]

    def rescan(self) -> None:
        """Do nothing: there is one namespace."""

    def _table(self) -> Table:
        growth, drop = self._growth, self.drop if self.has_drops else None
        growth.look(self._clock.boottime(), self.count, drop, None, self._sysctl.value)
        return Table(
            namespace=NAMESPACE,
            label="initial",
            initial=True,
            count=self.count,
            drop=drop,
            dropped=None if drop is None else growth.dropped,
            demand_per_second=growth.demand_per_second,
            demand_seconds=growth.demand_seconds,
            burst_per_second=growth.burst_per_second,
            burst_seconds=growth.burst_seconds,
            source="replay",
        )

    def _observation(self, tables: tuple[Table, ...]) -> Observation:
        facts, available = self.facts, self.available_bytes
        lacking = "memory available" if available is None else "memory in total" if facts.total_bytes is None else ""
        return Observation(
            boottime_seconds=self._clock.boottime(),
            wall_seconds=self._clock.wall(),
            boot_id=self.boot_id,
            limit=self._sysctl.value,
            kernel_limit=self._sysctl.value,
            tables=tables,
            buckets=self._sysctl.buckets(),
            chain_limit=facts.chain_limit,
            entry_slab_bytes=facts.entry_slab_bytes,
            memory_total_bytes=facts.total_bytes or 0,
            memory_hugetlb_bytes=facts.hugetlb_bytes,
            memory_available_bytes=available or 0,
            memory_unknown=f"the evidence has no {lacking}" if lacking else "",
        )


class _NoFolder(JsonFolder):
    def __init__(self) -> None:
        pass

    def put(self, key: str, content: object) -> None:
        pass

    def all(self) -> list[tuple[str, dict[str, Any] | None]]:
        return []

    def drop(self, key: str) -> None:
        pass


class _RuntimeDir(RuntimeDir):
    def __init__(self) -> None:
        self.intents = self.overrides = _NoFolder()

    def pause(self, now: float) -> Pause | None:  # noqa: ARG002
        return None


class _SeriesCollector(SeriesCollector):
    def is_due(self, wall_seconds: float) -> bool:  # noqa: ARG002
        return False

    def note(self, *_: object) -> None:
        pass


class _Recorder(Recorder):
    def __init__(self, took: Took) -> None:
        self._took = took
        self.series_collector = _SeriesCollector()
        self.restarts = deque()

    def submit(
        self,
        record: Record,
        policy: Policy,  # noqa: ARG002
        position: Position | None = None,  # noqa: ARG002
        *,
        times: int = 1,
        is_stored: bool = False,  # noqa: ARG002
    ) -> None:
        self._took(record, times)

    def log(self, event: str, level: str, message: str, **_: Any) -> None:  # noqa: ARG002
        if event == "guard.error":  # the loop would go on; a replay that goes wrong is no answer
            raise GuardError(f"The simulation failed: {message}")

    def note_position(self, position: Position | None) -> None:
        pass

    def record_verification(self, found: Verification) -> None:
        pass


class SimulatedLog(LogSources):
    """Kernel messages as the simulation gives them."""

    def __init__(self) -> None:
        self.lines: list[tuple[KernelEvent, bool]] = []
        """Messages that nobody took yet, and whether each is new."""
        self.past_wall_seconds = {}

    def give(self, kind: MessageKind, namespace: int | None, wall_seconds: float) -> None:
        """Have the kernel log a message."""
        message = KernelMessage(kind=kind, namespace=namespace, text="")
        event = KernelEvent(message=message, stamp_us=int(wall_seconds * 1e6), boot_id="simulated", source="journal")
        self.lines.append((event, True))

    def is_behind(self) -> bool:
        """Return no: what is given is taken at the next turn."""
        return False

    def take(self) -> list[tuple[KernelEvent, bool]]:
        """Return the messages since the last call."""
        taken, self.lines = self.lines, []
        return taken

    def position(self) -> Position | None:
        """Return None: nothing is saved."""
        return None


class _Floods(FloodDetector):
    """Without entries to sample."""

    def __init__(self) -> None:
        pass

    def look(self, *_: object) -> None:
        pass

    def request(self, *_: object) -> None:
        pass

    def mark(self, observation: Observation) -> Observation:
        return observation


class _Publisher(Publisher):
    def __init__(self) -> None:
        pass

    def publish(self, *_: object, **__: object) -> None:
        pass


class SimulatedHost:
    """One boot of a host with a guard on it: set its figures, then have the loop do a turn."""

    def __init__(  # noqa: PLR0913 - what a boot begins with
        self,
        facts: HostFacts,
        policy: Policy,
        took: Took,
        *,
        wall_seconds: float,
        limit: int,
        kept: PersistedLimit | None = None,
    ) -> None:
        self.clock = SimulatedClock(wall_seconds - BOOTTIME)
        self.kernel = SimulatedKernel(limit, facts.buckets)
        self.table = SimulatedObserver(facts, self.kernel, self.clock)
        self.log = SimulatedLog()
        runtime_dir = _RuntimeDir()
        parts = Dependencies(
            mode=Mode.ACT,
            kernel=self.kernel,
            observer=self.table,
            floods=_Floods(),
            applier=Applier(self.kernel, runtime_dir),
            recorder=_Recorder(took),
            runtime_dir=runtime_dir,
            log_sources=self.log,
            clock=self.clock,
            service=Service(),
            load=LoadFacts(kernel_release=facts.kernel or ""),
            kept=kept,
        )
        self.loop = Loop(parts, Controller(parts, policy, State(), _Publisher()), frozenset)
