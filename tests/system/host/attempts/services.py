"""Attempts on services, by their sockets, and on the network."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator

from frame import CODE, KERNEL, SIGNAL, Absent, Targets, anywhere, attempt, either, opens

_OWN_SOCKETS = ("/run/systemd/journal/", "/run/systemd/notify", "/run/conntrackd-guard/")
"""Sockets that the guard needs: anyone on the host may send to the first, and PID 1 checks the sender of the second."""


@attempt(CODE)
def service_manager(_: Targets) -> str:
    """Connect to /run/systemd/private."""
    return connects("/run/systemd/private")


@attempt(CODE)
def system_bus(_: Targets) -> str:
    """Connect to the system bus."""
    return either(lambda: connects("/run/dbus/system_bus_socket"), lambda: connects("/var/run/dbus/system_bus_socket"))


@attempt(CODE)
def transient_unit(_: Targets) -> str:
    """Start a unit with systemd-run."""
    done = subprocess.run(
        ["systemd-run", "--wait", "--quiet", "/bin/true"], capture_output=True, timeout=30, check=False
    )
    if done.returncode != 0:
        raise PermissionError(1, done.stderr.decode(errors="replace"))
    return "a root process of PID 1 ran"


@attempt(SIGNAL)
def managed_oom(_: Targets) -> str:
    """Connect to io.systemd.ManagedOOM."""
    return connects("/run/systemd/io.system.ManagedOOM")


@attempt(KERNEL)
def user_database(_: Targets) -> str:
    """Connect to a service of the user database."""
    return connects_to_any("/run/systemd/userdb")


@attempt(CODE)
def docker(_: Targets) -> str:
    """Connect to Docker."""
    return connects("/run/docker.sock")


@attempt(CODE)
def containerd(_: Targets) -> str:
    """Connect to containerd."""
    return connects("/run/containerd/containerd.sock")


@attempt(CODE)
def podman(_: Targets) -> str:
    """Connect to Podman."""
    return connects("/run/podman/podman.sock")


@attempt(CODE)
def snapd(_: Targets) -> str:
    """Connect to snapd."""
    return connects("/run/snapd.socket")


@attempt(CODE)
def libvirt(_: Targets) -> str:
    """Connect to libvirt."""
    return connects("/run/libvirt/libvirt-sock")


@attempt(CODE)
def udev(_: Targets) -> str:
    """Connect to udev's control socket."""
    return connects("/run/udev/control")


@attempt(SIGNAL)
def initctl(_: Targets) -> str:
    """Open /run/initctl for writing."""
    return opens("/run/initctl")


@attempt(CODE)
def mail_queue(_: Targets) -> str:
    """Open a FIFO or a socket of a service under /var."""
    return either(lambda: opens("/var/spool/attempts/fifo"), lambda: connects("/var/spool/attempts/socket"))


@attempt(CODE)
def any_socket(_: Targets) -> str:
    """Reach a socket or FIFO anywhere that the guard does not need."""
    for path, mode in _sockets("/run", "/var", "/etc", "/dev", "/opt", "/srv", "/root", "/home"):
        try:
            return connects(path) if stat.S_ISSOCK(mode) else opens(path)
        except OSError:
            continue
    raise PermissionError(1, "none was found, or each refused")


def _sockets(*folders: str) -> Iterator[tuple[str, int]]:
    for folder in folders:
        for place, _, names in os.walk(folder):
            for path in (f"{place}/{name}" for name in names):
                try:
                    mode = os.lstat(path).st_mode
                except OSError:
                    continue
                if (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)) and not path.startswith(_OWN_SOCKETS):
                    yield path, mode


@attempt(KERNEL)
def abstract_stream(targets: Targets) -> str:
    """Connect to an abstract socket of the host's network namespace."""
    return connects(_abstract(targets))


@attempt(KERNEL)
def abstract_datagrams(targets: Targets) -> str:
    """Send a datagram to an abstract socket of the host's network namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        return f"sent {sender.sendto(b'attempt', _abstract(targets) + '-datagrams')} bytes"


def _abstract(targets: Targets) -> str:
    if targets.abstract is None:
        raise Absent("no abstract socket was given")
    return f"\0{targets.abstract}"


def connects(address: str) -> str:
    """Connect to a local socket of any type; return where. Raises OSError of the last type."""
    return _connects(address) if address.startswith("\0") else anywhere(_connects, address)


def _connects(address: str) -> str:
    if not address.startswith("\0"):
        os.stat(address)
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as client:
            try:
                client.connect(address)
            except OSError:
                if kind is socket.SOCK_STREAM:
                    raise
            else:
                return f"connected to {address!r}"
    raise AssertionError


def connects_to_any(folder: str) -> str:
    """Connect to the first socket in a folder that answers. Raises OSError."""
    for name in os.listdir(folder):
        try:
            return connects(f"{folder}/{name}")
        except OSError:
            continue
    raise PermissionError(1, "each refused")


@attempt(KERNEL)
def internet(_: Targets) -> str:
    """Open a network socket."""
    return opens_sockets((socket.AF_INET, socket.SOCK_STREAM, 0), (socket.AF_INET6, socket.SOCK_DGRAM, 0))


@attempt(KERNEL)
def raw(_: Targets) -> str:
    """Open a raw or a packet socket."""
    return opens_sockets((socket.AF_INET, socket.SOCK_RAW, 1), (17, socket.SOCK_RAW, 0))


@attempt(KERNEL)
def netlink(_: Targets) -> str:
    """Open a netlink socket."""
    return opens_sockets((16, socket.SOCK_RAW, 0), (16, socket.SOCK_RAW, 9), (16, socket.SOCK_RAW, 15))


@attempt(KERNEL)
def exotic(_: Targets) -> str:
    """Open a socket of another family (VSOCK, ALG, KEY)."""
    return opens_sockets((40, socket.SOCK_STREAM, 0), (38, socket.SOCK_SEQPACKET, 0), (15, socket.SOCK_RAW, 2))


def opens_sockets(*kinds: tuple[int, int, int]) -> str:
    """Open the first socket that is allowed. Raises OSError."""
    refused: OSError = PermissionError(1, "")
    for kind in kinds:
        try:
            socket.socket(*kind).close()
        except OSError as error:
            refused = error
        else:
            return f"opened {kind}"
    raise refused
