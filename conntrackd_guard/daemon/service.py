"""Build the daemon from its settings and run it: start-up, signals, reload, shutdown."""

import gc
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from conntrackd_guard import __version__
from conntrackd_guard.core import health, tuning
from conntrackd_guard.core.configuration import Listen, Mode, Policy
from conntrackd_guard.core.errors import GuardError, HostError, describe
from conntrackd_guard.core.health import Level
from conntrackd_guard.core.limits import format_limit
from conntrackd_guard.core.model import PersistedLimit
from conntrackd_guard.core.state import rehearsed_limit
from conntrackd_guard.core.sysctl_precedence import Tool
from conntrackd_guard.core.text import capitalized, printable
from conntrackd_guard.daemon.applier import Applier
from conntrackd_guard.daemon.controller import Controller
from conntrackd_guard.daemon.debug_log import DebugLog
from conntrackd_guard.daemon.dependencies import WAITING_SECONDS, Dependencies
from conntrackd_guard.daemon.flood_detector import FloodDetector
from conntrackd_guard.daemon.log_sources import LogSources
from conntrackd_guard.daemon.loop import Loop
from conntrackd_guard.daemon.outlook import outlook
from conntrackd_guard.daemon.publisher import not_writable, paused
from conntrackd_guard.daemon.recovery import recover
from conntrackd_guard.daemon.status_line import limit_text, sources_text
from conntrackd_guard.host import files
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack import owner_client
from conntrackd_guard.host.conntrack.limit import LiveKernel, RehearsingKernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.container import RING_BUFFER_STEP, Gap, gaps, sees_folders
from conntrackd_guard.host.kernel_log.journal import JournalBacklog, JournalFollower
from conntrackd_guard.host.kernel_log.kmsg import RingBuffer
from conntrackd_guard.host.load_facts import load_facts
from conntrackd_guard.host.log import Log
from conntrackd_guard.host.notify_spool import NotifySpool
from conntrackd_guard.host.outbox import Outbox
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.requested_dropin import RequestedDropIn
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.host.sysctl_dropin import NoDropIn, Overriding
from conntrackd_guard.host.systemd_notify import Service
from conntrackd_guard.recording.metrics_exporter import Outlets
from conntrackd_guard.recording.recorder import Recorder
from conntrackd_guard.recording.samples import Sampling
from conntrackd_guard.recording.worker import Worker
from conntrackd_guard.settings.keys import KEYS, Settings

CLOSE_SECONDS = 5.0
"""Shutdown waits this long for the recorder. The next start reconciles what a stalled disk keeps, from the intents."""
_AFTER_RESTART = frozenset({"mode", "persist", "history_retention_seconds"})
"""Settings that a reload does not change."""
_SWITCH_SECONDS = 0.00005
"""The loop must not wait the interpreter's usual 5 ms for a worker's turn to end: each read of a file is such a wait.

While a sample is worked out beside it, a look at the host took 7.4 ms with 0.5 ms here."""


