"""`guard run`: wires the parts together and runs the loop in the foreground."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from conntrackd_guard import __version__
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.errors import GuardError, HostError
from conntrackd_guard.core.model import Mode, Policy
from conntrackd_guard.core.state import rehearsed_limit
from conntrackd_guard.daemon.applier import Applier
from conntrackd_guard.daemon.status_file import limit_text
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.keys import KEYS
from conntrackd_guard.settings.settings import Settings

CLOSE_SECONDS = 5.0
"""How long the end waits for the recorder; what a stalled disk keeps is explained by the intents at the next start."""
_AT_START = frozenset({"mode", "persist", "history_retention_seconds", "history_max_rows"})
"""Settings that a reload does not change."""
_SWITCH_SECONDS = 0.00005
"""The loop must not wait the interpreter's usual 5 ms for a worker's turn to end: each read of a file is such a wait.

While a sample is worked out beside it, a look at the host took 7.4 ms with 0.5 ms here."""


def add_parser(commands: Any) -> None:
    """Add `guard run`."""
    parser = commands.add_parser(
        "run",
        help="watch this host and raise the limit when needed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: sudo guard run --dry-run    decides and records on this host, and changes nothing.",
    )
    parser.add_argument("--dry-run", action="store_true", help="rehearse: decide and record, but change nothing")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings from this file alone")
    parser.add_argument("--check", action="store_true", help="do the start-up checks, say what would run, and end")
    parser.add_argument("--log-format", choices=("auto", "text", "json", "journal"), default="auto")
    parser.set_defaults(run=run)


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


def run(args: argparse.Namespace, paths: Paths) -> Exit:
    """Run the guard until a signal ends it."""
    from conntrackd_guard.settings.files import load_settings  # noqa: PLC0415 - yaml is not needed before

    settings = load_settings(paths.settings_file, paths.settings_folder, only=args.config)
    mode = Mode.DRY_RUN if args.dry_run else settings.mode
    paths = Paths(paths.root, mode)
    if os.geteuid() != 0 and mode is Mode.ACT:
        from conntrackd_guard.core.errors import NotPermitted  # noqa: PLC0415

        raise NotPermitted("Raising the limit takes root. Run `sudo guard run`, or try `sudo guard run --dry-run`.")
    return _check(args, paths) if args.check else _serve(args, paths, settings, Signals())


def _check(args: argparse.Namespace, paths: Paths) -> Exit:
    """Say what would run here. Nothing is locked or written, and orders and intents are left to whom they are for."""
    from conntrackd_guard.daemon.log_sources import AT_START_SECONDS  # noqa: PLC0415
    from conntrackd_guard.host.clock import Clock  # noqa: PLC0415 - as for `_serve`
    from conntrackd_guard.host.conntrack.limit import LiveKernel  # noqa: PLC0415
    from conntrackd_guard.host.conntrack.observer import Observer  # noqa: PLC0415
    from conntrackd_guard.host.kernel_log.journal import JournalFollower  # noqa: PLC0415
    from conntrackd_guard.host.log import Log  # noqa: PLC0415
    from conntrackd_guard.host.runtime_dir import RuntimeDir  # noqa: PLC0415

    runtime_dir, log, journal = RuntimeDir(paths), Log(args.log_format, sys.stderr), JournalFollower()
    ring, notes = _ring_buffer(paths)
    journal.start(None)
    journal.await_end(AT_START_SECONDS)
    sources = {"ring_buffer": "absent" if ring is None else "readable", "journal": journal.state}
    journal.stop()
    seen = Observer(paths, LiveKernel(paths), Clock(), runtime_dir).observe(rescan=True)
    log.emit("guard.info", "info", f"Would watch: {_watched(sources, paths.mode, seen.kernel_limit)}.")
    for text in (*notes, *seen.unread):
        log.emit("guard.info", "warning", f"Not read: {text}")
    if holder := runtime_dir.holder():
        log.emit("guard.info", "info", f"A guard in this mode runs already, as process {holder}.")
    return Exit.DONE


def _serve(args: argparse.Namespace, paths: Paths, settings: Settings, signals: Signals) -> Exit:
    """Take the lock, recover, and loop."""
    from conntrackd_guard.daemon.controller import Controller, Dependencies  # noqa: PLC0415
    from conntrackd_guard.daemon.flood_detector import FloodDetector  # noqa: PLC0415
    from conntrackd_guard.daemon.loop import Loop  # noqa: PLC0415 - views and the journal come with it
    from conntrackd_guard.daemon.recovery import recover  # noqa: PLC0415
    from conntrackd_guard.host.clock import Clock  # noqa: PLC0415
    from conntrackd_guard.host.conntrack.limit import LiveKernel, RehearsingKernel  # noqa: PLC0415
    from conntrackd_guard.host.conntrack.observer import Observer  # noqa: PLC0415
    from conntrackd_guard.host.log import Log  # noqa: PLC0415
    from conntrackd_guard.host.runtime_dir import RuntimeDir  # noqa: PLC0415
    from conntrackd_guard.host.sysctl_dropin import DropIn, NoDropIn, SysctlDropIn  # noqa: PLC0415
    from conntrackd_guard.host.systemd_notify import Service  # noqa: PLC0415
    from conntrackd_guard.recording.recorder import Recorder  # noqa: PLC0415
    from conntrackd_guard.recording.worker import Worker  # noqa: PLC0415

    runtime_dir, clock, service = RuntimeDir(paths), Clock(), Service()
    runtime_dir.prepare()
    runtime_dir.take_lock()
    live = LiveKernel(paths)
    rehearsing = paths.mode is Mode.DRY_RUN
    kernel = RehearsingKernel(live) if rehearsing else live
    observer = Observer(paths, kernel, clock, runtime_dir)
    drop_in: DropIn = SysctlDropIn(paths)
    if not settings.persist or rehearsing:
        drop_in = NoDropIn(drop_in if settings.persist else None)
    keeper = Worker(
        paths=paths,
        drop_in=drop_in,
        log=Log(args.log_format, sys.stderr),
        runtime_dir=runtime_dir,
        retention_seconds=settings.history_retention_seconds,
        max_rows=settings.history_max_rows,
    )
    _equip(keeper, paths, settings)
    recorder = Recorder(keeper)
    recorder.start()
    recovered = recover(recorder, runtime_dir, kernel, clock, observer.boot_id, settings.policy)
    rehearsed = rehearsed_limit(recovered.state, live.limit())
    if rehearsing and rehearsed is not None:
        kernel.set_limit(rehearsed)
    log_sources = _intake(paths, recovered.past, observer.boot_id)
    observer.observe(rescan=True)  # the baseline of the drop counters, and warm code
    parts = Dependencies(
        mode=paths.mode,
        kernel=kernel,
        observer=observer,
        floods=FloodDetector(paths, observer),
        applier=Applier(kernel, runtime_dir),
        recorder=recorder,
        runtime_dir=runtime_dir,
        log_sources=log_sources,
        clock=clock,
        service=service,
        kept=_kept(drop_in, recorder),
    )
    loop = Loop(parts, Controller(parts, settings.policy, recovered.state), signals.take)
    sources = log_sources.report()
    recorder.say(
        "guard.ready",
        "info",
        f"Watching: {_watched(sources, paths.mode, live.limit())}.",
        version=__version__,
        mode=paths.mode.value,
        sources=sources,
        settings=sorted({origin.split(":")[0] for origin in settings.origins.values()}),
    )
    service.ready()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(_SWITCH_SECONDS)
    loop.run(signals.descriptor, lambda: _reload(args, paths, settings, service, recorder, keeper))
    service.stopping()
    log_sources.close()
    recorder.note_position(log_sources.position())
    recorder.say("guard.stopped", "info", "The guard ends; the limit stays as it is.")
    if not recorder.close(CLOSE_SECONDS):
        sys.stderr.write("guard: the recorder did not finish; open intents are explained at the next start.\n")
        return Exit.FAILED
    return Exit.DONE


def _watched(sources: dict[str, Any], mode: Mode, limit: int | None) -> str:
    """Return in words what a guard watches here."""
    heard = f"ring buffer {sources['ring_buffer']}, journal {sources['journal']}"
    return f"{heard}; mode {mode}; {limit_text(limit)}"


def _intake(paths: Paths, past: Any, boot_id: str) -> Any:
    """Open what can be opened: the ring buffer and the journal."""
    from conntrackd_guard.daemon.log_sources import LogSources  # noqa: PLC0415
    from conntrackd_guard.host.kernel_log.journal import JournalFollower  # noqa: PLC0415

    ring, notes = _ring_buffer(paths)
    return LogSources(ring, JournalFollower(), past, boot_id, notes)


def _ring_buffer(paths: Paths) -> tuple[Any, tuple[str, ...]]:
    """Open the ring buffer (handed in on standard input, or by path); without it return why."""
    from conntrackd_guard.host.kernel_log.kmsg import RingBuffer  # noqa: PLC0415

    try:
        return (RingBuffer.adopt(0) if RingBuffer.is_one(0) else RingBuffer.open(paths.kmsg)), ()
    except HostError as error:
        return None, (str(error),)


def _kept(drop_in: Any, recorder: Any) -> Any:
    """Return what the drop-in kept for this boot; a file that can't be read is said."""
    try:
        return drop_in.kept()
    except GuardError as error:
        recorder.say("guard.error", "error", str(error))
        return None


