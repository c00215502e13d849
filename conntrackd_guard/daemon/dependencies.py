"""What the loop and the controller work with."""

from dataclasses import dataclass

from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.model import LoadFacts, PersistedLimit
from conntrackd_guard.daemon.applier import Applier
from conntrackd_guard.daemon.debug_log import DebugLog
from conntrackd_guard.daemon.flood_detector import FloodDetector
from conntrackd_guard.daemon.log_sources import LogSources
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import Kernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.conntrack.owner_client import OwnerClient
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.host.systemd_notify import Service
from conntrackd_guard.recording.recorder import Recorder

WAITING_SECONDS = 2.0
"""The tick while this kernel tracks no connections, and the wait after a host error."""


@dataclass(slots=True, kw_only=True)
class Dependencies:
    """The parts of a running daemon."""

    mode: Mode
    kernel: Kernel
    observer: Observer
    floods: FloodDetector
    applier: Applier
    recorder: Recorder
    runtime_dir: RuntimeDir
    log_sources: LogSources
    clock: Clock
    service: Service
    load: LoadFacts
    """What may set another limit than the persisted one at boot."""
    kept: PersistedLimit | None = None
    """The limit persisted for this boot, as found at start."""
    owners: OwnerClient | None = None
    """Reads the owners of namespaces; None if the guard does."""
    debug: DebugLog | None = None
    """None unless the level of the log is debug: then the write must not wait for it."""