class Signals:
    """SIGTERM and SIGINT stop, SIGHUP reloads; `descriptor` becomes readable when one came."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.settimeout(0)
        self._write.settimeout(0)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self.descriptor = self._read.fileno()

    def take(self) -> frozenset[str]:
        """Return what the signals since the last call ask for: `stop`, `reload`."""
        try:
            numbers = self._read.recv(64)
        except BlockingIOError:
            return frozenset()
        return frozenset("reload" if number == signal.SIGHUP else "stop" for number in numbers)


class Daemon:
    """A daemon on this host, from lock to shutdown. `read_settings` returns the settings as a reload finds them."""

    def __init__(self, paths: Paths, settings: Settings, read_settings: Callable[[], Settings], log: Log) -> None:
        self._paths, self._settings, self._read_settings = paths, settings, read_settings
        self._signals = Signals()
        self._manager = Service()
        self._runtime_dir = RuntimeDir(paths)
        moved = self._runtime_dir.prepare()
        self._runtime_dir.take_lock()
        self._owners = owner_client.listen(paths.owner_socket, paths.proc, in_container=paths.has_prefix)
        writes_dropin = settings.persist and paths.mode is Mode.ACT
        self._drop_in = RequestedDropIn(paths) if writes_dropin else NoDropIn(paths, reads=settings.persist)
        self._worker = Worker(
            paths=paths,
            drop_in=self._drop_in,
            log=log,
            runtime_dir=self._runtime_dir,
            retention_seconds=settings.history_retention_seconds,
            max_rows=tuning.HISTORY_MAX_ROWS,
            read_owners=None if self._owners is None else self._owners.known,
        )
        self._configure_worker(settings)
        self._recorder = Recorder(self._worker)
        self._recorder.start()
        self._exposed: Listen | None = None
        """The address beyond loopback of which the log has a warning."""
        self._warn_of_listening(settings)
        for text in moved:
            self._recorder.log("guard.error", "error", text)
        self._debug = DebugLog(self._recorder) if log.logs("debug") else None

    def run(self) -> bool:
        """Work until a signal says stop; return whether everything was recorded within CLOSE_SECONDS."""
        if (started := self._begin()) is None:
            return self._recorder.close(CLOSE_SECONDS)
        parts, loop = started
        self._manager.ready()
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_SECONDS)
        loop.run(self._signals.descriptor, self.reload)
        self._manager.stopping()
        try:
            parts.log_sources.close()
            self._recorder.note_position(parts.log_sources.position())
            limit, persisted = parts.kernel.limit_in_force(), self._persisted()
            self._recorder.log("guard.stopped", "info", _farewell(limit, persisted, self._drop_in.overridden_by()))
        except Exception as error:  # noqa: BLE001 - what waits to be recorded is recorded all the same
            self._recorder.log("guard.stopped", "warning", f"Stopped: {describe(error)}")
        return self._recorder.close(CLOSE_SECONDS)

    def reload(self) -> Policy | None:
        """Read the settings again and return the policy; with bad settings log why, keep the old ones, return None."""
        self._manager.reloading()
        try:
            settings = self._read_settings()
        except GuardError as error:
            self._recorder.log("guard.error", "error", f"Settings not reloaded, the old ones stay in effect: {error}")
            self._manager.ready()
            return None
        self._configure_worker(settings)
        self._warn_of_listening(settings)
        changed = {name for name in _AFTER_RESTART if getattr(settings, name) != getattr(self._settings, name)}
        names = ", ".join(f"`{key.name}`" for key in KEYS if key.field in changed)
        text = "Settings reloaded."
        if names:
            text += f" Changed too, but in effect only after `systemctl restart conntrackd-guard`: {names}."
        self._recorder.log("guard.info", "info", text)
        self._manager.ready()
        return settings.policy

    def _warn_of_listening(self, settings: Settings) -> None:
        listen = settings.metrics_http
        if listen is not None and not listen.is_loopback and listen != self._exposed:
            self._exposed = listen
            text = (
                f"`metrics_http` listens on {listen}: whoever reaches that can read limit, use, drops, memory and the names "
                "of network namespaces, without a password. See guard.yaml(5)."
            )
            self._recorder.log("guard.info", "warning", text)

    def _begin(self) -> tuple[Dependencies, Loop] | None:
        """Start, again every WAITING_SECONDS while the host can't be read; None if a signal says stop meanwhile.

        Raises HostError where /proc is not mounted: waiting does not help.
        """
        files.read_boot_id(self._paths.boot_id)
        reported = ""
        while True:
            try:
                return self._start()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with this host may be cured while this waits
                problem = f"Can't start yet: {describe(error)}. Retrying every {WAITING_SECONDS:g} s."
            if problem != reported:
                self._recorder.log("guard.error", "error", problem)
                self._manager.ready()  # else systemd ends a start that takes long
                reported = problem
            self._manager.watchdog()
            if select.select([self._signals.descriptor], [], [], WAITING_SECONDS)[0] and "stop" in self._signals.take():
                return None

    def _start(self) -> tuple[Dependencies, Loop]:
        """Recover the state, open the sources, and build the loop."""
        paths, recorder, clock = self._paths, self._recorder, Clock()
        live = LiveKernel(paths)
        rehearsing = RehearsingKernel(live) if paths.mode is Mode.DRY_RUN else None
        kernel = rehearsing or live
        observer = Observer(
            paths, kernel, clock, self._runtime_dir, None if self._owners is None else self._owners.read
        )
        # The baseline of the drop counters, and warm code; first, as nothing can be recovered from an unreadable host.
        seen = observer.observe(rescan=True)
        recovered = recover(recorder, self._runtime_dir, kernel, clock, observer.boot_id, self._settings.policy)
        rehearsed = rehearsed_limit(recovered.state, live.limit())
        if rehearsing is not None and rehearsed is not None:
            rehearsing.set_limit(rehearsed)
        ring, notes = _open_ring_buffer(paths)
        log_sources = LogSources(ring, recorder, recovered.past, observer.boot_id, notes, journal_root=paths.journal)
        log_sources.debug = self._debug
        parts = Dependencies(
            mode=paths.mode,
            kernel=kernel,
            observer=observer,
            floods=FloodDetector(paths, observer),
            applier=Applier(kernel, self._runtime_dir),
            recorder=recorder,
            runtime_dir=self._runtime_dir,
            log_sources=log_sources,
            clock=clock,
            service=self._manager,
            kept=self._persisted(),
            load=load_facts(paths),
            owners=self._owners,
            debug=self._debug,
        )
        sources = log_sources.report()
        recorder.log(
            "guard.ready",
            "info",
            f"Watching (mode {paths.mode}, {limit_text(live.limit())}): {sources_text(sources)}.",
            version=__version__,
            mode=paths.mode.value,
            sources=sources,
            settings=sorted({origin.split(":")[0] for origin in self._settings.origins.values()}),
        )
        for text in seen.unread:
            recorder.log("guard.info", "warning", f"Not read: {text}.")
        for gap in gaps(paths, persist=paths.mode is Mode.ACT and self._settings.persist):
            recorder.log(*_of_gap(gap))
        for text in (
            outlook(seen, self._settings.policy, paths.root if sees_folders(paths) else None)
            if rehearsing is not None
            else ()
        ):
            recorder.log("guard.info", "info", text)
        controller = Controller(parts, self._settings.policy, recovered.state)
        return parts, Loop(parts, controller, self._signals.take)

    def _persisted(self) -> PersistedLimit | None:
        """Return what the drop-in holds for the next boot; log why if it can't be read."""
        try:
            return self._drop_in.persisted()
        except GuardError as error:
            self._recorder.log("guard.error", "error", str(error))
            return None

    def _configure_worker(self, settings: Settings) -> None:
        """Give the recorder's thread what a reload may change. A dry run notifies nobody and writes no metrics file."""
        acts, file = self._paths.mode is Mode.ACT, settings.metrics_file
        self._worker.notices = NotifySpool(self._paths.notices) if acts and settings.notify is not None else None
        outbox = Outbox(self._paths)
        self._worker.outbox = outbox if acts and outbox.exists else None
        self._worker.outlets = Outlets(
            file=Path(file) if acts and file else None, http=settings.metrics_http, alive=self._manager.alive
        )
        self._worker.sampling = Sampling(
            entries=tuning.SAMPLE_ENTRIES,
            addresses=settings.sample_addresses,
            retention_seconds=settings.sample_retention_seconds,
        )


