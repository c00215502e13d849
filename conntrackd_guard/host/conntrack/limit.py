"""The kernel's limit and buckets: read, written, and in a dry run rehearsed."""

import errno
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from conntrackd_guard.core.errors import HostError
from conntrackd_guard.core.limits import unsigned
from conntrackd_guard.host import files
from conntrackd_guard.host.container import LIMIT_FOLDER, mount_step
from conntrackd_guard.host.paths import Paths

_NUMBER = re.compile(rb"\s*(-?[0-9]{1,18})\s")
_LIMITS = range(-(1 << 31), 1 << 32)
"""A C int, which older kernels don't bound (`core.limits`), as they show it or as they read it."""
_BUCKETS = range(1, 1 << 31)
_NEXT_STEPS = {
    errno.EROFS: "/proc/sys is read-only here: run the guard on the host, or make this path writable for its unit.",
    errno.EACCES: "Only root in the initial network namespace may write it: run the guard as root on the host itself.",
    errno.EPERM: "Only root in the initial network namespace may write it: run the guard as root on the host itself.",
    errno.EINVAL: "This kernel does not accept that number: set `max_limit` to the largest it accepts.",
    errno.ENOENT: "The connection-tracking module is not loaded. Nothing to do until it is.",
}


_IN_POD = dict.fromkeys(
    (errno.EACCES, errno.EPERM),
    "Only root in the host's network and user namespaces may write it: the pod needs hostNetwork: true, "
    "securityContext.runAsUser: 0, and no hostUsers: false.",
)


class Kernel(Protocol):
    """The port through which the limit is read and written. Methods raise HostError."""

    rehearsing: bool
    unread: dict[str, str]
    """By path, what stands for a number that can't be read now."""

    def limit(self) -> int | None:
        """Return the limit that decisions are made with, None if the kernel tracks no connections."""

    def limit_in_force(self) -> int | None:
        """Return the limit that the kernel applies."""

    def set_limit(self, target: int) -> int:
        """Write the limit and return what is read back."""

    def not_writable(self) -> HostError | None:
        """Return why the limit can't be written, None if it can or if there is none yet."""

    def buckets(self) -> int | None:
        """Return the number of hash buckets."""

    def set_buckets(self, target: int) -> int:
        """Resize the hash (stalls the datapath about 0.5 µs an entry) and return what is read back."""

    def module(self) -> int | None:
        """Return a number that changes when connection tracking is unloaded and loaded; None if unknown."""