def _equip(keeper: Any, paths: Paths, settings: Settings) -> None:
    """Give the recorder's thread what a reload may change."""
    keeper.notices, keeper.outlets = _notices(paths, settings), _outlets(paths, settings)
    keeper.sampling = _sampling(settings)


def _notices(paths: Paths, settings: Settings) -> Any:
    """Return where decisions for the `notify` command are left; None without one, and in a dry run: it tells nobody."""
    from conntrackd_guard.host.notify_spool import NotifySpool  # noqa: PLC0415

    return None if settings.notify is None or paths.mode is Mode.DRY_RUN else NotifySpool(paths)


def _outlets(paths: Paths, settings: Settings) -> Any:
    """Return where metrics go; nowhere in a dry run: one that runs beside a guard that acts would take its place."""
    from conntrackd_guard.recording.metrics_exporter import Outlets  # noqa: PLC0415

    if paths.mode is Mode.DRY_RUN:
        return Outlets()
    return Outlets(file=Path(settings.metrics_file) if settings.metrics_file else None, port=settings.metrics_port)


def _sampling(settings: Settings) -> Any:
    """Return how samples are taken for decisions."""
    from conntrackd_guard.recording.samples import Sampling  # noqa: PLC0415

    return Sampling(
        entries=settings.sample_entries,
        addresses=settings.sample_addresses,
        retention_seconds=settings.sample_retention_seconds,
    )


def _reload(  # noqa: PLR0913, PLR0917 - wiring
    args: argparse.Namespace, paths: Paths, started: Settings, service: Any, recorder: Any, keeper: Any
) -> Policy | None:
    """Read the settings again; a bad file keeps the old ones and says so, and so does what waits for a restart."""
    from conntrackd_guard.settings.files import load_settings  # noqa: PLC0415

    service.reloading()
    try:
        settings = load_settings(paths.settings_file, paths.settings_folder, only=args.config)
    except GuardError as error:
        recorder.say("guard.error", "error", f"The settings were not reloaded, the old ones stay: {error}")
        service.ready()
        return None
    _equip(keeper, paths, settings)
    fields = _AT_START - {"mode"} if args.dry_run else _AT_START
    waits = [k.name for k in KEYS if k.field in fields and getattr(settings, k.field) != getattr(started, k.field)]
    note = f" In effect from the next start on only: {', '.join(f'`{name}`' for name in waits)}." if waits else ""
    recorder.say("guard.info", "info", f"The settings were reloaded.{note}")
    service.ready()
    return settings.policy
