"""Facts about the host that several checks of `guard doctor` need, read once without changing anything."""

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from conntrackd_guard.core import health
from conntrackd_guard.core.configuration import Mode, Policy
from conntrackd_guard.core.errors import HostError, SettingsError
from conntrackd_guard.core.model import Observation, State
from conntrackd_guard.core.state import fold
from conntrackd_guard.doctor.place import find_place
from conntrackd_guard.history.database import History, Row
from conntrackd_guard.host import disk, files
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.observer import LOOK_SECONDS, Observer
from conntrackd_guard.host.conntrack.stat import read_statistics
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn
from conntrackd_guard.settings.files import load_settings
from conntrackd_guard.settings.keys import Settings

CHECK_SECONDS = 5.0
"""Time to check the history's pages: enough for some 2 GiB from memory, less from a slow disk."""
DENIED = (errno.EACCES, errno.EPERM)


class HostFacts:
    """Facts of one moment. Unreadable ones are None; the checks report why."""

    def __init__(self, paths: Paths) -> None:
        clock = Clock()
        self.now, self.wall_seconds = clock.boottime(), clock.wall()
        self.root = os.geteuid() == 0
        self.settings: Settings | None = None
        self.settings_problems: list[str] = []
        try:
            self.settings = load_settings(paths.settings_file, paths.settings_folder, in_container=paths.has_prefix)
        except SettingsError as error:
            self.settings_problems = str(error).splitlines()
        self.paths = paths.for_mode(self.settings.mode if self.settings else Mode.ACT)
        self.policy = self.settings.policy if self.settings else Policy()
        self.persist = self.paths.mode is Mode.ACT and (self.settings is None or self.settings.persist)
        self.runtime_dir = RuntimeDir(self.paths)
        self.running = self.runtime_dir.is_running()
        self.live = self.runtime_dir.status() if self.running else None
        pid = (self.live or {}).get("pid")
        self.pid = pid if isinstance(pid, int) else None
        """The running guard's."""
        self.health = health.of_host(self.live, running=self.running, now_seconds=self.now, mode=self.paths.mode)
        self.boot_id = files.read_id(paths.boot_id)
        self.kernel_release = files.read_id(paths.kernel_release) or ""
        self.place = find_place(paths)
        self.limit: int | None = None
        self.buckets: int | None = None
        counters = read_statistics((f"{self.paths.proc}/self/",), None)
        self.chain_limit = None if counters is None else counters.chain_too_long is not None
        """Whether this kernel drops packets for long hash chains; None if unknown."""
        with suppress(HostError):
            kernel = LiveKernel(self.paths)
            self.limit, self.buckets = kernel.limit(), kernel.buckets()
        self.state: State | None = None
        """State after this boot's history; None if it can't be read."""
        self.newest: Row | None = None
        self.history_error: HostError | None = None
        self.history_checked = False
        """Whether every page is intact."""
        self._read_history()

    @cached_property
    def observation(self) -> Observation:
        """Tables and memory now, as root or as far as this user may; takes LOOK_SECONDS. Raises HostError or OSError."""
        observer = Observer(self.paths, LiveKernel(self.paths), Clock(), self.runtime_dir)
        observer.observe(rescan=True)
        time.sleep(LOOK_SECONDS)  # drops are a difference
        return observer.observe()

    @property
    def saved(self) -> int | None:
        """The limit in the drop-in. Raises HostError."""
        return SysctlDropIn(self.paths).limit()

    @property
    def saved_buckets(self) -> int | None:
        """The hash buckets in the drop-in. Raises HostError."""
        persisted = SysctlDropIn(self.paths).persisted()
        return None if persisted is None else persisted.buckets

    def seen_by_guard(self, path: Path) -> Path:
        """Return `path` inside the running guard's sandbox, if this user can access that."""
        if not self.root or self.pid is None:
            return path
        below = str((self.live or {}).get("root", "/")).lstrip("/")  # where that guard has the host's files
        inside = self.paths.proc / str(self.pid) / "root" / below / path.relative_to(self.paths.root)
        return inside if os.path.exists(inside) else path

    def _read_history(self) -> None:
        def read() -> None:
            with History(self.paths.history, mode="reader", traceless=True) as history:
                self.newest = next(history.rows(last=1), None)
                self.state, _ = fold(history.records(self.boot_id or ""), Clock().boottime())
                self.history_checked = history.check(CHECK_SECONDS)

        try:
            disk.answer(read, "read", self.paths.history, disk.AT_ITS_END, more_seconds=CHECK_SECONDS)
        except HostError as error:
            self.history_error = error
            if error.errno == errno.ENOENT:
                self.state = State()


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSpace:
    """Free space of a file system."""

    free_bytes: int
    inodes_left: bool
    writable: bool


def open_error(path: Path, flags: int) -> OSError | None:
    """Open and close a file; return the error if that fails. `flags` must not create or truncate."""
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error
    return None


def free_space(path: Path) -> FreeSpace:
    """Return what is left of the file system of `path`, or of its nearest existing parent. Raises OSError."""
    while not os.path.exists(path):
        path = path.parent
    found = os.statvfs(path)
    return FreeSpace(
        free_bytes=found.f_bavail * found.f_frsize,
        inodes_left=found.f_files == 0 or found.f_favail > 0,  # 0: a file system without a fixed number
        writable=not found.f_flag & os.ST_RDONLY,
    )