def check(paths: Paths, settings: Settings, log: Log) -> bool:
    """Log the result of the start-up checks; return whether a guard would work here.

    Takes no lock, writes nothing, and leaves overrides and intents to the daemon.
    """
    runtime_dir, live = RuntimeDir(paths), LiveKernel(paths)
    ring, notes = _open_ring_buffer(paths)
    journal = JournalFollower(paths.journal) if ring is None else JournalBacklog(paths.journal)
    journal.read_once()
    sources = {"ring_buffer": "absent" if ring is None else "following", "journal": journal.state, "notes": list(notes)}
    kernel = live if paths.mode is Mode.ACT else RehearsingKernel(live)
    clock = Clock()
    seen = Observer(paths, kernel, clock, runtime_dir).observe(rescan=True)
    about = f"mode {paths.mode}, {limit_text(seen.kernel_limit)}"
    log.emit("guard.info", "info", f"Checked ({about}): {sources_text(sources)}.")
    document = {
        "sources": sources,
        "not_writable": None if (error := kernel.not_writable()) is None else not_writable(error),
        "unread": list(seen.unread),
        "memory_unknown": seen.memory_unknown,
        "paused": None if seen.pause is None else paused(seen.pause, clock.wall() - clock.boottime()),
    }
    found, lacking = health.of_document(document), gaps(paths, persist=paths.mode is Mode.ACT and settings.persist)
    for gap in lacking:
        log.emit(*_of_gap(gap))
    for reason in found.reasons:
        event, level = ("guard.info", "warning") if reason.level is Level.DEGRADED else ("guard.error", "error")
        log.emit(event, level, capitalized(reason.sentence))
    if holder := runtime_dir.holder():
        log.emit("guard.info", "info", f"A guard in this mode runs already, as process {holder}.")
    return found.level.severity < Level.ACTION_REQUIRED.severity and not any(gap.is_needed for gap in lacking)


def _of_gap(gap: Gap) -> tuple[str, str, str]:
    """Return event, level and message for what a container lacks."""
    event, level = ("guard.error", "error") if gap.is_needed else ("guard.info", "warning")
    return event, level, f"{capitalized(gap.text)}. {gap.next_step}"


def _farewell(limit: int | None, persisted: PersistedLimit | None, overridden: Sequence[Overriding]) -> str:
    """Return the last log message: which limit stays, and whether the next boot starts with it."""
    if limit is None:
        return "Stopped."
    saved = " (saved for the next boot)" if persisted is not None and persisted.limit == limit else ""
    for other in overridden:
        if saved and Tool.SYSTEMD in other.tools:
            saved = f" (saved, but {printable(other.line.path)}:{other.line.line} overrides the {other.what} at the next boot)"
    return f"Stopped. nf_conntrack_max stays at {format_limit(limit)}{saved}."


def _open_ring_buffer(paths: Paths) -> tuple[RingBuffer | None, tuple[str, ...]]:
    """Open the ring buffer (passed as standard input, or by path); None and the reason if it can't be read."""
    try:
        return (RingBuffer.adopt(0) if RingBuffer.is_kmsg(0) else RingBuffer.open(paths.kmsg)), ()
    except HostError as error:
        if paths.has_prefix:
            error = HostError(error.action, error.path, OSError(error.errno, error.cause), RING_BUFFER_STEP)
        return None, (str(error),)
