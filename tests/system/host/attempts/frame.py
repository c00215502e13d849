"""One function an attempt to leave a sandbox, and its result as data.

An attempt returns how it got through. It raises OSError if it was refused, and Absent if this host lacks the target.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass

CODE = "runs code outside the sandbox"
WRITE = "writes a file outside its own"
SIGNAL = "ends or disturbs another process"
KERNEL = "reaches a part of the kernel that the guard does not use"
"""What it gives whoever gets through. CODE and WRITE are never acceptable."""

NUMBERS = {
    "ptrace": 101, "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169, "sethostname": 170, "iopl": 172,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "tkill": 200, "io_setup": 206, "settimeofday": 164,
    "pivot_root": 155, "chroot": 161, "acct": 163, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
    "tgkill": 234, "rt_sigqueueinfo": 129, "unshare": 272, "perf_event_open": 298, "rt_tgsigqueueinfo": 297,
    "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "pidfd_send_signal": 424,
    "io_uring_setup": 425, "open_tree": 428, "fsopen": 430, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "pidfd_open": 434, "setgid": 106, "setresgid": 119, "setgroups": 116, "capset": 126,
    "setpriority": 141, "sched_setscheduler": 144, "syslog": 103, "mknod": 133, "prlimit64": 302, "chown": 92,
}  # fmt: skip
"""arch/x86/entry/syscalls/syscall_64.tbl"""
REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS}


class Absent(Exception):  # noqa: N818 - not an error: this host can't be attacked this way
    """This host lacks the target."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Processes and names outside the sandbox that an attempt may aim at; None: this host has none."""

    root: int | None = None
    """A root process with all capabilities."""
    bare: int | None = None
    """A root process without capabilities, in the host's mount namespace."""
    peer: int | None = None
    """The main process of another unit of the package."""
    prey: int | None = None
    """A root process that may be killed."""
    abstract: str | None = None
    """The name of an abstract socket that a root process listens on; the datagram socket's ends with `-datagrams`."""
    late: tuple[str, ...] = ()
    """Directories on which a file system was mounted after the sandbox was made."""
    late_below: str | None = None
    """Such a directory below one that the sandbox shows."""
    terminal: str | None = None
    """The path of a terminal of root's."""
    helper: str | None = None
    """A file whose function `confine` is called first: that of the helper for owners."""
    host: str = ""
    """Where a container has files of the host: they are tried too."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way out of the sandbox."""

    name: str
    effect: str
    call: Callable[[Targets], str]

    def result(self, targets: Targets) -> dict[str, str]:
        """Try it; return id, name, effect, result (refused, possible or absent) and detail."""
        try:
            result, detail = "possible", self.call(targets)
        except Absent as error:
            result, detail = "absent", str(error)
        except OSError as error:
            result, detail = "refused", f"{errno.errorcode.get(error.errno or 0, '?')} {error.filename or ''}".strip()
        return {"id": self.call.__name__, "name": self.name, "effect": self.effect, "result": result, "detail": detail}


ATTEMPTS: list[Attempt] = []
PREFIXES = [""]
"""Put before each path, in turn: `Targets.host` comes first."""


def attempt(effect: str) -> Callable[[Callable[[Targets], str]], Callable[[Targets], str]]:
    """Add the function to the list. Its docstring's first line is the name."""

    def add(call: Callable[[Targets], str]) -> Callable[[Targets], str]:
        name = (call.__doc__ or call.__name__).splitlines()[0].rstrip(".")
        ATTEMPTS.append(Attempt(name, effect, call))
        return call

    return add


def given(target: int | None) -> int:
    """Return the process id. Raises Absent."""
    if target is None:
        raise Absent("no such process was given")
    return target


def syscall(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call the kernel; return its answer. Raises OSError if it fails."""
    if platform.machine() != "x86_64":
        raise Absent("the numbers of system calls are those of x86_64")
    libc = ctypes.CDLL(None, use_errno=True)
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    answer = int(libc.syscall(ctypes.c_long(NUMBERS[name]), *wide))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def reaches(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> str:
    """Call the kernel with arguments that can't work; return its complaint. Raises OSError if the call is refused."""
    try:
        syscall(name, *arguments)
    except OSError as error:
        if error.errno in REFUSALS:
            raise
        return f"{name}: {errno.errorcode.get(error.errno or 0)}"
    return f"{name} worked"


def anywhere(call: Callable[[str], str], path: str) -> str:
    """Call it with the path of the host, then of the container; return what it returns. Raises OSError of the last."""
    is_process = re.match("/proc/[0-9]", path) is not None  # a container has other processes of that number
    prefixes = PREFIXES[:1] if is_process else PREFIXES
    return either(*((lambda prefix=prefix: call(f"{prefix}{path}")) for prefix in prefixes))


def create(folder: str) -> str:
    """Create a file in the folder and remove it; return its path. Raises OSError."""
    return anywhere(_create, f"{folder}/conntrackd-guard-attempt")


def _create(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.unlink(path)
    return f"created {path}"


def opens(path: str) -> str:
    """Open a file for writing, and write nothing; return its path. Raises OSError."""
    return anywhere(_opens, path)


def _opens(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
    return f"opened {path} for writing"


def either(*calls: Callable[[], str]) -> str:
    """Return what the first of these calls returns that is not refused. Raises OSError of the last."""
    error: OSError = FileNotFoundError(2, "nothing to try")
    for call in calls:
        try:
            return call()
        except OSError as refused:
            error = refused
    raise error


def in_a_child(call: Callable[[], str]) -> str:
    """Call it in a child, because it would change this process. Raises OSError if it is refused."""
    if (child := os.fork()) == 0:
        try:
            call()
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise OSError(abs(code), os.strerror(abs(code)))
    return "it worked"