class Sysctl:
    """One number under /proc/sys, which `twin` has too. Methods raise HostError with the errno.

    `unread` maps its path to what stands for the number while that can't be read. Without `required` that may be the
    last good reading, or None.
    """

    def __init__(  # noqa: PLR0913 - two sysctls in all
        self, path: Path, twin: Path, valid: range, unread: dict[str, str], steps: dict[int, str], *, required: bool
    ) -> None:
        self._path, self._twin, self._valid, self._unread = str(path), twin, valid, unread
        self._steps, self._required = steps, required
        self._last: int | None = None

    def read(self) -> int | None:
        """Return the number as the kernel reads it (-1 is 4,294,967,295); None if the sysctl doesn't exist."""
        cause = None
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)  # two thirds of the time of `open`
            try:
                match = _NUMBER.match(os.read(descriptor, files.NUMBER_BYTES))
            finally:
                os.close(descriptor)
            if match is not None and (number := int(match[1])) in self._valid:
                if self._unread:
                    self._unread.pop(self._path, None)
                self._last = number if number >= 0 else unsigned(number)
                return self._last
        except FileNotFoundError:
            return None
        except OSError as error:
            cause = error
        return self._substitute(cause)

    def _substitute(self, cause: OSError | None) -> int | None:
        """Return the number from elsewhere, and name where that is."""
        problem = f"{self._path} ({'no valid number' if cause is None else cause.strerror})"
        with suppress(OSError, ValueError):
            number = files.read_number(self._twin, signed=True)
            if number in self._valid:
                self._unread[self._path] = f"{problem}: using {self._twin}"
                return unsigned(number)
        if self._required:
            step = "Expected one decimal number." if cause is None else "Check that /proc is mounted and readable here."
            raise HostError("read", self._path, cause, step) from cause
        last = "counted as unknown" if self._last is None else f"using the last good reading, {self._last:,}"
        self._unread[self._path] = f"{problem}: {last}"
        return self._last

    def not_writable(self) -> HostError | None:
        """Return why the number can't be written, None if it can or doesn't exist. Writes nothing."""
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return None
        except OSError as error:
            return HostError("write", self._path, error, self._steps.get(error.errno or 0, "The check is repeated."))
        return None

    def write(self, target: int) -> int:
        """Write `target` in one call and return what is read back; `target` if that can't be read: the kernel took it."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"%d\n" % target)
            finally:
                os.close(descriptor)
        except OSError as error:
            step = self._steps.get(error.errno or 0, "The write is retried later.")
            raise HostError(f"write {target} to", self._path, error, step) from error
        try:
            back = self.read()
        except HostError as error:
            self._unread[self._path] = f"{self._path} ({error.cause}): counted as written, {target:,}"
            return target
        if back is None:
            raise HostError("read back", self._path, None, _NEXT_STEPS[errno.ENOENT])
        return back


def refusal_text(number: int) -> str:
    """Return why the kernel refused a write, by errno; 0 is a write after which another limit was read."""
    return os.strerror(number) if number else "the write had no effect"


class LiveKernel:
    """The running kernel, through /proc/sys. The methods are those of the two sysctls: no call lies between."""

    rehearsing = False

    def __init__(self, paths: Paths) -> None:
        self.unread: dict[str, str] = {}
        steps = _NEXT_STEPS | ({errno.EROFS: mount_step(paths, LIMIT_FOLDER, "")} | _IN_POD if paths.has_prefix else {})
        alias = paths.root / "proc/sys/net/nf_conntrack_max"
        limit = Sysctl(paths.limit, alias, _LIMITS, self.unread, steps, required=True)
        buckets = Sysctl(paths.buckets, paths.hashsize, _BUCKETS, self.unread, steps, required=False)
        self.limit = self.limit_in_force = limit.read
        self.set_limit = limit.write
        self.not_writable = limit.not_writable
        self.buckets = buckets.read
        self.set_buckets = buckets.write
        self._module = paths.sys / "module/nf_conntrack"

    def module(self) -> int | None:
        """Return the inode of the module's folder in sysfs, which is not reused: kernfs numbers count up."""
        try:
            return os.stat(self._module).st_ino
        except OSError:
            return None


class RehearsingKernel:
    """The running kernel to read from; writes stay in memory.

    A change of the limit in force ends the rehearsed one: the host has moved on.
    """

    rehearsing = True

    def __init__(self, kernel: Kernel, rehearsed: int | None = None) -> None:
        self._kernel, self.unread = kernel, kernel.unread
        self.limit_in_force = kernel.limit
        self._base = kernel.limit()
        self._rehearsed = rehearsed
        self.module = kernel.module
        self._rehearsed_buckets: int | None = None

    def limit(self) -> int | None:
        """Return the rehearsed limit, or the one in force if there is none."""
        in_force = self._kernel.limit()
        if in_force != self._base:
            self._base, self._rehearsed, self._rehearsed_buckets = in_force, None, None
        return in_force if self._rehearsed is None else self._rehearsed

    def set_limit(self, target: int) -> int:
        """Remember `target`."""
        self._rehearsed = target
        return target

    def not_writable(self) -> None:
        """Return None: a dry run writes nothing."""

    def buckets(self) -> int | None:
        """Return the rehearsed buckets, or the real ones."""
        return self._rehearsed_buckets or self._kernel.buckets()

    def set_buckets(self, target: int) -> int:
        """Remember `target`."""
        self._rehearsed_buckets = target
        return target
