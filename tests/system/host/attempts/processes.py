"""Attempts on other processes: their files, memory, descriptors, namespaces, signals and limits."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import resource
import signal
import time
from pathlib import Path

from frame import (
    CODE,
    KERNEL,
    SIGNAL,
    WRITE,
    Targets,
    anywhere,
    attempt,
    create,
    either,
    given,
    opens,
    reaches,
    syscall,
)


@attempt(CODE)
def cron_by_init(_: Targets) -> str:
    """Write /etc/cron.d through /proc/1/root."""
    return _etc("/proc/1/root")


def _etc(root: str) -> str:
    return either(lambda: create(f"{root}/etc/cron.d"), lambda: create(f"{root}/etc/systemd/system"))


@attempt(CODE)
def usr_by_init(_: Targets) -> str:
    """Write /usr/bin through /proc/1/root."""
    return create("/proc/1/root/usr/bin")


@attempt(CODE)
def unit_by_init(_: Targets) -> str:
    """Plant a unit in /run/systemd/system through /proc/1/root."""
    return create("/proc/1/root/run/systemd/system")


@attempt(CODE)
def memory_of_init(_: Targets) -> str:
    """Open the memory of PID 1 for writing."""
    return opens("/proc/1/mem")


@attempt(CODE)
def memory_of_root(targets: Targets) -> str:
    """Open the memory of a root process for writing."""
    return opens(f"/proc/{given(targets.root)}/mem")


@attempt(CODE)
def memory_of_root_by_init(targets: Targets) -> str:
    """Open the memory of a root process for writing through /proc/1/root."""
    return opens(f"/proc/1/root/proc/{given(targets.root)}/mem")


@attempt(CODE)
def cron_by_bare(targets: Targets) -> str:
    """Write /etc/cron.d through the root of a root process without capabilities."""
    return _etc(f"/proc/{given(targets.bare)}/root")


@attempt(CODE)
def cron_by_working_directory(targets: Targets) -> str:
    """Write through the working directory of a root process without capabilities."""
    return _etc(f"/proc/{given(targets.bare)}/cwd")


@attempt(WRITE)
def directories_of_all(targets: Targets) -> str:
    """Write /tmp and other directories that are open to all through the root of a root process."""
    folders = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - that is the attempt
    roots = (f"/proc/{given(targets.root)}/root", f"/proc/{given(targets.bare)}/root")
    return either(*((lambda path=f"{root}{folder}": create(path)) for root in roots for folder in folders))


@attempt(CODE)
def memory_of_bare(targets: Targets) -> str:
    """Open the memory of a root process without capabilities for writing."""
    return opens(f"/proc/{given(targets.bare)}/mem")


@attempt(CODE)
def memory_of_bare_by_itself(targets: Targets) -> str:
    """Open the memory of a root process without capabilities for writing through its own root."""
    pid = given(targets.bare)
    return opens(f"/proc/{pid}/root/proc/{pid}/mem")


@attempt(WRITE)
def descriptors_of_bare(targets: Targets) -> str:
    """Open a descriptor of a root process without capabilities again."""
    pid = given(targets.bare)
    return anywhere(lambda folder: opens(f"{folder}/{os.listdir(folder)[-1]}"), f"/proc/{pid}/fd")


@attempt(WRITE)
def state_of_the_peer(targets: Targets) -> str:
    """Write the state of another unit of the package through its root."""
    base = f"/proc/{given(targets.peer)}/root/var/lib/conntrackd-guard"
    try:
        return create(base)
    except OSError:
        return create(f"{base}/dry-run")


@attempt(CODE)
def memory_of_the_peer(targets: Targets) -> str:
    """Open the memory of another unit of the package for writing through its root."""
    return opens(f"/proc/1/root/proc/{given(targets.peer)}/mem")


@attempt(CODE)
def descriptor_of_bare(targets: Targets) -> str:
    """Take a descriptor of a root process without capabilities (pidfd_getfd)."""
    return f"descriptor {syscall('pidfd_getfd', syscall('pidfd_open', given(targets.bare), 0), 0, 0)}"


@attempt(CODE)
def descriptor_of_root(targets: Targets) -> str:
    """Take a descriptor of a root process (pidfd_getfd)."""
    return f"descriptor {syscall('pidfd_getfd', syscall('pidfd_open', given(targets.root), 0), 0, 0)}"


@attempt(CODE)
def write_into_bare(targets: Targets) -> str:
    """Write the memory of a root process without capabilities (process_vm_writev)."""
    byte = ctypes.create_string_buffer(1)
    own, its = (array.array("L", [address, 1]).tobytes() for address in (ctypes.addressof(byte), 0))
    try:
        syscall("process_vm_writev", given(targets.bare), own, 1, its, 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:  # it has nothing at that address
            raise
    return "process_vm_writev: it may write there"


@attempt(KERNEL)
def read_from_root(targets: Targets) -> str:
    """Read the memory of a root process (process_vm_readv)."""
    return f"process_vm_readv: {syscall('process_vm_readv', given(targets.root), None, 0, None, 0, 0)}"


@attempt(CODE)
def trace_bare(targets: Targets) -> str:
    """Trace a root process without capabilities (ptrace)."""
    syscall("ptrace", 0x4206, given(targets.bare), 0, 0)  # PTRACE_SEIZE; ends with this process
    return "seized"


@attempt(CODE)
def trace_root(targets: Targets) -> str:
    """Trace a root process (ptrace)."""
    syscall("ptrace", 0x4206, given(targets.root), 0, 0)
    return "seized"


@attempt(KERNEL)
def compare(targets: Targets) -> str:
    """Compare the descriptors of two processes (kcmp)."""
    return f"kcmp: {syscall('kcmp', os.getpid(), given(targets.bare), 0, 0, 0)}"


@attempt(KERNEL)
def advise(targets: Targets) -> str:
    """Page out the memory of another process (process_madvise)."""
    return reaches("process_madvise", syscall("pidfd_open", given(targets.bare), 0), None, 0, 21, 0)


@attempt(CODE)
def enter_init(_: Targets) -> str:
    """Enter the mount namespace of PID 1 (setns)."""
    return anywhere(lambda path: f"setns: {syscall('setns', os.open(path, os.O_RDONLY), 0)}", "/proc/1/ns/mnt")


@attempt(CODE)
def enter_any(_: Targets) -> str:
    """Enter any namespace (setns)."""
    return reaches("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0)


@attempt(SIGNAL)
def kill(targets: Targets) -> str:
    """Signal a root process (kill)."""
    os.kill(given(targets.root), signal.SIGURG)  # ignored by default
    return "kill worked"


@attempt(SIGNAL)
def kill_thread(targets: Targets) -> str:
    """Signal a root process (tkill, tgkill)."""
    pid = given(targets.root)
    return either(lambda: reaches("tkill", pid, signal.SIGURG), lambda: reaches("tgkill", pid, pid, signal.SIGURG))


@attempt(SIGNAL)
def kill_by_descriptor(targets: Targets) -> str:
    """Signal a root process (pidfd_send_signal)."""
    return reaches("pidfd_send_signal", syscall("pidfd_open", given(targets.root), 0), signal.SIGURG, None, 0)


@attempt(SIGNAL)
def kill_with_value(targets: Targets) -> str:
    """Signal a root process (rt_sigqueueinfo, rt_tgsigqueueinfo)."""
    pid, info = (
        given(targets.root),
        ctypes.create_string_buffer(array.array("i", [signal.SIGURG, 0, -1]).tobytes(), 128),
    )
    return either(
        lambda: reaches("rt_sigqueueinfo", pid, signal.SIGURG, info),
        lambda: reaches("rt_tgsigqueueinfo", pid, pid, signal.SIGURG, info),
    )


@attempt(SIGNAL)
def kill_by_input(targets: Targets) -> str:
    """Kill a root process with the signal for input (F_SETOWN, F_SETSIG)."""
    pid = given(targets.prey)
    read, write = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETOWN, pid)
    fcntl.fcntl(read, 10, signal.SIGKILL)  # F_SETSIG
    fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)
    os.write(write, b"x")
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        if _ended(pid):
            return "it ended"
        time.sleep(0.01)
    raise PermissionError(1, "it runs")


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@attempt(SIGNAL)
def limit_resources(targets: Targets) -> str:
    """Set a resource limit of a root process (prlimit)."""
    pid = given(targets.root)
    return f"set to {resource.prlimit(pid, resource.RLIMIT_CPU, resource.prlimit(pid, resource.RLIMIT_CPU))}"


@attempt(SIGNAL)
def prioritize(targets: Targets) -> str:
    """Set the priority of a root process."""
    pid = given(targets.root)
    return either(lambda: reaches("setpriority", 0, pid, 0), lambda: reaches("sched_setscheduler", pid, 0, None))


@attempt(SIGNAL)
def oom_score(targets: Targets) -> str:
    """Make a root process the first victim of the OOM killer."""
    return opens(f"/proc/{given(targets.root)}/oom_score_adj")
