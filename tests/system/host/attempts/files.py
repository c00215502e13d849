"""Attempts on files."""

from __future__ import annotations

import os
import time
from pathlib import Path

from frame import CODE, WRITE, Absent, Targets, attempt, create, either, opens

_WRITER_SECONDS = 3.0


def _creates(*folders: str) -> str:
    return either(*((lambda folder=folder: create(folder)) for folder in folders))


@attempt(CODE)
def etc(_: Targets) -> str:
    """Write /etc."""
    return _creates("/etc", "/etc/cron.d", "/etc/systemd/system", "/etc/conntrackd-guard")


@attempt(CODE)
def sysctl_files(_: Targets) -> str:
    """Plant kernel.core_pattern in /etc/sysctl.d."""
    return _creates("/etc/sysctl.d", "/run/sysctl.d", "/usr/lib/sysctl.d")


@attempt(CODE)
def sysctl_request(_: Targets) -> str:
    """Plant kernel.core_pattern through the writer of /etc/sysctl.d."""
    line = "net.netfilter.nf_conntrack_max = 300000\nkernel.core_pattern = |/attempt\n"
    request = Path("/run/conntrackd-guard/drop-in.request")
    request.write_text(line, encoding="ascii")
    end = time.monotonic() + _WRITER_SECONDS
    while time.monotonic() < end:
        if any("core_pattern = |/attempt" in path.read_text("utf-8") for path in Path("/etc/sysctl.d").glob("*.conf")):
            return "it was written"
        time.sleep(0.1)
    request.unlink(missing_ok=True)
    raise PermissionError(1, "it was not written")


@attempt(CODE)
def usr(_: Targets) -> str:
    """Write /usr."""
    return _creates("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/local/bin", "/usr/lib/python3/dist-packages")


@attempt(CODE)
def var(_: Targets) -> str:
    """Write /var."""
    return _creates(
        "/var", "/var/lib", "/var/log", "/var/log/journal", "/var/spool/cron", "/var/cache", "/var/lib/systemd"
    )


@attempt(CODE)
def runtime(_: Targets) -> str:
    """Write /run."""
    return _creates(
        "/run", "/run/systemd/system", "/run/systemd", "/run/netns", "/run/udev/rules.d", "/run/log/journal"
    )


@attempt(CODE)
def boot(_: Targets) -> str:
    """Write /boot and other directories of the root."""
    return _creates("/", "/boot", "/root", "/home", "/srv", "/opt", "/mnt", "/media")


@attempt(WRITE)
def shared_memory(_: Targets) -> str:
    """Write shared memory (/dev/shm) and queues of other processes."""
    return _creates("/dev/shm", "/dev/mqueue", "/dev/hugepages")  # noqa: S108 - that is the attempt


@attempt(WRITE)
def dev(_: Targets) -> str:
    """Write /dev."""
    return _creates("/dev")


@attempt(WRITE)
def terminal(targets: Targets) -> str:
    """Write to a terminal of root's."""
    if targets.terminal is None:
        raise Absent("no terminal was given")
    return opens(targets.terminal)


@attempt(WRITE)
def late_mounts(targets: Targets) -> str:
    """Write a file system that was mounted after the start."""
    if not targets.late:
        raise Absent("none was given")
    return _creates(*targets.late)


@attempt(WRITE)
def late_mount_below(targets: Targets) -> str:
    """Write a file system that was mounted below /etc after the start."""
    if targets.late_below is None:
        raise Absent("none was given")
    return create(targets.late_below)


@attempt(CODE)
def set_user_id(_: Targets) -> str:
    """Leave a program that runs as root for everyone (set-user-ID)."""
    path = "/tmp/attempt-suid"  # noqa: S108 - the sandbox has its own
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o700))
    os.chmod(path, 0o4755)  # noqa: S103 - that is the attempt
    os.unlink(path)
    return "set"
