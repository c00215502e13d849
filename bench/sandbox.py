"""Isolate a run, so that nothing that it writes or starts outlives it.

Private mounts hide this machine's /etc, /run, /var/lib and /var/log from the guard and from the journald of the bench;
in a process namespace of its own the kernel ends every process when the first one dies, however it dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_CLONE_NEWPID = 0x20000000
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ENDED_BY_SIGNAL = 130
_SIZE = "3g"
"""Of one tmpfs: 1 GiB of journal, and as much for the files of the rows."""


def run_isolated(work: Callable[[], int]) -> int:
    """Return the exit code of `work`, run as the first process of private namespaces. Raises OSError without root."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "could not make private namespaces: run it as root")
    child = os.fork()
    if child == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os._exit(_first_process(work))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGKILL))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else _ENDED_BY_SIGNAL


def _first_process(work: Callable[[], int]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent takes it, and ends this process
    try:
        _mount()
        code = work()
    except Exception:  # noqa: BLE001  the last place that can say why
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _mount() -> None:
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "proc", "proc", "/proc")
    for folder in ("/run", "/var/lib", "/var/log"):
        _run("mount", "-t", "tmpfs", "-o", f"mode=755,size={_SIZE}", "tmpfs", folder)
    _run("cp", "-a", "/etc", "/run/etc")
    _run("mount", "--bind", "/run/etc", "/etc")
    for folder in ("/etc/conntrackd-guard", "/etc/sysctl.d"):
        _run("rm", "-rf", folder)
    for folder in ("/etc/sysctl.d", "/run/lock", "/var/log/journal"):
        Path(folder).mkdir(parents=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
